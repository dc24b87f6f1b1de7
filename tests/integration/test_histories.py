"""Random histories, done for real in workspaces and recorded as a role records them: the log tells every moment."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from enchanted.actors.agent import Agent, Place
from enchanted.actors.desk import Desk, SandboxedTools
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.rebuild import Rebuilder
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.testing import make_repository
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.tools.sandbox import Sandbox
from enchanted.actors.tools.toolbox import ToolBox
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.memory import InMemoryBus
from enchanted.schemas import events
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent, SwarmEvent
from enchanted.schemas.fold import DB_SCHEMA, ENV_VAR, FILE_SYSTEM, MAIN_WORKSPACE, RunState, WorkspaceState, fold
from enchanted.serve.acts.undo import find_target, record, taken_back
from enchanted.serve.errors import UndoRefused
from enchanted.serve.moments.checkpoints import read_slim, slim

Files = dict[bytes, tuple[str, bytes]]
"""Name -> git mode and content; of a link, its target."""
Values = dict[tuple[str, str], str]
"""Kind and name of a variable or schema object -> its value."""
Operation = tuple[Any, ...]
OTHER = "task-1.1"
"""A second workspace, which begins as a copy of the main one."""

NAMES = st.sampled_from(
    [b"a", b"b", b"with space", b'quo"te', b"line\nbreak", b"tab\t", b"\xff\xfe", "ü".encode(), b"-rf", b"back\\slash"]
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
CONTENTS = (
    st.sampled_from([b"", b"one\n", b"one\ntwo\nthree\n", b"one\r\ntwo\r\n", b"no newline", b"\0\xff\0", b"caf\xe9\n"])
) | st.binary(max_size=30)
NTH = st.integers(0, 7)
VALUES = st.none() | st.sampled_from(["1", '"text"', '{"a":[null]}', '""'])
BY_HAND = st.one_of(
    st.tuples(st.just("write"), PATHS, CONTENTS),
    st.tuples(st.just("edit"), NTH, st.integers(0, 20), CONTENTS),
    st.tuples(st.just("rename"), NTH, PATHS),
    st.tuples(st.just("delete"), NTH),
    st.tuples(st.just("chmod"), NTH),
    st.tuples(st.just("folder"), PATHS),
    st.tuples(st.just("link"), PATHS, st.sampled_from([b"a", b"../outside", b"/nowhere", b"\xff"])),
)
ACTS = st.one_of(
    st.tuples(st.just("files"), st.lists(BY_HAND, min_size=1, max_size=4)),
    st.tuples(st.just("tool"), st.sampled_from(["a", "b/c", "with space", "ü"]), st.sampled_from(["", "ü\n", "x\r\n"])),
    st.tuples(st.just(ENV_VAR), st.sampled_from(["MODE", "P Q"]), VALUES),
    st.tuples(st.just(DB_SCHEMA), st.sampled_from(["table t", "index i"]), VALUES),
)
HISTORIES = st.lists(st.tuples(st.sampled_from([MAIN_WORKSPACE, OTHER]), ACTS), min_size=1, max_size=6)
"""In which workspace, and what is done there."""
BASE: dict[str, str | bytes] = {
    "a": "one\ntwo\nthree\n",
    "b/c": b"\0\1\2",
    "with space": "x\r\n",
    "run.sh": "#!/bin/sh\n",
}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What was so after an event, by workspace."""

    files: Mapping[str, Files]
    values: Mapping[str, Values]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A log, and what was so after each of its events."""

    bus: InMemoryBus
    events: list[StoredEvent] = field(default_factory=list)
    moments: dict[int, Moment] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What every history begins with; made once, since making it costs more than a history."""

    repository: ShadowRepository
    bundled: Path
    """A repository with nothing but the base in it, as a rebuild begins with."""
    bundle: bytes


@pytest.fixture(scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    place = tmp_path_factory.mktemp("ground")
    make_repository(place / "user", BASE)
    repository = await ShadowRepository.create(place / "repo.git", place / "user")
    bundle = await repository.bundle(repository.base_tree)
    await ShadowRepository.from_bundle(place / "bundled.git", bundle)
    return Ground(repository=repository, bundled=place / "bundled.git", bundle=bundle)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def on_disk(folder: Path) -> Files:
    """What lies in a folder."""
    found: Files = {}
    for current, folders, names in os.walk(folder):
        for path in (Path(current, name) for name in (*names, *folders)):
            key = os.fsencode(path.relative_to(folder))
            if path.is_symlink():
                found[key] = "120000", os.fsencode(path.readlink())
            elif path.is_file():
                found[key] = "100755" if path.stat().st_mode & 0o100 else "100644", path.read_bytes()
    return found


def do(folder: Path, operation: Operation) -> None:
    """An operation in a folder, as anything with a shell could do it."""
    kind, *what = operation
    if kind in ("write", "link", "folder"):
        path = free(folder, what[0])
        if kind == "write":
            path.write_bytes(what[1])
        elif kind == "link":
            path.symlink_to(os.fsdecode(what[1]))
        else:
            path.mkdir()
        return
    if not (names := sorted(on_disk(folder))):
        return
    path = folder / os.fsdecode(names[what[0] % len(names)])
    if kind == "delete":
        path.unlink()
    elif kind == "rename":
        moving = folder.parent / "moving"
        path.rename(moving)
        moving.rename(free(folder, what[1]))
    elif not path.is_symlink() and kind == "chmod":
        path.chmod(path.stat().st_mode ^ 0o111)
    elif not path.is_symlink():
        content, (at, piece) = path.read_bytes(), what[1:]
        path.write_bytes(content[:at] + piece + content[at + len(piece) // 2 :])


def free(folder: Path, name: bytes) -> Path:
    """The path of a name, with nothing there and every folder above it."""
    path = folder
    for part in os.fsdecode(name).split("/"):
        path.mkdir(exist_ok=True)
        path = path / part
        if path.is_symlink() or path.is_file():
            path.unlink()
    if path.is_dir():
        shutil.rmtree(path)
    return path


class ByHand:
    """The real tools of a workspace, and a hand that works past them."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._box = SandboxedTools(ToolBox(workspace, Sandbox(unsafe=True)))
        self.operations: list[Operation] = []

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        if tool == "write_file":
            return await self._box.call(tool, arguments)
        self._workspace.mark_unknown()
        for operation in self.operations:
            do(self._workspace.path, operation)
        return ToolResult(outcome="OK")


class Player:
    """Does a history for real and keeps what was so after each event."""

    def __init__(self, ground: Ground, folder: Path) -> None:
        self._ground = ground
        self._folder = folder
        self.recorded = Recorded(bus=InMemoryBus())
        log = AgentLog(self.recorded.bus, run_id="run", role="coder", agent_name="coder-1")
        self._agent = Agent(name="coder-1", run_id="run", log=log, model=MinimalModel())
        self._desks: dict[str, tuple[Desk, Workspace, ByHand]] = {}
        self._files: dict[str, Files] = {}
        self._values: dict[str, Values] = {}
        self._last: dict[str, int] = {}
        """Sequence of a workspace's last change."""

    async def play(self, history: Sequence[tuple[str, Operation]]) -> Recorded:
        await self._begin()
        for name, (kind, *what) in history:
            if kind in (ENV_VAR, DB_SCHEMA):
                await self._set(name, kind, *what)
            else:
                await self._use(name, kind, what)
        for desk, _, _ in self._desks.values():
            await desk.__aexit__()
        return self.recorded

    async def _begin(self) -> None:
        repository = self._ground.repository
        base = events.state_change(
            workspace_id=MAIN_WORKSPACE,
            previous_tree=repository.empty_tree,
            new_tree=repository.base_tree,
            patch="",
            files=await repository.list(repository.base_tree),
            reason="base",
            resource="",
            content_sha256=await self.recorded.bus.blobs.put(self._ground.bundle),
        )
        stored = await self._agent.log.emit_change(base, expected_last=0)
        self._last[MAIN_WORKSPACE] = stored.seq
        _, workspace, _ = await self._desk(MAIN_WORKSPACE, repository.base_tree)
        self._files[MAIN_WORKSPACE] = on_disk(workspace.path)
        await self._note()

    async def _desk(self, name: str, tree: str) -> tuple[Desk, Workspace, ByHand]:
        if name not in self._desks:
            workspace = await Workspace.checkout(self._ground.repository, self._folder / name, tree)
            tools = ByHand(workspace)
            desk = Desk(
                agent=self._agent,
                repository=self._ground.repository,
                files=workspace,
                tools=tools,
                place=Place(workspace_id=name),
                tree=tree,
                records=True,
            )
            # A desk's workspace is its own; here variables are set past it, and the main one has a desk.
            desk._last_change = self._last.get(name, 0)
            self._desks[name] = desk, workspace, tools
        return self._desks[name]

    async def _use(self, name: str, kind: str, what: Sequence[Any]) -> None:
        desk, workspace, tools = await self._desk(name, self._desks[MAIN_WORKSPACE][0].tree)
        before = desk.tree
        if kind == "tool":
            await desk.use("write_file", {"path": what[0], "content": what[1]})
        else:
            tools.operations = what[0]
            await desk.use("edit", {})
        await self._note(leave=int(desk.tree != before))
        if desk.tree != before:
            self._files[name] = on_disk(workspace.path)
        assert self._files.get(name, on_disk(workspace.path)) == on_disk(workspace.path)
        await self._note()

    async def _set(self, name: str, kind: str, what: str, value: str | None) -> None:
        event = SwarmEvent(workspace_id=name)
        event.state_change.target_type, event.state_change.target_resource = kind, what
        if value is not None:
            event.state_change.diff_patch, event.state_change.new_state_hash = value, sha256_hex(value)
        (stored,) = await self._agent.log.emit(event)
        self._last[name] = stored.seq
        if name in self._desks:
            self._desks[name][0]._last_change = stored.seq
        values = self._values.setdefault(name, {})
        values.pop((kind, what), None)
        if value is not None:
            values[kind, what] = value
        await self._note()

    async def _note(self, leave: int = 0) -> None:
        """Say of every event that is new, but for the last ``leave``, what is so now."""
        new = await self.recorded.bus.read_run("run", after=len(self.recorded.events))
        now = Moment(files=dict(self._files), values={name: dict(values) for name, values in self._values.items()})
        for stored in new[: len(new) - leave]:
            self.recorded.events.append(stored)
            self.recorded.moments[stored.seq] = now


def shown(files: Files) -> dict[bytes, tuple[str, str, int]]:
    """The same with each content as git names it, worked out without git."""
    return {
        path: (mode, hashlib.sha256(b"blob %d\0%s" % (len(content), content)).hexdigest(), len(content))
        for path, (mode, content) in files.items()
    }


def folded(space: WorkspaceState) -> dict[bytes, tuple[str, str, int]]:
    """The files of a folded workspace in the same form."""
    return {file.raw_path: (file.mode, file.blob, file.size) for file in space.files.values()}


def listed(repository: ShadowRepository, tree: str) -> dict[bytes, tuple[str, str, int]]:
    """The files of a tree in the same form."""
    return {
        bytes.fromhex(one.path_hex) or one.path.encode(): (one.new_mode, one.new_blob, one.size)
        for one in repository.store.files(tree)
    }


def require_same(state: RunState, moment: Moment) -> None:
    """A folded state is what was so."""
    for name, files in moment.files.items():
        assert folded(state.workspaces[name]) == shown(files)
    for name, values in moment.values.items():
        space = state.workspaces[name]
        found = {(ENV_VAR, one.name): one.value for one in space.variables.values()}
        found |= {(DB_SCHEMA, one.name): one.value for one in space.schema_objects.values()}
        assert found == values


def contents(folder: Path, blobs: Sequence[str]) -> list[bytes]:
    """Of git's own reading."""
    asked = "".join(f"{blob}\n" for blob in blobs).encode()
    out = subprocess.run(
        ["git", "--git-dir", str(folder), "cat-file", "--batch"], input=asked, capture_output=True, check=True
    ).stdout
    found = []
    while out:
        head, _, rest = out.partition(b"\n")
        size = int(head.split()[2])
        found.append(rest[:size])
        out = rest[size + 1 :]
    return found


async def rebuilt(ground: Ground, recorded: Recorded, folder: Path, stops: Sequence[int]) -> ShadowRepository:
    """The trees of a log made again from it and its bundle alone."""
    shutil.copytree(ground.bundled, folder, symlinks=True)
    rebuilder = Rebuilder(folder, fetch=recorded.bus.blobs.get, inflate=recorded.bus.inflate)
    for state in reversed([fold(recorded.events, at=stored.seq) for stored in recorded.events]):
        for space in state.workspaces.values():
            if space.tree:
                await rebuilder.make(recorded.events, space.tree, stops=stops)
    return rebuilder.repository


def require_contents(repository: ShadowRepository, recorded: Recorded) -> None:
    """Each tree that was ever there holds what was on the disk then, byte for byte."""
    trees = {}
    for seq, moment in recorded.moments.items():
        state = fold(recorded.events, at=seq)
        trees |= {state.workspaces[name].tree: files for name, files in moment.files.items()}
    known = {}
    for tree, files in trees.items():
        assert listed(repository, tree) == shown(files)
        known |= {
            blob: content for (_, blob, _), (_, content) in zip(shown(files).values(), files.values(), strict=True)
        }
    assert contents(repository.folder, list(known)) == list(known.values())


async def check(ground: Ground, history: Sequence[tuple[str, Operation]], stops: Sequence[int]) -> None:
    """State at every sequence equals the workspaces that produced it: folded, and rebuilt."""
    with tempfile.TemporaryDirectory() as folder:
        recorded = await Player(ground, Path(folder)).play(history)
        assert list(recorded.moments) == list(range(1, len(recorded.events) + 1))
        for seq, moment in recorded.moments.items():
            require_same(fold(recorded.events, at=seq), moment)
            require_same(resumed(recorded.events, seq, len(stops) * seq // 5), moment)
        repository = await rebuilt(ground, recorded, Path(folder) / "again.git", sorted(stops))
        require_contents(repository, recorded)


def resumed(log: Sequence[StoredEvent], seq: int, cut: int) -> RunState:
    """The state as a seek finds it: from a checkpoint, with what is kept of the events since."""
    since = b"".join(map(slim, log[cut:seq]))
    return fold(read_slim(since, seq), start=fold(log[:cut]))


def undoable(recorded: Recorded) -> list[str]:
    """Event ids of the changes of files."""
    return [
        stored.event.event_id
        for stored in recorded.events
        if stored.event.state_change.target_type == FILE_SYSTEM and not stored.event.state_change.content_sha256
    ]


async def undo(recorded: Recorded, repository: ShadowRepository, event_id: str) -> StoredEvent:
    """Take a change back as the API does."""
    target = find_target(recorded.events, "run", event_id)
    patch, tree = await taken_back(repository, target)
    stored = await record(recorded.bus, "run", target, patch, tree)
    recorded.events.append(stored)
    return stored


async def check_undo(ground: Ground, history: Sequence[tuple[str, Operation]], nth: int) -> None:
    """Where nothing contradicts, undo then redo is nothing, and the log tells what lay in between."""
    with tempfile.TemporaryDirectory() as folder:
        recorded = await Player(ground, Path(folder)).play(history)
        assume(changes := undoable(recorded))
        event_id = changes[nth % len(changes)]
        change = next(one.event for one in recorded.events if one.event.event_id == event_id)
        before = fold(recorded.events).workspaces[change.workspace_id]
        is_newest = before.tree == change.state_change.new_state_hash
        try:
            undone = await undo(recorded, ground.repository, event_id)
        except UndoRefused:
            assert not is_newest, "nothing came later that could contradict"
            return
        between = fold(recorded.events).workspaces[change.workspace_id]
        if is_newest:
            assert between.tree == change.state_change.previous_state_hash
        assert folded(between) == listed(ground.repository, between.tree)
        await undo(recorded, ground.repository, undone.event.event_id)
        after = fold(recorded.events).workspaces[change.workspace_id]
        assert (after.tree, folded(after)) == (before.tree, folded(before))
        again = await rebuilt(ground, recorded, Path(folder) / "again.git", [])
        assert listed(again, between.tree) == folded(between)
        assert verify(recorded.events).intact


CHECKED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
STOPS = st.lists(st.integers(1, 20), max_size=4)
A_LINK_TO_ITSELF = [
    (MAIN_WORKSPACE, ("files", [("link", b"a/a", b"a")])),
    (MAIN_WORKSPACE, ("files", [("rename", 0, b"a")])),
]
"""The folder of a file becomes a link that leads nowhere but to itself; the long run found it."""


@pytest.mark.timeout(600)
@settings(max_examples=300, **CHECKED)
@given(history=HISTORIES, stops=STOPS)
@example(history=A_LINK_TO_ITSELF, stops=[])
async def test_state_at_every_sequence_is_the_workspace_that_produced_it(
    ground: Ground, history: list[tuple[str, Operation]], stops: list[int]
) -> None:
    await check(ground, history, stops)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3_600)
@settings(max_examples=20_000, derandomize=False, **CHECKED)
@given(history=HISTORIES, stops=STOPS)
async def test_state_at_every_sequence_is_the_workspace_that_produced_it_in_the_long_run(
    ground: Ground, history: list[tuple[str, Operation]], stops: list[int]
) -> None:
    await check(ground, history, stops)


@settings(max_examples=100, **CHECKED)
@given(history=HISTORIES, nth=NTH)
async def test_undo_then_redo_is_nothing_where_nothing_contradicts(
    ground: Ground, history: list[tuple[str, Operation]], nth: int
) -> None:
    await check_undo(ground, history, nth)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3_600)
@settings(max_examples=20_000, derandomize=False, **CHECKED)
@given(history=HISTORIES, nth=NTH)
async def test_undo_then_redo_is_nothing_where_nothing_contradicts_in_the_long_run(
    ground: Ground, history: list[tuple[str, Operation]], nth: int
) -> None:
    await check_undo(ground, history, nth)
