"""For tests: the API on a real socket, and a scripted run to look at through it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.actors.gitstore import ShadowRepository
from enchanted.actors.work import RunRequest
from enchanted.actors.workspace import Workspace
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, free_port
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import StoredEvent, SwarmEvent, decision, run_transition, state_change, tool_call
from enchanted.serve.app import create_app
from enchanted.serve.dependencies import Dependencies

Files = dict[str, bytes]
POLL = 0.02


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Wait for what a test is about to look at."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(POLL)


@contextlib.asynccontextmanager
async def served(deps: Dependencies, port: int = 0) -> AsyncIterator[str]:
    """The API on a real socket; open connections are cut when the block ends."""
    port = port or free_port()
    config = uvicorn.Config(create_app(deps), port=port, log_level="critical", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    try:
        await until(started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


class ScriptedStarter:
    """Starts a run by recording that it was asked for, as the swarm does first."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.requests: list[RunRequest] = []
        self.cancelled: list[str] = []

    async def start(self, request: RunRequest) -> str:
        self.requests.append(request)
        log = AgentLog(self._bus, run_id=request.run_id, role="operator", agent_name="operator")
        await log.emit(run_transition(subject="run", from_state="", to_state="created", reason=request.task))
        return request.run_id

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
        response = await self.get(f"runs/{run}")
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


async def scripted(world: World, run: str) -> History:
    """A run from base to verdict: edits, a rename, a binary file, modes, a link, a rollback."""
    home = world.folder / run
    user = home / "user"
    user.mkdir(parents=True)
    await asyncio.to_thread(_commit_something, user)
    repository = await ShadowRepository.create(home / "repo.git", user)
    workspace = await Workspace.checkout(repository, home / "work", repository.base_tree)
    orchestrator = AgentLog(world.bus, run_id=run, role="operator", agent_name="orchestrator")
    coder = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
    events: list[StoredEvent] = []
    files: dict[int, Files] = {}

    async def tell(log: AgentLog, *drafts: SwarmEvent) -> None:
        for stored in await log.emit(*drafts):
            files[stored.seq] = dict(content)
            events.append(stored)

    def on_disk() -> Files:
        paths = [path for path in workspace.path.rglob("*") if path.is_symlink() or path.is_file()]
        return {
            str(path.relative_to(workspace.path)): str(path.readlink()).encode()
            if path.is_symlink()
            else path.read_bytes()
            for path in paths
        }

    async def change(reason: Any, old: str, new: str) -> None:
        patch = await repository.diff(old, new)
        await tell(
            orchestrator,
            state_change(
                workspace_id="main", previous_tree=old, new_tree=new, patch=patch.text, files=patch.files,
                reason=reason, resource="files",
            ),
        )  # fmt: skip

    content: Files = {}
    await tell(
        orchestrator,
        run_transition(subject="run", from_state="", to_state="created", reason="tidy", details={"task": "tidy"}),
    )
    base = repository.base_tree
    content = on_disk()
    await tell(
        orchestrator,
        state_change(
            workspace_id="main", previous_tree=repository.empty_tree, new_tree=base, patch="",
            files=await repository.list(base), reason="base", resource="user",
            content_sha256=await world.bus.blobs.put(await repository.bundle(base)),
        ),
    )  # fmt: skip
    await tell(coder, decision(context_hash="c", trigger="task", rationale="begin", action={}, task_id="t-1"))
    await tell(
        orchestrator,
        run_transition(subject="task", from_state="", to_state="coding", reason="assigned", task_id="t-1", details={}),
    )
    trees = [base]
    for edit in _edits(workspace.path):
        edit()
        tree = await workspace.snapshot()
        content = on_disk()
        await change("merge", trees[-1], tree)
        trees.append(tree)
        await tell(coder, tool_call(tool="edit", arguments={"n": len(trees)}, outcome="OK"))
    content = files[next(s.seq for s in events if s.event.state_change.new_state_hash == trees[2])]
    await change("rollback", trees[-1], trees[2])
    heads = heads_of(events)
    await tell(
        orchestrator,
        run_transition(subject="run", from_state="checking", to_state="rejected", reason="checks fail", heads=heads),
    )
    await world.stored(run, len(events))
    return History(run=run, events=events, files=files)


def _commit_something(folder: Path) -> None:
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
