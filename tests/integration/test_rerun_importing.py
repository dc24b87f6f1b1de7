"""A recorded run becomes a run of another bus: the same bytes, once, however often it is tried and cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from enchanted.actors.rerun import file
from enchanted.actors.rerun.errors import CannotImport
from enchanted.actors.rerun.importing import import_recording
from enchanted.actors.rerun.recording import Recording, recording_of
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.memory import InMemoryBus
from enchanted.bus.testing import nats_server
from enchanted.cluster.commands.importing import RECORDED
from enchanted.schemas.chain import verify

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


async def test_a_fork_is_not_imported_alone(bus: AnyBus, recording: Recording) -> None:
    forked = replace(recording, request=replace(recording.request, forked_from="run-parent", forked_at=7))
    with pytest.raises(CannotImport, match="a fork of run-parent"):
        await import_recording(forked, bus)
    assert await bus.read_run(recording.run_id) == []
