"""Kills during a run, each at a moment the run's own events tell. For tests; see tests/chaos."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from enchanted.bus.connection import Bus
from enchanted.cluster import probes, ray_head, services, state
from enchanted.cluster.home import Home
from enchanted.cluster.probes import NotReady
from enchanted.cluster.processes import descendants
from enchanted.schemas.chain import CLOSED_STATES
from enchanted.schemas.events import StoredEvent, kind_of

log = logging.getLogger(__name__)

SERVICES = ("nats", "store")
POLL_SECONDS = 0.1
BACK_SECONDS = 120.0
"""A vLLM engine needs most of a minute on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What to kill, and when."""

    victim: str
    """``nats``, ``store``, ``ingest-0``, ``orchestrator``, a role, ``engine``, or ``core``: vLLM's own process."""
    actions: int
    """Once there are this many model and tool calls: of a coder its own, so that it dies at work, else of the run."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A strike that happened."""

    victim: str
    actions: int
    time: datetime
    killed: int
    back: int
    """The process that took its place."""
    seconds: float
    """Until that was there, and healthy."""

    def __str__(self) -> str:
        return (
            f"{self.victim:<14} after {self.actions:>3} actions: {self.killed} -> {self.back} in {self.seconds:.1f} s"
        )


class NotKilled(AssertionError):
    """The run was over before its strikes were."""


class NotBack(AssertionError):
    """Nothing took the place of what was killed."""


class RunWatch:
    """The next run on a repository, as the stream tells it."""

    def __init__(self, bus: Bus, repository: Path, *, after: int | None = None) -> None:
        """``after``: the stream sequence to read from; by default what comes from now on."""
        self._bus = bus
        self._after = after
        self._repository = str(repository)
        self._changed = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None
        self.run_id = ""
        self._actions: Counter[str] = Counter()
        self.state = ""
        self.over = False
        """The orchestrator has written its last event."""

    @property
    def closed(self) -> bool:
        """Whether the run has its verdict."""
        return self.state in CLOSED_STATES

    async def __aenter__(self) -> Self:
        after = (await self._bus.stream_info()).last_seq if self._after is None else self._after
        self._reading = asyncio.create_task(self._read(after))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.wait({self._reading})

    def actions(self, agent: str = "") -> int:
        """Model and tool calls so far, of one agent or of all."""
        return self._actions[agent] if agent else self._actions.total()

    async def until(self, holds: Callable[[], bool], *, seconds: float = 300.0) -> bool:
        """Wait until an event makes it hold, or ends the run; whether it was not the end."""
        await self._come(lambda: self.closed or holds(), seconds)
        return not self.closed

    async def until_over(self, *, seconds: float = 300.0) -> None:
        """Wait until nothing more is written to the run's log."""
        await self._come(lambda: self.over, seconds)

    async def _come(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait for it, and no longer than the log is read."""
        assert self._reading is not None
        waiting = asyncio.create_task(self._wait(holds))
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait({waiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._reading.result()
                raise AssertionError("the log ended before the run")
        finally:
            waiting.cancel()

    async def _wait(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    async def _read(self, after: int) -> None:
        async for stored in self._bus.tail(after=after):
            async with self._changed:
                self._add(stored)
                self._changed.notify_all()

    def _add(self, stored: StoredEvent) -> None:
        event, step = stored.event, stored.event.run_transition
        if step.to_state == "created" and json.loads(step.details)["repo"] == self._repository:
            self.run_id = event.run_id
        if event.run_id != self.run_id:
            return
        if kind_of(event) in ("model_call", "tool_call"):
            self._actions[event.agent_name] += 1
        if step.subject == "run":
            self.state = step.to_state
        if self.closed and event.agent_name == "orchestrator" and event.system_signal.status == "STOPPING":
            self.over = True


def strikes(victims: Sequence[str], *, first: int, last: int, seed: int) -> list[Strike]:
    """One strike for each victim, in their order, at random moments between the two counts of actions."""
    moments = sorted(random.Random(seed).sample(range(first, last), len(victims)))
    return [Strike(victim=victim, actions=moment) for victim, moment in zip(victims, moments, strict=True)]


async def strike(home: Home, watch: RunWatch, plan: Sequence[Strike]) -> list[Kill]:
    """Kill by plan, and each time wait for the replacement.

    Raises:
        NotKilled: the run ended too soon.
        NotBack: a victim did not come back.
    """
    kills = []
    for entry in plan:
        agent = entry.victim if entry.victim.startswith("coder") else ""
        if not await watch.until(partial(_due, watch, agent, entry.actions)):
            raise NotKilled(f"{entry.victim}: the run was {watch.state} after {watch.actions()} actions")
        kills.append(await _kill(home, watch, entry.victim))
        log.warning("%s", kills[-1])
    return kills


def _due(watch: RunWatch, agent: str, actions: int) -> bool:
    return watch.actions(agent) >= actions


async def _kill(home: Home, watch: RunWatch, victim: str) -> Kill:
    pid = await _pid_of(home, victim, other_than=0, run_id=watch.run_id)
    begun, now, actions = time.monotonic(), datetime.now(UTC), watch.actions()
    os.kill(pid, signal.SIGKILL)
    back = await _pid_of(home, victim, other_than=pid, run_id=watch.run_id)
    seconds = time.monotonic() - begun
    return Kill(victim=victim, actions=actions, time=now, killed=pid, back=back, seconds=seconds)


async def _pid_of(home: Home, victim: str, *, other_than: int, run_id: str) -> int:
    """The process of a healthy victim, once it is another one than that."""
    deadline = time.monotonic() + BACK_SECONDS
    while time.monotonic() < deadline:
        pid = _service(home, victim) if victim in SERVICES else await _actor(home, victim, run_id)
        if pid not in (0, other_than):
            return pid
        await asyncio.sleep(POLL_SECONDS)
    raise NotBack(f"{victim} is not there {BACK_SECONDS:g} s after {other_than} was killed")


def _service(home: Home, name: str) -> int:
    service = state.read(home).service(name)
    return service.pid or 0 if service is not None and service.state == "healthy" else 0


async def _actor(home: Home, victim: str, run_id: str) -> int:
    """The process of the living actor of that name; an orchestrator or role has its run's id in it."""
    name = f"{victim}:{run_id}"
    if victim in ("engine", "core"):
        name = "engine:"
    elif victim.startswith("ingest"):
        name = victim
    for row in await actors(home):
        if row["state"] == "ALIVE" and str(row.get("name", "")).startswith(name):
            return _core_of(int(row["pid"])) if victim == "core" else int(row["pid"])
    return 0


def _core_of(engine: int) -> int:
    """vLLM's own process below an engine's; 0 while there is none."""
    titles = ((process.pid, Path(f"/proc/{process.pid}/cmdline")) for process in descendants(engine))
    return next((pid for pid, title in titles if title.exists() and b"EngineCore" in title.read_bytes()), 0)


async def actors(home: Home) -> list[dict[str, Any]]:
    """Every actor Ray knows, as its dashboard lists them; none while it does not answer."""
    endpoints = services.read_endpoints(home.path)
    url = f"{endpoints.ray_dashboard_url}/api/v0/actors?detail=true&limit=1000"
    try:
        answer = await probes.http_json(url, headers=ray_head.authorization(endpoints.ray_token_file), timeout=10)
    except NotReady:
        return []
    found: list[dict[str, Any]] = answer["data"]["result"]["result"]
    return found
