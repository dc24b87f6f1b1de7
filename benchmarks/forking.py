"""How long until a fork can work: from the request at the API until its orchestrator asks a role for the first step."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from enchanted.actors.config import SwarmConfig
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.ledger import Ledger, request_to_json
from enchanted.actors.work import RunRequest
from enchanted.benchmarks.rig import Plane
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.schemas.events import run_transition
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import served

TOKEN = "bench-token"
EARLY = 52
"""A sequence near a run's beginning: the request, the base and 50 changes."""
STUCK = 600.0
"""Seconds after which a fork that does not begin is given up."""


class FirstStep:
    """A team that only says when it is first asked for something: whatever a fork begins with is there by then."""

    coders = 1

    def __init__(self, asked: asyncio.Event) -> None:
        self._asked = asked

    async def check(self, _: object) -> Any:
        """Never ends, as a step that is at work."""
        self._asked.set()
        await asyncio.Event().wait()

    plan = code = review = check

    async def disband(self) -> None:
        """Nobody is there."""


class LocalRuns:
    """Starts a run's orchestrator in this process; the actor that it is on a cluster comes on top."""

    def __init__(self, bus: Bus, config: SwarmConfig) -> None:
        self._bus, self._config = bus, config
        self._driving: asyncio.Task[Any] | None = None
        self.asked = asyncio.Event()

    async def start(self, request: RunRequest) -> str:
        """Record the request, as the swarm does first, and go."""
        self.asked = asked = asyncio.Event()
        log = AgentLog(self._bus, run_id=request.run_id, role="operator", agent_name="operator")
        details = request_to_json(request)
        await log.emit(
            run_transition(subject="run", from_state="", to_state="created", reason=request.task, details=details)
        )

        def team(_request: RunRequest, _config: SwarmConfig, _ledger: Ledger) -> FirstStep:
            return FirstStep(asked)

        self._driving = asyncio.create_task(OrchestratorHost(request.run_id, self._config, team).run())
        return request.run_id

    async def resume(self, run_id: str) -> None:
        """Nobody asks for it."""

    async def cancel(self, run_id: str) -> None:
        """Nor for this."""

    async def begun(self) -> None:
        """Wait for the first step.

        Raises:
            RuntimeError: the run ended without one.
        """
        assert self._driving is not None
        asked = asyncio.create_task(self.asked.wait())
        async with asyncio.timeout(STUCK):
            await asyncio.wait((asked, self._driving), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if self._driving.done():
            raise RuntimeError(f"the fork ended before it began: {self._driving.result()}")

    async def stop(self) -> None:
        """Let the run go where it is."""
        assert self._driving is not None
        self._driving.cancel()
        with suppress(asyncio.CancelledError):
            await self._driving


async def forks_begun(servers: Plane, folder: Path, run: str, at: int, count: int) -> list[float]:
    """Milliseconds from `POST /runs/{run}/forks` at a sequence until the new run's first step can start, each time.

    One near the beginning goes before, so that connections are there.
    """
    async with Bus.connect(servers.nats.url) as bus:
        runs = LocalRuns(bus, SwarmConfig(nats_url=servers.nats.url, home=str(folder / "home")))
        deps = Dependencies(
            store=Store(servers.store.url), bus=BusLink(servers.nats.url), access=Access(token=TOKEN),
            cache=folder / "cache", starter=runs,
        )  # fmt: skip
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with served(deps) as url, httpx.AsyncClient(base_url=url, headers=headers, timeout=STUCK) as http:
            await _one(http, runs, run, EARLY)
            return [await _one(http, runs, run, at) for _ in range(count)]


async def _one(http: httpx.AsyncClient, runs: LocalRuns, run: str, at: int) -> float:
    begun = time.perf_counter()
    answer = await http.post(f"/api/v1/runs/{run}/forks", json={"at": at})
    answer.raise_for_status()
    await runs.begun()
    taken = (time.perf_counter() - begun) * 1000
    await runs.stop()
    return taken
