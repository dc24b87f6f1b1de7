"""For tests: the API on a real socket, and a scripted run to look at through it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
import uvicorn
from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.rerun.recording import Recording
from enchanted.actors.work import RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import (
    StoredEvent,
    SwarmEvent,
    decision,
    parse_event,
    run_transition,
    state_change,
    tool_call,
)
from enchanted.serve.app import create_app
from enchanted.serve.sources.dependencies import Dependencies

Files = dict[str, bytes]
POLL = 0.02
UUID = re.compile(rb"0[0-9a-f]{7}(-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})")


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait for what a test is about to look at."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(POLL)


@contextlib.asynccontextmanager
async def served(deps: Dependencies, port: int = 0) -> AsyncIterator[str]:
    """The API on a real socket; open connections are cut when the block ends."""
    # Of a socket whose protocol is not named asyncio does not know that small answers must not wait (TCP_NODELAY).
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    config = uvicorn.Config(create_app(deps), log_level="critical", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))

    async def started() -> bool:
        return server.started

    try:
        await until(started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class ScriptedStarter:
    """Starts a run by recording that it was asked for, as the swarm does first."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.requests: list[RunRequest] = []
        self.resumed: list[str] = []
        self.cancelled: list[str] = []

    async def start(self, request: RunRequest) -> str:
        self.requests.append(request)
        log = AgentLog(self._bus, run_id=request.run_id, role="operator", agent_name="operator")
        await log.emit(run_transition(subject="run", from_state="", to_state="created", reason=request.task))
        return request.run_id

    async def resume(self, run_id: str) -> None:
        self.resumed.append(run_id)

    async def cancel(self, run_id: str) -> None:
        self.cancelled.append(run_id)


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that runs, and a client for it."""

    nats: NatsServer
    store_url: str
    store_pid: int
    table: AsyncClient
    bus: Bus
    http: httpx.AsyncClient
    url: str
    token_file: Path
    starter: ScriptedStarter
    folder: Path

    async def get(self, resource: str, /, **parameters: Any) -> httpx.Response:
        """The API's answer."""
        return await self.http.get(f"/api/v1/{resource}", params=parameters)

    async def document(self, resource: str, /, **parameters: Any) -> dict[str, Any]:
        """The JSON of an answer that must be 200."""
        response = await self.get(resource, **parameters)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def stored(self, run: str, count: int) -> None:
        """Wait until the table has so many events of a run."""
        await until(lambda: self._has(run, count))

    async def _has(self, run: str, count: int) -> bool:
        response = await self.get(f"runs/{quote(run, safe='')}")
        return response.status_code == 200 and response.json()["events"] >= count and await self._in_table(run, count)

    async def _in_table(self, run: str, count: int) -> bool:
        rows = await self.table.query(
            "SELECT count() FROM events FINAL WHERE run = {run:String} AND duplicate_of = 0", parameters={"run": run}
        )
        return int(rows.result_rows[0][0]) >= count


@dataclass(frozen=True, kw_only=True)
class History:
    """A scripted run, and what its main workspace held after each of its events."""

    run: str
    events: list[StoredEvent]
    files: dict[int, Files]


class _Script:
    """Writes a run down while it happens, with what the main workspace holds after each event."""

    def __init__(self, world: World, run: str, repository: ShadowRepository, workspace: Workspace) -> None:
        self.orchestrator = AgentLog(world.bus, run_id=run, role="operator", agent_name="orchestrator")
        self.coder = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
        self.repository = repository
        self.workspace = workspace
        self.content: Files = {}
        self.history = History(run=run, events=[], files={})

    async def tell(self, log: AgentLog, *drafts: SwarmEvent) -> None:
        for stored in await log.emit(*drafts):
            self.history.files[stored.seq] = dict(self.content)
            self.history.events.append(stored)

    async def run_moves(self, start: str, end: str, **details: Any) -> None:
        step = run_transition(subject="run", from_state=start, to_state=end, reason=f"it is {end}", **details)
        await self.tell(self.orchestrator, step)

    async def base(self, bundle: str) -> None:
        tree = self.repository.base_tree
        self.content = self.on_disk()
        change = state_change(
            workspace_id="main",
            previous_tree=self.repository.empty_tree,
            new_tree=tree,
            patch="",
            files=await self.repository.list(tree),
            reason="base",
            resource="user",
            content_sha256=bundle,
        )
        await self.tell(self.orchestrator, change)

    async def change(self, reason: Literal["merge", "rollback"], old: str, new: str) -> None:
        patch = await self.repository.diff(old, new)
        change = state_change(
            workspace_id="main",
            previous_tree=old,
            new_tree=new,
            patch=patch.text,
            files=patch.files,
            reason=reason,
            resource="files",
        )
        await self.tell(self.orchestrator, change)

    def on_disk(self) -> Files:
        root = self.workspace.path
        links = {path: str(path.readlink()).encode() for path in root.rglob("*") if path.is_symlink()}
        files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path not in links}
        return {str(path.relative_to(root)): data for path, data in (files | links).items()}


async def scripted(world: World, run: str, *, placed: bool = False) -> History:
    """A run from base to verdict: edits, a rename, a binary file, modes, a link, a rollback.

    ``placed``: it names the user's repository and the commit there, as the swarm's own do.
    """
    home = world.folder / run
    await asyncio.to_thread(_commit_something, home / "user")
    repository = await ShadowRepository.create(home / "repo.git", home / "user")
    workspace = await Workspace.checkout(repository, home / "work", repository.base_tree)
    script = _Script(world, run, repository, workspace)
    place = {"repo": str(home / "user"), "base_commit": repository.base_commit} if placed else {}
    await script.run_moves("", "created", details={"task": "tidy", **place})
    await script.base(await world.bus.blobs.put(await repository.bundle(repository.base_tree)))
    await script.tell(script.coder, decision(context_hash="c", trigger="task", rationale="begin", action={}))
    step = run_transition(subject="task", from_state="", to_state="coding", reason="assigned", task_id="t-1")
    await script.tell(script.orchestrator, step)
    trees, contents = [repository.base_tree], [script.content]
    for edit in _edits(workspace.path):
        edit()
        trees.append(await workspace.snapshot())
        script.content = script.on_disk()
        contents.append(script.content)
        await script.change("merge", trees[-2], trees[-1])
        await script.tell(script.coder, tool_call(tool="edit", arguments={"n": len(trees)}, outcome="OK"))
    script.content = contents[2]
    await script.change("rollback", trees[-1], trees[2])
    await script.run_moves("checking", "rejected", heads=heads_of(script.history.events))
    await world.stored(run, len(script.history.events))
    return script.history


def _commit_something(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("print('a')\n")
    (folder / "dos.txt").write_bytes(b"one\r\ntwo\r\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "base")):
        subprocess.run(["git", *arguments], cwd=folder, check=True, timeout=20)


def _edits(root: Path) -> list[Callable[[], object]]:
    def rename() -> None:
        (root / "a.py").rename(root / "b c.py")

    return [
        lambda: (root / "a.py").write_text("print('b')\nprint('ü')\n"),
        lambda: (root / "data.bin").write_bytes(bytes(range(256))),
        rename,
        lambda: (root / "b c.py").chmod(0o755),
        lambda: (root / "link").symlink_to("dos.txt"),
        lambda: (root / "dos.txt").write_bytes(b"one\r\n2\r\n"),
        lambda: (root / "dos.txt").unlink(),
    ]


def copies(recording: Recording, run: str, change: Callable[[SwarmEvent], None] = lambda _: None) -> list[Outgoing]:
    """The recorded demo as another run, of the same length of name: other ids throughout."""
    old, new = recording.run_id.encode(), run.encode()
    assert len(old) == len(new)
    prefix = f"0{sha256_hex(run)[:7]}".encode()
    found = []
    for stored in recording.events:
        event = parse_event(UUID.sub(prefix + rb"\1", stored.raw.replace(old, new)))
        change(event)
        raw = event.SerializeToString(deterministic=True)
        subject = stored.subject.replace(recording.run_id, run)
        found.append(Outgoing(subject=subject, payload=raw, event_id=event.event_id))
    return found
