"""Runs in which processes died, run again from their log alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from enchanted.actors.config import SwarmConfig
from enchanted.actors.errors import ActorError, GitFailed
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.lifecycle import RunState
from enchanted.actors.rerun.driver import rerun
from enchanted.actors.rerun.errors import CannotRerun
from enchanted.actors.rerun.recording import recording_of
from enchanted.actors.team import AgentLost
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.work import RoleName
from enchanted.bus.connection import Bus
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of
from tests.integration.runs.world import RUN, again, ask, live, recorded, require_equal, wanted

pytestmark = pytest.mark.usefixtures("eager")


@pytest.mark.parametrize("crash_after", ["prepared", "working", "coding", "reviewing", "checking"])
async def test_a_run_with_two_orchestrators_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, crash_after: str
) -> None:
    await ask(bus, wanted(shop))
    first = asyncio.create_task(live(config))
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == crash_after:
            break
    first.cancel()
    await asyncio.wait([first])
    await LocalTeam.living[-1].disband()
    assert await live(config) == RunState.MERGED
    recording = await recorded(bus)
    assert len(recording.acts) == 2
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


LAST_WORD = 3.0
"""Seconds until what an agent has said is heard at the latest."""


class MortalTeam(LocalTeam):
    """Its first ``victim`` ends without a word as soon as it has said what ``last_word`` names; another one follows."""

    victim: ClassVar[str] = "coder-1"
    last_word: ClassVar[str] = "tool_call"
    graves: ClassVar[list[AsyncExitStack]] = []

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if name != self.victim or self.graves:
            return await super()._call(name, role, method, request, number)
        work = asyncio.create_task(super()._call(name, role, method, request, number))
        said = asyncio.create_task(self._last_word_said(name))
        await asyncio.wait({work, said}, return_when=asyncio.FIRST_COMPLETED)
        # It may have answered before its last word was heard here: then the answer is lost with it.
        if not said.done() and not (await asyncio.wait({said}, timeout=LAST_WORD))[0]:
            said.cancel()
            return work.result()
        work.cancel()
        await asyncio.wait([work])
        # Nobody hears it say STOPPING before the test is over.
        self.graves.append(self._hosts.pop(name)._stack.pop_all())
        raise AgentLost(name)

    async def _last_word_said(self, name: str) -> None:
        async with Bus.connect(self._config.nats_url) as bus:
            async for stored in bus.tail(after=0):
                if stored.event.agent_name == name and self.last_word in (kind_of(stored.event), _chosen(stored)):
                    return


def _chosen(stored: StoredEvent) -> str:
    return "submit" if '"submit"' in stored.event.decision.action else ""


@pytest.mark.parametrize(
    ("victim", "last_word"),
    [
        ("coder-1", "tool_call"),
        ("coder-1", "decision"),
        ("coder-1", "state_change"),
        ("coder-1", "submit"),
        ("architect", "decision"),
        ("reviewer", "tool_call"),
        ("reviewer", "model_call"),
        ("reviewer", "decision"),
    ],
)
async def test_a_run_in_which_somebody_died_reruns_equal_with_the_successor(
    bus: Bus,
    config: SwarmConfig,
    shop: Path,
    tmp_path: Path,
    victim: str,
    last_word: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MortalTeam, "victim", victim)
    monkeypatch.setattr(MortalTeam, "last_word", last_word)
    await ask(bus, wanted(shop, coders=1 if victim == "coder-1" else 2))
    try:
        assert await live(config, team=MortalTeam) == RunState.MERGED
        recording = await recorded(bus)
    finally:
        await MortalTeam.graves.pop().aclose()
    assert [part.name for part in recording.parts].count(victim) == 2
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


class UnsucceededTeam(MortalTeam):
    """Whose victim nobody follows."""

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if name == self.victim and self.graves:
            await asyncio.Event().wait()
        return await super()._call(name, role, method, request, number)


async def test_a_run_reruns_equal_whose_stream_took_in_the_last_words_of_somebody_after_the_news_of_his_death(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path
) -> None:
    await ask(bus, wanted(shop, coders=2))
    first = asyncio.create_task(live(config, team=UnsucceededTeam))
    news = str(AgentLost(MortalTeam.victim))
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.reason == news:
            break
    first.cancel()
    await asyncio.wait([first])
    try:
        await LocalTeam.living[-1].disband()
        assert await live(config) == RunState.MERGED
    finally:
        await MortalTeam.graves.pop().aclose()

    async def read(run_id: str) -> list[StoredEvent]:
        return _last_words_after(await bus.read_run(run_id), news)

    recording = await recording_of(RUN, read, bus.blobs.get)
    dead = next(part for part in recording.parts if part.name == MortalTeam.victim)
    assert dead.last_seq > next(s.seq for s in recording.events if s.event.run_transition.reason == news)
    assert [part.name for part in recording.acts[0].roles].count(MortalTeam.victim) == 1
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


def _last_words_after(events: Sequence[StoredEvent], news: str) -> list[StoredEvent]:
    """The same events, as a stream has them that took in the victim's last ones later than the news."""
    dead = next(stored.event.agent_id for stored in events if stored.event.agent_name == MortalTeam.victim)
    # Who is killed does not say STOPPING, which is said here when the grave is closed.
    said = [s for s in events if s.event.agent_id != dead or s.event.system_signal.status != "STOPPING"]
    place = next(at for at, stored in enumerate(said) if stored.event.run_transition.reason == news)
    last = max(at for at in range(place) if said[at].event.agent_id == dead)
    order = [*said[:last], *said[last + 1 : place + 1], said[last], *said[place + 1 :]]
    return [replace(stored, seq=seq) for seq, stored in enumerate(order, start=1)]


class NobodyTeam(LocalTeam):
    """Whose Coder is never there: lost before it says a word, again and again, then refused."""

    calls: ClassVar[int] = 0

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if role != "coder":
            return await super()._call(name, role, method, request, number)
        type(self).calls += 1
        if self.calls % 3:
            raise AgentLost(name)
        raise ActorError("there is no room for it")


async def test_a_run_whose_coders_never_came_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NobodyTeam, "calls", 0)
    await ask(bus, wanted(shop, coders=2))
    assert await live(config, team=NobodyTeam) == RunState.REJECTED
    recording = await recorded(bus)
    assert {part.name for part in recording.parts} == {"orchestrator", "architect", "reviewer"}
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


@pytest.mark.parametrize(
    ("silent", "until"), [("reviewer", "prepared"), ("architect", "planning"), ("coder-1", "coding")]
)
async def test_a_run_cancelled_before_somebody_said_a_word_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, silent: str, until: str
) -> None:
    class SilentTeam(LocalTeam):
        async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
            if name == silent:
                await asyncio.Event().wait()
            return await super()._call(name, role, method, request, number)

    await ask(bus, wanted(shop))
    host = OrchestratorHost(RUN, config, SilentTeam)
    running = asyncio.create_task(host.run())
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == until:
            break
    host.cancel("enough")
    assert await running == RunState.CANCELLED
    require_equal(await again(bus, tmp_path))


@pytest.mark.parametrize("killed", ["a coder of this orchestrator", "a coder of the one before"])
async def test_a_run_in_which_a_process_said_that_it_starts_too_late_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, killed: str
) -> None:
    await ask(bus, wanted(shop))
    first = asyncio.create_task(live(config))
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == "coding":
            break
    first.cancel()
    await asyncio.wait([first])
    await LocalTeam.living[-1].disband()
    assert await live(config) == RunState.MERGED

    async def read(run_id: str) -> list[StoredEvent]:
        return _with_a_late_start(await bus.read_run(run_id), after_news=killed == "a coder of this orchestrator")

    recording = await recording_of(RUN, read, bus.blobs.get)
    assert [part.name for part in recording.acts[1].roles].count("coder-1") == 2
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


def _with_a_late_start(events: Sequence[StoredEvent], *, after_news: bool) -> list[StoredEvent]:
    """The same events and, of a process that was killed at its start, the one that it starts, in the second act."""
    orchestrators = list(dict.fromkeys(s.event.agent_id for s in events if s.event.agent_name == "orchestrator"))
    own = [at for at, stored in enumerate(events) if stored.event.agent_id == orchestrators[1]]
    place = next(at for at in own if events[at].event.task_id) if after_news else own[0]
    start = next(s for s in events if s.event.agent_name == "coder-1" and s.event.system_signal.status == "STARTING")
    event = SwarmEvent.FromString(start.raw)
    event.agent_id = event.event_id = "too-late"
    late = replace(start, event=event, raw=event.SerializeToString(deterministic=True))
    return [replace(s, seq=seq) for seq, s in enumerate([*events[: place + 1], late, *events[place + 1 :]], start=1)]


async def test_a_run_in_which_git_failed_is_refused_since_the_log_does_not_say_how_far_it_came(
    bus: Bus, config: SwarmConfig, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> str:
        raise GitFailed(["write-tree"], "No space left on device")

    monkeypatch.setattr("enchanted.actors.repository.workspace.Workspace.snapshot", full)
    await ask(bus, wanted(shop))
    await live(config)
    with pytest.raises(CannotRerun, match=r"git failed at event [0-9a-f-]+"):
        await recorded(bus)


async def test_a_run_whose_second_orchestrator_found_no_files_is_refused(
    bus: Bus, config: SwarmConfig, shop: Path
) -> None:
    await ask(bus, wanted(shop))
    first = asyncio.create_task(live(config))
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == "working":
            break
    first.cancel()
    await asyncio.wait([first])
    await LocalTeam.living[-1].disband()
    for folder in (shop, Path(config.home)):
        await asyncio.to_thread(shutil.rmtree, folder)
    assert await live(config) == RunState.FAILED
    with pytest.raises(CannotRerun, match="ended before it could be driven"):
        await recorded(bus)
