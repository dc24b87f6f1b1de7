"""A recorded run becomes a run of another bus: the same bytes, once, however often it is tried and cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from enchanted.actors.rerun import file
from enchanted.actors.rerun.errors import CannotImport, HeldElsewhere
from enchanted.actors.rerun.importing import import_recording
from enchanted.actors.rerun.recording import Recording, recording_of
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.memory import InMemoryBus
from enchanted.bus.subjects import event_subject
from enchanted.bus.testing import nats_server
from enchanted.cluster.commands.importing import RECORDED
from enchanted.schemas.chain import Head, heads_of, verify
from enchanted.schemas.events import StoredEvent, SwarmEvent, decision

AnyBus = Bus | InMemoryBus
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.zip"))


@pytest.fixture(params=["nats", "memory"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyBus]:
    if request.param == "memory":
        async with InMemoryBus() as twin:
            yield twin
        return
    async with nats_server(tmp_path) as running, Bus.connect(running.url, name="importing") as real:
        yield real


@pytest.fixture
async def recording() -> Recording:
    return await file.load(RECORDED)


def outgoing(recording: Recording, until: int) -> list[Outgoing]:
    return [
        Outgoing(subject=one.subject, payload=one.raw, event_id=one.event.event_id) for one in recording.events[:until]
    ]


def test_the_run_that_ships_is_one_of_the_golden_ones() -> None:
    assert RECORDED.read_bytes() in [golden.read_bytes() for golden in GOLDEN]


async def test_an_imported_run_is_the_recorded_one_byte_for_byte_and_stands_for_itself(
    bus: AnyBus, recording: Recording
) -> None:
    assert await import_recording(recording, bus) == len(recording.events) > 100
    stored = await bus.read_run(recording.run_id)
    assert [one.raw for one in stored] == [one.raw for one in recording.events]
    verdict = verify(stored)
    assert (verdict.intact, verdict.complete, verdict.closed) == (True, True, True)
    again = await recording_of(recording.run_id, bus.read_run, bus.blobs.get)
    assert again.blobs == recording.blobs


async def test_a_run_is_imported_once_however_often(bus: AnyBus, recording: Recording) -> None:
    await import_recording(recording, bus)
    assert await import_recording(recording, bus) == 0
    assert len(await bus.read_run(recording.run_id)) == len(recording.events)


@pytest.mark.parametrize("kept", [1, 57])
async def test_an_import_that_was_cut_off_is_finished_by_the_next(bus: AnyBus, recording: Recording, kept: int) -> None:
    await bus.publisher.publish_many(outgoing(recording, kept))
    assert await import_recording(recording, bus) == len(recording.events) - kept
    assert [one.raw for one in await bus.read_run(recording.run_id)] == [one.raw for one in recording.events]


async def test_another_run_of_the_same_name_is_left_alone(bus: AnyBus, recording: Recording) -> None:
    await bus.publisher.publish_many(outgoing(recording, 9)[::2])
    with pytest.raises(CannotImport, match=r"has a run of this name with other events; import it into another home"):
        await import_recording(recording, bus)
    assert len(await bus.read_run(recording.run_id)) == 5


async def test_a_run_that_went_on_in_this_home_is_there_already(bus: AnyBus, recording: Recording) -> None:
    await import_recording(recording, bus)
    log = AgentLog(bus, run_id=recording.run_id, role="operator", agent_name="operator")
    await log.emit(decision(context_hash="", trigger="operator", rationale="later", action={}))
    assert await import_recording(recording, bus) == 0
    assert len(await bus.read_run(recording.run_id)) == len(recording.events) + 1


async def test_late_copies_in_a_recording_are_no_events_of_their_own(bus: AnyBus, recording: Recording) -> None:
    late = replace(recording.events[5], seq=recording.events[-1].seq + 1)
    copied = replace(recording, events=(*recording.events, late))
    assert await import_recording(copied, bus) == len(recording.events)
    assert await import_recording(copied, bus) == 0


async def test_a_recording_that_does_not_verify_is_not_imported(bus: AnyBus, recording: Recording) -> None:
    cut = replace(recording, events=recording.events[:40] + recording.events[41:])
    with pytest.raises(CannotImport, match=r"its log does not verify \(agent .*; import a recording as"):
        await import_recording(cut, bus)
    assert await bus.read_run(recording.run_id) == []


def renamed(recording: Recording, run_id: str, fresh: Callable[[int], bool]) -> Recording:
    """The same run under another name, its chains made anew; ids are new only where ``fresh`` says so."""
    heads: dict[str, Head] = {}
    last: dict[str, StoredEvent] = {}
    events: list[StoredEvent] = []
    for number, stored in enumerate(recording.events):
        event = SwarmEvent()
        event.CopyFrom(stored.event)
        event.run_id, event.parent_event_id = run_id, ""
        event.event_id = f"{run_id}-{number}" if fresh(number) else event.event_id
        if event.run_transition.heads:
            del event.run_transition.heads[:]
            event.run_transition.heads.extend(heads_of(last.values()))
        raw, heads[event.agent_id] = heads.get(event.agent_id, Head()).stamp(event)
        events.append(replace(stored, raw=raw, event=event, subject=event_subject(event)))
        last[event.agent_id] = events[-1]
    return replace(recording, run_id=run_id, events=tuple(events))


async def test_a_run_whose_events_the_bus_has_under_another_name_is_no_success(
    bus: AnyBus, recording: Recording
) -> None:
    await import_recording(recording, bus)
    other = renamed(recording, "run-other", lambda number: number % 2 == 0)
    held = len(recording.events) // 2
    with pytest.raises(HeldElsewhere, match=f"the log holds {held} of its events under another run; look at that run"):
        await import_recording(other, bus)
    whole = renamed(recording, "run-third", lambda _: True)
    assert await import_recording(whole, bus) == len(recording.events)


async def test_how_long_a_run_took_is_what_its_events_say(recording: Recording) -> None:
    at_once = [replace(stored, time=recording.events[0].time) for stored in recording.events]
    assert replace(recording, events=tuple(at_once)).live_seconds == recording.live_seconds
    assert recording.live_seconds == pytest.approx(119.8, abs=0.1)


async def test_a_fork_is_not_imported_alone(bus: AnyBus, recording: Recording) -> None:
    forked = replace(recording, request=replace(recording.request, forked_from="run-parent", forked_at=7))
    with pytest.raises(CannotImport, match="a fork of run-parent"):
        await import_recording(forked, bus)
    assert await bus.read_run(recording.run_id) == []
