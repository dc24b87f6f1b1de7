"""`enchanted agents`, `sql`, `decisions` and `export`, as they are typed, against the API."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
from pathlib import Path

import pyarrow.parquet
import pytest

from enchanted.cluster import cli
from enchanted.schemas.events import kind_of
from enchanted.serve.testing import History, World


class Typed:
    """A command line against the world's API: the exit code, and what came out."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self._where = ["--url", world.url, "--token-file", str(world.token_file)]
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        # In a thread, since the API answers in this one.
        code = await asyncio.to_thread(cli.execute, [*arguments, *self._where])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def typed(world: World, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(world, capsys)


async def test_statistics_are_a_table_or_a_document(typed: Typed, history: History) -> None:
    code, table, _ = await typed("agents", history.run)
    _, text, _ = await typed("agents", history.run, "--json", "--by", "name", "--bucket", "day")

    assert code == 0
    ids = {stored.event.agent_id for stored in history.events}
    assert {line.split("\t")[0] for line in table.splitlines()} == ids
    assert {row["agent"] for row in json.loads(text)["data"]} == {"coder-1", "orchestrator"}


async def test_facets_are_a_table_or_a_document_and_say_what_is_cut(typed: Typed, history: History) -> None:
    code, table, said = await typed("facets", history.run, "--kind", "state_change")
    _, text, cut = await typed("facets", history.run, "--json", "--limit", "1")
    _, _, hint = await typed("facets", history.run, "--limit", "1")

    rows = [line.split("\t") for line in table.splitlines()]
    changes = sum(kind_of(stored.event) == "state_change" for stored in history.events)
    assert (code, said) == (0, "")
    assert ["kind", "state_change", str(changes)] in [row[:3] for row in rows]
    assert json.loads(text)["meta"]["events"] == len(history.events)
    assert (cut, hint.count("--limit 2")) == ("", 1)


async def test_sql_is_a_table_or_a_document_and_a_bad_one_says_why(typed: Typed, history: History) -> None:
    code, table, said = await typed(
        "sql", "SELECT 1, concat('x', char(9), 'y', char(27), '[31m'), NULL, [1, 2]", "--limit", "5"
    )
    _, text, cut = await typed("sql", "SELECT stream_seq FROM events", "--json", "--limit", "2")
    refused, nothing, why = await typed("sql", "DROP TABLE events")

    assert (code, table, said) == (0, "1\tx y\ufffd[31m\t\t[1,2]\n", "")
    assert len(json.loads(text)["rows"]) == 2
    assert "--limit" in cut
    assert (refused, nothing) == (2, "")
    cause, remedy = why.splitlines()
    assert cause == "error: The query is not allowed"
    assert remedy.startswith("remedy: a query begins with SELECT or WITH")


async def test_sql_may_come_from_standard_input(
    typed: Typed, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 7 -- seven\n"))

    assert (await typed("sql", "-"))[:2] == (0, "7\n")


async def test_decisions_are_listed_with_what_was_taken_back(typed: Typed, history: History) -> None:
    code, _, _ = await typed("decisions", history.run, "--below", "2")
    _, text, _ = await typed("decisions", history.run, "--json")

    assert code == 0
    assert json.loads(text)["meta"] == {"below": 0.5, "truncated": False}


async def test_an_export_is_a_file_or_lines(typed: Typed, history: History, tmp_path: Path) -> None:
    file = tmp_path / "run.parquet"

    code, nothing, _ = await typed("export", history.run, "--format", "parquet", "--output", str(file))
    _, lines, _ = await typed("export", history.run)

    assert (code, nothing) == (0, "")
    assert pyarrow.parquet.read_table(file).column("seq").to_pylist() == [s.seq for s in history.events]
    assert [json.loads(line)["seq"] for line in lines.splitlines()] == [s.seq for s in history.events]


async def test_an_export_says_in_json_what_it_wrote_where(typed: Typed, history: History, tmp_path: Path) -> None:
    for name, *how in (("run.ndjson", "--output"), ("run.parquet", "--format", "parquet", "--output")):
        file = tmp_path / name
        code, text, _ = await typed("export", history.run, "--json", *how, str(file))
        content = file.read_bytes()
        assert (code, json.loads(text)) == (0, {
            "file": str(file), "run": history.run, "format": file.suffix[1:], "since": None, "until": None,
            "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
        })  # fmt: skip
    page = tmp_path / "run.html"
    code, text, _ = await typed("export", history.run, "--json", "--html", str(page))
    told = json.loads(text)
    assert (code, told["format"], told["file"], told["bytes"]) == (0, "html", str(page), page.stat().st_size)
    refused, nothing, why = await typed("export", history.run, "--json")
    assert (refused, nothing, why.splitlines()[1][:27]) == (2, "", "remedy: give --output FILE;")


async def test_a_diff_is_a_document_too_and_play_is_lines_of_them(typed: Typed, history: History) -> None:
    first, last = history.events[2].seq, history.events[-1].seq
    where = ["diff", history.run, "--from", str(first), "--to", str(last)]
    _, patch, _ = await typed(*where)
    code, text, _ = await typed(*where, "--json")
    asked = {"run_id": history.run, "from": first, "to": last, "workspace": "main"}
    assert (code, json.loads(text)) == (0, {**asked, "patch": patch})
    assert patch.startswith("diff --git")
    fast = ["--speed", "100000", "--gap", "0"]
    code, lines, _ = await typed("play", history.run, *fast, "--json")
    assert [json.loads(line)["seq"] for line in lines.splitlines()] == [stored.seq for stored in history.events]
    assert lines == (await typed("play", history.run, *fast, "--output", "ndjson"))[1]


async def test_an_export_that_cannot_be_leaves_nothing_behind(typed: Typed, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"

    missing, _, why = await typed("export", "nobody", "--output", str(file))
    nowhere, _, because = await typed("export", "--output", str(tmp_path / "no" / "where"))

    assert (missing, nowhere) == (3, 2)
    assert "No such run" in why
    assert "cannot be written" in because
    assert not any(tmp_path.glob("*"))  # noqa: ASYNC240 - an empty folder of the test


async def test_an_export_spares_whatever_is_at_its_target(typed: Typed, history: History, tmp_path: Path) -> None:
    lines = (await typed("export", history.run))[1].encode()
    own, victim, link, dangling = (tmp_path / name for name in ("y.nd.part", "victim", "link", "dangling"))
    own.write_bytes(b"mine")
    victim.write_bytes(b"old")
    victim.chmod(0o640)
    link.symlink_to(victim)
    dangling.symlink_to(tmp_path / "later")
    (tmp_path / "x.nd.part").symlink_to(own)
    (tmp_path / "z.nd.part").mkdir()

    for name in ("x.nd", "y.nd", "z.nd", "link", "dangling"):
        assert (await typed("export", history.run, "-o", str(tmp_path / name)))[0] == 0
        assert (tmp_path / name).read_bytes() == lines

    assert (own.read_bytes(), victim.read_bytes(), victim.stat().st_mode & 0o777) == (b"mine", lines, 0o640)
    assert (link.is_symlink(), dangling.is_symlink(), (tmp_path / "later").is_file()) == (True, True, True)
    assert (await typed("export", "nobody", "-o", str(victim)))[0] == 3
    assert victim.read_bytes() == lines
    left = {"x.nd", "y.nd", "z.nd", "x.nd.part", "y.nd.part", "z.nd.part", "link", "dangling", "later", "victim"}
    assert {one.name for one in tmp_path.iterdir()} == left  # noqa: ASYNC240 - a folder of the test


async def test_an_export_goes_into_a_device_or_a_pipe_as_it_is(typed: Typed, history: History, tmp_path: Path) -> None:
    lines = (await typed("export", history.run))[1].encode()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    (code, _, _), read = await asyncio.gather(
        typed("export", history.run, "-o", str(pipe)), asyncio.to_thread(pipe.read_bytes)
    )
    full, _, why = await typed("export", history.run, "-o", "/dev/full")

    assert (code, read, pipe.is_fifo()) == (0, lines, True)
    assert (await typed("export", history.run, "-o", "/dev/null"))[0] == 0
    assert Path("/dev/null").is_char_device()  # noqa: ASYNC240 - a device
    assert full == 2
    assert why.startswith("error: /dev/full cannot be written: No space left on device\nremedy: name another file")


@pytest.mark.parametrize("name", ["", ".", "/"])
async def test_an_export_into_a_folder_says_that_it_is_one(
    typed: Typed, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)

    code, _, why = await typed("export", history.run, "-o", name)

    assert code == 2
    assert "is a folder\nremedy: name a file, such as" in why
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - an empty folder of the test


async def test_a_preview_is_a_document_too_and_nothing_is_done(typed: Typed, history: History, tmp_path: Path) -> None:
    change = next(s for s in reversed(history.events) if s.event.HasField("state_change"))
    for arguments, names in (
        (("restore", history.run, "--into", str(tmp_path / "there")), {"write", "delete", "at", "into"}),
        (("undo", history.run, change.event.event_id), {"patch"}),
    ):
        code, text, why = await typed(*arguments, "--json")
        assert text, why
        assert names <= json.loads(text).keys(), arguments
        assert (code, why.splitlines()[0]) == (2, "error: nothing was changed: this was the preview")
    assert not (tmp_path / "there").exists()
