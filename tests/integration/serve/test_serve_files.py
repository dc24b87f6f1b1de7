"""One file of a run: every change of it, who wrote each line; variables; names that are not UTF-8."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.workspace import Workspace
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.fields import FILES
from enchanted.cluster.cli import execute
from enchanted.schemas.events import (
    StoredEvent,
    SwarmEvent,
    decision,
    run_of,
    run_transition,
    state_change,
    tool_call,
)
from enchanted.schemas.gen.events_pb2 import FieldBlob
from enchanted.serve.errors import ContentDelayed
from enchanted.serve.moments import lineage
from enchanted.serve.moments.contents import Contents
from enchanted.serve.testing import History, World


def seqs_of(history: History, reason: str) -> list[int]:
    return [stored.seq for stored in history.events if stored.event.state_change.reason == reason]


async def test_the_history_of_a_file_names_every_change_of_it_through_its_rename(
    world: World, history: History
) -> None:
    base, first, *_ = seqs_of(history, "base") + seqs_of(history, "merge")
    moved, mode = seqs_of(history, "merge")[2:4]
    found = await world.document(f"runs/{history.run}/history", path="b c.py", at=mode)
    assert [(one["seq"], one["path"], one["reason"]) for one in found["data"]] == [
        (base, "a.py", "base"),
        (first, "a.py", "merge"),
        (moved, "b c.py", "merge"),
        (mode, "b c.py", "merge"),
    ]
    assert [one["new_mode"] for one in found["data"]] == ["100644", "100644", "100644", "100755"]
    assert found["data"][1]["old_blob"] == found["data"][0]["new_blob"]
    gone = await world.document(f"runs/{history.run}/history", path="b c.py")
    assert (gone["data"][-1]["new_blob"], gone["data"][-1]["reason"]) == ("", "rollback")
    early = await world.document(f"runs/{history.run}/history", path="a.py", at=base)
    assert [one["seq"] for one in early["data"]] == [base]


async def test_each_line_is_ascribed_to_the_change_that_wrote_it(world: World, history: History) -> None:
    first = seqs_of(history, "merge")[0]
    for path, at in (("a.py", first), ("b c.py", seqs_of(history, "merge")[3]), ("a.py", None)):
        found = await world.document(f"runs/{history.run}/blame", path=path, **({} if at is None else {"at": at}))
        assert [(line["seq"], line["text"]) for line in found["lines"]] == [
            (first, "print('b')"),
            (first, "print('ü')"),
        ], (path, at)
    dos, base = seqs_of(history, "merge")[5], seqs_of(history, "base")[0]
    found = await world.document(f"runs/{history.run}/blame", path="dos.txt", at=dos)
    assert [(line["seq"], line["text"]) for line in found["lines"]] == [(base, "one\r"), (dos, "2\r")]
    link = await world.document(f"runs/{history.run}/blame", path="link", at=dos)
    assert [line["text"] for line in link["lines"]] == ["dos.txt"]


async def test_what_has_no_lines_or_is_not_there_is_a_clear_problem(world: World, history: History) -> None:
    with_binary = seqs_of(history, "merge")[1]
    for resource, parameters, status, code in (
        ("blame", {"path": "data.bin", "at": with_binary}, 422, "binary-file"),
        ("blame", {"path": "nothing"}, 404, "path-not-found"),
        ("blame", {"path": "b c.py"}, 404, "path-not-found"),
        ("history", {"path": "a.py", "workspace": "w"}, 404, "path-not-found"),
        ("history", {"path_hex": "ff"}, 404, "path-not-found"),
        ("history", {"path_hex": "f"}, 422, "invalid-request"),
        ("history", {}, 400, "bad-request"),
        ("history", {"path": "a.py", "at": 0}, 404, "path-not-found"),
    ):
        response = await world.get(f"runs/{history.run}/{resource}", **parameters)
        assert response.status_code == status, (resource, parameters, response.text)
        if status != 422 or code == "binary-file":
            assert response.json()["code"] == code
    assert (await world.get("runs/nobody/history", path="a")).json()["code"] == "run-not-found"


class Team:
    """A lead and two coders on one repository, with task workspaces and merges."""

    def __init__(self, world: World, run: str, repository: ShadowRepository) -> None:
        self.world, self.run, self.repository = world, run, repository
        self.lead = AgentLog(world.bus, run_id=run, role="operator", agent_name="orchestrator")
        self.count = 0

    async def tell(self, log: AgentLog, *drafts: SwarmEvent) -> list[StoredEvent]:
        stored = await log.emit(*drafts)
        self.count += len(stored)
        return stored

    async def base(self, **request: object) -> str:
        tree = self.repository.base_tree
        files = await self.repository.list(tree)
        bundle = await self.world.bus.blobs.put(await self.repository.bundle(tree))
        created = run_transition(subject="run", from_state="", to_state="created", reason="r", details=request)  # type: ignore[arg-type]
        await self.tell(self.lead, created)
        await self.changed(self.lead, "main", self.repository.empty_tree, tree, "base", files=files, bundle=bundle)
        return tree

    async def changed(
        self, log: AgentLog, workspace: str, old: str, new: str, reason: str, *, task: str = "", cause: str = "",
        files: object = None, bundle: str = "",
    ) -> StoredEvent:  # fmt: skip
        patch = await self.repository.diff(old, new)
        draft = state_change(
            workspace_id=workspace, previous_tree=old, new_tree=new, patch="" if bundle else patch.text,
            files=patch.files if files is None else files, reason=reason, resource="r",  # type: ignore[arg-type]
            content_sha256=bundle, task_id=task, parent=cause,
        )  # fmt: skip
        return (await self.tell(log, draft))[0]


async def test_blame_names_the_coder_and_the_decision_behind_a_line_that_was_merged(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    home = world.folder / "run-blamed"
    await asyncio.to_thread(_commit, home / "user", {b"m.py": b"1\n2\n3\n4\n5\n", b"\xff.txt": b"odd\n"})
    repository = await ShadowRepository.create(home / "repo.git", home / "user")
    team = Team(world, "run-blamed", repository)
    main = base = await team.base()
    written = {}
    for number, content in ((1, b"one\n2\n3\n4\n5\n"), (2, b"1\n2\n3\n4\nfive\nsix\n")):
        coder = AgentLog(world.bus, run_id=team.run, role="coder", agent_name=f"coder-{number}")
        work = await Workspace.checkout(repository, home / f"w-{number}", base)
        (work.path / "m.py").write_bytes(content)
        tree = await work.snapshot()
        thought, used = await team.tell(
            coder,
            decision(context_hash="", trigger="", rationale="edit it", action={}),
            tool_call(tool="edit", arguments={}, outcome="OK"),
        )
        edit = await team.changed(
            coder, f"t-{number}.1", base, tree, "edit", task=f"t-{number}", cause=used.event.event_id
        )
        written[number] = (edit.seq, coder.agent_id, thought.event.event_id)
    for number, content in ((1, b"one\n2\n3\n4\n5\n"), (2, b"one\n2\n3\n4\nfive\nsix\n")):
        work = await Workspace.checkout(repository, home / f"m-{number}", main)
        (work.path / "m.py").write_bytes(content)
        tree = await work.snapshot()
        await team.changed(team.lead, "main", main, tree, "merge", task=f"t-{number}")
        main = tree
    await world.stored(team.run, team.count)
    found = await world.document(f"runs/{team.run}/blame", path="m.py")
    who = [(line["seq"], line["agent_id"], line["decision_id"]) for line in found["lines"]]
    assert who[0] == written[1]
    assert who[4] == who[5] == written[2]
    assert {line["agent_name"] for line in found["lines"][1:4]} == {"orchestrator"}
    odd = await world.document(f"runs/{team.run}/state", path_hex="ff2e747874")
    assert (odd["content"], odd["path_hex"]) == ("odd\n", "ff2e747874")
    assert len((await world.document(f"runs/{team.run}/history", path_hex="ff2e747874"))["data"]) == 1
    access = ["--url", world.url, "--token-file", str(world.token_file)]
    assert await asyncio.to_thread(execute, ["blame", team.run, "m.py", *access]) == 0
    rows = capfdbinary.readouterr().out.decode().splitlines()
    assert [row.split("\t")[1] for row in rows] == ["coder-1", *["orchestrator"] * 3, "coder-2", "coder-2"]
    assert await asyncio.to_thread(execute, ["history", team.run, "m.py", "--json", *access]) == 0
    document = json.loads(capfdbinary.readouterr().out)
    assert [one["reason"] for one in document["data"]] == ["base", "merge", "merge"]
    assert await asyncio.to_thread(execute, ["blame", team.run, "nothing", *access]) == 3


async def test_a_file_whose_name_is_not_utf_8_can_be_asked_for_everywhere(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    home = world.folder / "run-oddly-named"
    await asyncio.to_thread(_commit, home / "user", {b"m.py": b"1\n", b"\xff.txt": b"odd\n"})
    team = Team(world, "run-oddly-named", await ShadowRepository.create(home / "repo.git", home / "user"))
    await team.base()
    await world.stored(team.run, team.count)

    async def typed(*arguments: str) -> tuple[int, bytes]:
        access = ["--url", world.url, "--token-file", str(world.token_file)]
        code = await asyncio.to_thread(execute, [*arguments, *access])
        return code, capfdbinary.readouterr().out

    name = ["--path-hex", b"\xff.txt".hex()]
    assert await typed("state", team.run, *name) == (0, b"odd\n")
    assert json.loads((await typed("state", team.run, *name, "--json"))[1])["path_hex"] == name[1]
    (change,) = json.loads((await typed("history", team.run, *name, "--json"))[1])["data"]
    assert (change["path_hex"], change["reason"]) == (name[1], "base")
    (line,) = json.loads((await typed("blame", team.run, *name, "--json"))[1])["lines"]
    assert (line["text"], line["seq"]) == ("odd", change["seq"])
    for verb in ("history", "blame"):
        assert (await typed(verb, team.run))[0] == (await typed(verb, team.run, "m.py", *name))[0] == 2
    assert (await typed("state", team.run, "--path", "m.py", *name))[0] == 2
    assert (await typed("state", team.run, "--path-hex", "ff"))[0] == 3
    called = {"name": "state", "arguments": {"run": team.run, "path_hex": name[1]}}
    answer = await world.http.post(
        "/mcp",
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called},
        headers={"Accept": "application/json, text/event-stream"},
    )
    assert json.loads(answer.json()["result"]["content"][0]["text"])["content"] == "odd\n"


async def test_blame_of_a_fork_leads_to_the_parents_changes_and_without_them_to_the_forks_own(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    home = world.folder / "run-parent"
    await asyncio.to_thread(_commit, home / "user", {b"m.py": b"1\n2\n"})
    repository = await ShadowRepository.create(home / "repo.git", home / "user")
    trees = [repository.base_tree]
    for content in (b"1\n2\nparent\n", b"1\n2\nparent\nfork\n"):
        work = await Workspace.checkout(repository, home / f"w-{len(trees)}", trees[-1])
        (work.path / "m.py").write_bytes(content)
        trees.append(await work.snapshot())
    parent = Team(world, "run-parent", repository)
    await parent.base()
    (thought,) = await parent.tell(parent.lead, decision(context_hash="", trigger="", rationale="so", action={}))
    wrote = await parent.changed(parent.lead, "main", trees[0], trees[1], "edit", cause=thought.event.event_id)
    await world.stored(parent.run, parent.count)

    async def forked(run: str, **request: object) -> tuple[Team, list[StoredEvent]]:
        fork = Team(world, run, repository)
        await fork.base(**request)
        begun = await fork.changed(fork.lead, "main", trees[0], trees[1], "fork")
        own = await fork.changed(fork.lead, "main", trees[1], trees[2], "edit")
        await world.stored(run, fork.count)
        return fork, [begun, own]

    fork, (_, own) = await forked("run-fork", forked_from="run-parent", forked_at=wrote.seq)
    found = await world.document(f"runs/{fork.run}/blame", path="m.py")
    who = [(line["run_id"], line["seq"], line["decision_id"], line["text"]) for line in found["lines"]]
    assert [line["run_id"] for line in found["lines"][:2]] == ["run-fork"] * 2
    assert who[2:] == [
        ("run-parent", wrote.seq, thought.event.event_id, "parent"),
        ("run-fork", own.seq, "", "fork"),
    ]
    access = ["--url", world.url, "--token-file", str(world.token_file)]
    assert await asyncio.to_thread(execute, ["blame", fork.run, "m.py", *access]) == 0
    rows = capfdbinary.readouterr().out.decode().splitlines()
    assert rows[2].startswith(f"run-parent {wrote.seq}\t")
    assert rows[3].startswith(f"{own.seq}\t")

    for number, request in enumerate(
        (
            {"forked_from": "run-gone", "forked_at": 1},
            {"forked_from": "run-parent", "forked_at": wrote.seq - 1},
            {"forked_from": "run-parent", "forked_at": 2**62},
            {"forked_from": [], "forked_at": "1"},
        )
    ):
        fork, (begun, own) = await forked(f"run-fork-{number}", **request)
        found = await world.document(f"runs/{fork.run}/blame", path="m.py")
        assert [line["seq"] for line in found["lines"][2:]] == [begun.seq, own.seq], request
        assert {line["run_id"] for line in found["lines"]} == {fork.run}


async def fork_of(world: World, run: str, *, patch: str = "", before: SwarmEvent | None = None) -> tuple[str, int]:
    """A fork of a run that wrote a second line; its fork event. ``patch``: what the run says its change was."""
    home = world.folder / run
    await asyncio.to_thread(_commit, home / "user", {b"m.py": b"1\n"})
    repository = await ShadowRepository.create(home / "repo.git", home / "user")
    work = await Workspace.checkout(repository, home / "w", repository.base_tree)
    (work.path / "m.py").write_bytes(b"1\n2\n")
    tree = await work.snapshot()
    parent = Team(world, run, repository)
    base = await parent.base()
    made = await repository.diff(base, tree)
    if before is not None:
        await parent.tell(parent.lead, before)
    change = state_change(
        workspace_id="main", previous_tree=base, new_tree=tree, patch=patch or made.text, files=made.files,
        reason="edit", resource="r",
    )  # fmt: skip
    (wrote,) = await parent.tell(parent.lead, change)
    await world.stored(parent.run, parent.count)
    fork = Team(world, f"{run}-fork", repository)
    await fork.base(forked_from=run, forked_at=wrote.seq)
    begun = await fork.changed(fork.lead, "main", base, tree, "fork")
    await world.stored(fork.run, fork.count)
    return fork.run, begun.seq


async def wrote_second_line(world: World, run: str) -> tuple[str, int]:
    found = await world.document(f"runs/{run}/blame", path="m.py")
    return found["lines"][1]["run_id"], found["lines"][1]["seq"]


async def test_blame_of_a_fork_goes_without_a_parent_whose_files_are_past_rebuilding(world: World) -> None:
    fork = await fork_of(world, "run-lost", patch="no patch")
    assert await wrote_second_line(world, fork[0]) == fork


async def test_blame_of_a_fork_goes_without_a_parent_whose_long_list_of_files_is_gone(world: World) -> None:
    large = state_change(
        workspace_id="other", previous_tree="", new_tree="", patch="", files=(), reason="edit", resource="r"
    )
    large.blobs.append(FieldBlob(field=FILES, sha256="ab" * 32, size=9))
    fork = await fork_of(world, "run-listless", before=large)
    assert (await world.get("runs/run-listless/blame", path="m.py")).json()["code"] == "content-unavailable"
    assert await wrote_second_line(world, fork[0]) == fork


async def test_blame_of_a_fork_goes_without_parents_that_are_too_much_or_cannot_be_rebuilt_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = await fork_of(world, "run-too-large")
    with monkeypatch.context() as limits:
        limits.setattr(lineage, "MOST_BYTES", 100)
        assert await wrote_second_line(world, fork[0]) == fork
    trees = Contents.trees

    def without_parents(self: Contents, run: str, events: list[StoredEvent], wanted: list[str]) -> object:
        if {run_of(stored.event) for stored in events} != {run}:
            raise ContentDelayed("it takes long")
        return trees(self, run, events, wanted)

    with monkeypatch.context() as slow:
        slow.setattr(Contents, "trees", without_parents)
        assert await wrote_second_line(world, fork[0]) == fork
    assert (await wrote_second_line(world, fork[0]))[0] == "run-too-large"


def _commit(folder: Path, files: dict[bytes, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / os.fsdecode(name)).write_bytes(data)
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "base")):
        subprocess.run(["git", *arguments], cwd=folder, check=True, timeout=20)


async def test_variables_and_schema_objects_are_part_of_the_state(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    log = AgentLog(world.bus, run_id="run-variables", role="coder", agent_name="coder-1")
    for kind, name, value, digest in (
        ("ENV_VAR", "MODE", '{"fast":[1,null]}', "h1"),
        ("ENV_VAR", "GONE", '"x"', "h2"),
        ("DB_SCHEMA", "table users", "CREATE TABLE users (id int)", "h3"),
        ("ENV_VAR", "GONE", "", ""),
        ("ENV_VAR", "ODD", "not json\x1b[31m", "h4"),
    ):
        event = SwarmEvent(workspace_id="main")
        event.state_change.target_type, event.state_change.target_resource = kind, name
        event.state_change.diff_patch, event.state_change.new_state_hash = value, digest
        await log.emit(event)
    await world.stored("run-variables", 5)
    space = (await world.document("runs/run-variables/state"))["workspaces"]["main"]
    assert {one["name"]: one["value"] for one in space["variables"]} == {
        "MODE": {"fast": [1, None]},
        "ODD": "not json\x1b[31m",
    }
    assert [one["value"] for one in space["schema_objects"]] == ["CREATE TABLE users (id int)"]
    access = ["--url", world.url, "--token-file", str(world.token_file)]
    assert await asyncio.to_thread(execute, ["state", "run-variables", *access]) == 0
    said = capfdbinary.readouterr().err.decode()
    assert 'variable MODE: {"fast":[1,null]}' in said
    assert "schema object table users: CREATE TABLE users (id int)" in said
    assert "\x1b" not in said
