"""Runs in which anybody dies at any moment, in any number, run again from their log alone, from any point."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.lifecycle import RunState
from enchanted.actors.rerun.driver import Verdict, rerun
from enchanted.actors.rerun.errors import CannotRerun
from enchanted.actors.rerun.recording import recording_of
from enchanted.actors.team import AgentLost
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.actors.work import Budget, RoleName
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.schemas import events
from enchanted.schemas.events import StoredEvent, kind_of
from tests.integration.runs.world import RUN, ask, wanted

pytestmark = pytest.mark.usefixtures("eager")

SEEDS, SHORT = 300, 6
MODULE = "import os\nimport re\n\n\ndef name():\n    return f'name'\n"
ROLES = ("coder-1", "coder-2", "reviewer", "architect")
A_RUN = range(3, 90)
"""About how many events a run has."""


@dataclass(kw_only=True)
class Fate:
    """Who dies after how many events of his name, and after how many of all the orchestrator does."""

    deaths: dict[str, list[int]]
    crashes: list[int]
    cancelled_at: int | None
    said: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def hear(self, bus: Bus) -> None:
        """Count what is said."""
        async for stored in bus.tail(after=0):
            self.said[""] += 1
            if kind_of(stored.event) != "system_signal" or stored.event.system_signal.status == "STARTING":
                self.said[stored.event.agent_name] += 1
            async with self.changed:
                self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what is said."""
        async with self.changed:
            await self.changed.wait_for(condition)

    async def over(self, name: str) -> None:
        """Return when somebody's time has come."""
        await self.until(lambda: bool(self.deaths.get(name)) and self.said[name] >= self.deaths[name][0])

    async def past(self, count: int | None) -> None:
        """Return when so much was said by all."""
        await self.until(lambda: count is not None and self.said[""] >= count)


class FatedTeam(LocalTeam):
    """Its roles end without a word when their time has come."""

    fate: ClassVar[Fate]
    graves: ClassVar[list[AsyncExitStack]] = []

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        work = asyncio.create_task(super()._call(name, role, method, request, number))
        dies = asyncio.create_task(self.fate.over(name))
        try:
            await asyncio.wait({work, dies}, return_when=asyncio.FIRST_COMPLETED)
            if not dies.done():
                return work.result()
        finally:
            for task in (work, dies):
                task.cancel()
            await asyncio.wait({work, dies})
        self.fate.deaths[name].pop(0)
        self.bury(name)
        raise AgentLost(name)

    def bury(self, name: str) -> None:
        """End a role that says nothing any more; its connection is closed when the test is over."""
        if host := self._hosts.pop(name, None):
            self.graves.append(host._stack.pop_all())

    def bury_all(self) -> None:
        """End every role so."""
        for name in tuple(self._hosts):
            self.bury(name)


def fate_of(chance: random.Random) -> Fate:
    deaths = {
        name: sorted(chance.sample(range(1, 6 if name == "architect" else 30), chance.choice([0, 1, 1, 2])))
        for name in ROLES
    }
    crashes = sorted(chance.sample(A_RUN, chance.choice([0, 0, 1, 1, 2])))
    return Fate(deaths=deaths, crashes=crashes, cancelled_at=chance.choice([None, None, None, chance.choice(A_RUN)]))


async def lived(bus: Bus, config: SwarmConfig, fate: Fate) -> RunState:
    """Drive the run to its verdict, whoever dies."""
    while True:
        host = OrchestratorHost(RUN, config, FatedTeam)
        running = asyncio.create_task(host.run())
        crash = asyncio.create_task(fate.past(next(iter(fate.crashes), None)))
        wish = asyncio.create_task(fate.past(fate.cancelled_at))
        await asyncio.wait({running, crash, wish}, return_when=asyncio.FIRST_COMPLETED)
        if wish.done() and not running.done():
            fate.cancelled_at = None
            log = AgentLog(bus, run_id=RUN, role="operator", agent_name="operator")
            await log.emit(events.run_transition(subject="run", from_state="", to_state="cancelling", reason="enough"))
            host.cancel("enough")
            await asyncio.wait({running, crash}, return_when=asyncio.FIRST_COMPLETED)
        crashed = crash.done() and not running.done()
        for task in (crash, wish, *([running] if crashed else [])):
            task.cancel()
        await asyncio.wait({running, crash, wish})
        if not crashed or not (running.cancelled() or running.exception()):
            return running.result()
        fate.crashes.pop(0)
        for team in LocalTeam.living:
            assert isinstance(team, FatedTeam)
            team.bury_all()


@pytest.mark.parametrize(
    "seed", [*range(SHORT), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(SHORT, SEEDS))]
)
async def test_a_run_reruns_equal_whoever_died_in_it_at_any_moment(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    make_repository(shop, {f"more_{number}.py": MODULE for number in range(chance.choice([0, 2, 4]))})
    fate = fate_of(chance)
    monkeypatch.setattr(FatedTeam, "fate", fate, raising=False)
    one_call = Budget(model_calls_per_task=chance.choice([1, 2]), reworks_per_task=1)
    guided = chance.choice([True, True, False])
    roles = {role: RoleModel(url="minimal", guided=guided) for role in ("architect", "coder", "reviewer")}
    coders, budget = chance.choice([1, 2, 2]), chance.choice([Budget(), Budget(), one_call])
    await ask(bus, wanted(shop, coders=coders, budget=budget))
    hearing = asyncio.create_task(fate.hear(bus))
    try:
        await lived(bus, replace(config, models=roles), fate)
        log = await bus.read_run(RUN)
    finally:
        hearing.cancel()
        await asyncio.wait({hearing})
        while FatedTeam.graves:
            with suppress(Exception):
                await FatedTeam.graves.pop().aclose()

    async def read(_: str) -> list[StoredEvent]:
        return log

    try:
        recording = await recording_of(RUN, read, bus.blobs.get)
    except CannotRerun as refusal:
        assert "before its files were stored" in str(refusal)  # noqa: PT017 - one of two good outcomes
        return
    for start in (0, *(chance.randrange(1, log[-1].seq) for _ in range(2))):
        verdict = await rerun(recording, tmp_path / f"from-{start}", patience=5, start=start)
        assert verdict.divergence is None, told(verdict, log)


def told(verdict: Verdict, log: list[StoredEvent]) -> str:
    """What differs, and what the log tells in which order."""
    lines = [f"from {verdict.after}: {verdict.divergence}"]
    for stored in log:
        event, step = stored.event, stored.event.run_transition
        what = f"{event.system_signal.status}{event.tool_call.tool}{step.to_state} {step.reason[:60]}"
        lines.append(f"{stored.seq} {event.agent_name} {event.agent_id[-6:]} {kind_of(event)} {event.task_id} {what}")
    return "\n".join(lines)
