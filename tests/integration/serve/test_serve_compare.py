"""Two runs whose files differ: what the comparison says of each file, how much of it, and what is typed to see it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.cli import execute
from enchanted.schemas.events import run_transition, state_change
from enchanted.serve.client import ApiClient
from enchanted.serve.client_errors import ApiSlow
from enchanted.serve.moments import file_diffs
from enchanted.serve.testing import Files, World

LONG = b"".join(b"line %d\n" % number for number in range(8_000))
A: Files = {
    "b.bin": b"\0one",
    "gone.txt": b"it was here\n",
    "große datei.txt": LONG,
    "huge.txt": b"x" * (file_diffs.LARGEST + 1),
    "latin.txt": b"caf\xe9\n",
    "same.txt": b"same\n",
    "turned": b"a file\n",
    "word.py": b"a = 1\nb = 2\n",
}
B: Files = {
    "b.bin": b"\0two",
    "große datei.txt": LONG.replace(b"line", b"zeile"),
    "huge.txt": b"y",
    "latin.txt": b"caf\xe8\n",
    "new.txt": b"\x1b[31mred\x0b-two\x0c+three\n",
    "same.txt": b"same\n",
    "turned": b"-> same.txt",
    "word.py": b"a = 1\nb = 3\n",
}


async def told(world: World, run: str, files: Files, *, bundle: bool = True) -> None:
    """A run that began with these files and did nothing."""
    home = world.folder / run
    await asyncio.to_thread(_committed, home / "user", files)
    repository = await ShadowRepository.create(home / "repo.git", home / "user")
    tree = repository.base_tree
    base = state_change(
        workspace_id="main", previous_tree=repository.empty_tree, new_tree=tree, patch="",
        files=await repository.list(tree), reason="base", resource="user",
        content_sha256=await world.bus.blobs.put(await repository.bundle(tree)) if bundle else "",
    )  # fmt: skip
    log = AgentLog(world.bus, run_id=run, role="operator", agent_name="orchestrator")
    created = run_transition(subject="run", from_state="", to_state="created", reason=run)
    await log.emit(created, base)
    await world.stored(run, 2)


def _committed(folder: Path, files: Files) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content.startswith(b"-> "):
            (folder / name).symlink_to(content[3:].decode())
        else:
            (folder / name).write_bytes(content)
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "base")):
        subprocess.run(["git", *arguments], cwd=folder, check=True, timeout=20)


@pytest.fixture(scope="module")
async def pair(world: World) -> tuple[str, str]:
    await told(world, "compare-a", A)
    await told(world, "compare-b", B)
    return "compare-a", "compare-b"


async def test_each_file_that_differs_has_its_unified_diff_or_says_why_not(world: World, pair: tuple[str, str]) -> None:
    document = await world.document("runs/compare-a/compare/compare-b", diffs=True)
    found = {file["path"]: (file["diff"], file["diff_note"]) for file in document["files"]}

    assert (document["diffs_unavailable"], document["files_differing"]) == ("", 8)
    assert found["word.py"][0].endswith("--- a/word.py\n+++ b/word.py\n@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n+b = 3\n")
    assert found["gone.txt"][0].endswith("+++ /dev/null\n@@ -1 +0,0 @@\n-it was here\n")
    assert found["new.txt"][0].endswith("+++ b/new.txt\n@@ -0,0 +1 @@\n+\x1b[31mred\x0b-two\x0c+three\n")
    assert found["latin.txt"][0].endswith("-caf\\xe9\n+caf\\xe8\n")
    assert {found[name][1] for name in ("word.py", "gone.txt", "new.txt", "latin.txt")} == {""}
    assert "-a file\n" in found["turned"][0]
    assert "+same.txt\n" in found["turned"][0]
    assert found["b.bin"] == ("", "binary")
    assert found["huge.txt"] == ("", "too large")
    text, note = found["große datei.txt"]
    assert (note, text[-1]) == ("cut", "\n")
    assert file_diffs.MOST_PER_FILE - 100 < len(text) <= file_diffs.MOST_PER_FILE


async def test_no_diff_is_made_unasked_and_the_other_way_round_the_sides_change(
    world: World, pair: tuple[str, str]
) -> None:
    unasked = await world.document("runs/compare-a/compare/compare-b")
    back = await world.document("runs/compare-b/compare/compare-a", diffs=True)

    assert {(file["diff"], file["diff_note"]) for file in unasked["files"]} == {("", "")}
    assert [file["path"] for file in back["files"]] == [file["path"] for file in unasked["files"]]
    (word,) = (file["diff"] for file in back["files"] if file["path"] == "word.py")
    assert word.endswith("-b = 3\n+b = 2\n")


@pytest.mark.parametrize(("limit", "value"), [("MOST_IN_ALL", 1), ("MOST_BYTES", 60)])
async def test_all_diffs_together_are_bounded_and_what_is_left_out_says_so(
    world: World, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(file_diffs, limit, value)
    document = await world.document("runs/compare-a/compare/compare-b", diffs=True)
    found = {file["path"]: (file["diff"], file["diff_note"]) for file in document["files"]}
    assert found["gone.txt"][0]
    assert found["große datei.txt"] == ("", "left out")


async def test_a_run_whose_files_are_past_rebuilding_is_compared_without_diffs(
    world: World, pair: tuple[str, str]
) -> None:
    await told(world, "compare-lost", B, bundle=False)
    document = await world.document("runs/compare-a/compare/compare-lost", diffs=True)
    assert "base bundle" in document["diffs_unavailable"]
    assert {(file["diff"], file["diff_note"]) for file in document["files"]} == {("", "unavailable")}
    assert document["files_differing"] == 8


async def test_compare_shows_cost_and_which_files_differ_and_asks_for_their_diffs_only_where_they_are_wanted(
    world: World, pair: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def typed(*more: str) -> tuple[dict[str, list[str]], str]:
        where = ["--url", world.url, "--token-file", str(world.token_file)]
        assert await asyncio.to_thread(execute, ["compare", *pair, *more, *where]) == 0
        captured = capsys.readouterr()
        rows = [line.split("\t") for line in captured.out.splitlines()]
        return {row[0]: row[1:] for row in rows}, captured.err

    rows, said = await typed()
    _, whole = await typed("--diffs")
    asked = ApiClient.compare

    def without_diffs(self: ApiClient, run: str, other: str, *, diffs: bool = False) -> dict[str, Any]:
        if diffs:
            raise ApiSlow(self.url, 150)
        return asked(self, run, other)

    monkeypatch.setattr(ApiClient, "compare", without_diffs)
    unasked = await typed()
    slow, why = await typed("--diffs")

    assert [len(rows[name]) for name in ("seconds", "input_tokens", "output_tokens")] == [2, 2, 2]
    assert "differs: word.py\n" in said
    assert "b = 3" not in said
    assert "  -b = 2\n  +b = 3\n" in whole
    assert "differs: b.bin (binary)\n" in whole
    assert "differs: große datei.txt (the diff goes on" in whole
    assert whole.count("\n  -line ") > 1_000
    assert "\x1b" not in said + whole
    assert "\n  +\ufffd[31mred\ufffd-two\ufffd+three\n" in whole, "one line of a file is one line here"
    assert unasked == (rows, said)
    assert slow == rows
    assert "differs: word.py\n" in why
    assert "no diffs: the API at" in why
