"""Runs that the stream has let go of, while somebody follows them or afterwards: the table has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from enchanted.bus.streams import EVENTS_STREAM
from enchanted.cluster.testing_world import served_world
from enchanted.schemas.events import StoredEvent
from enchanted.serve.guard.auth import Access
from enchanted.serve.live.stream import LiveQuery, Streams
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, scripted


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One of its own: what its stream loses is lost for all."""
    async with served_world(tmp_path_factory.mktemp("aged")) as world:
        yield world


async def let_go(world: World, before: int) -> None:
    """What age does in time, by another limit; the last message stays."""
    found = await world.bus.link.api(f"STREAM.INFO.{EVENTS_STREAM}")
    kept = found["state"]["last_seq"] + 1 - max(before, 1)
    for limits in ({"max_msgs": kept, "discard": "old"}, {"max_msgs": -1, "discard": "new"}):
        await world.bus.link.api(f"STREAM.UPDATE.{EVENTS_STREAM}", found["config"] | limits)
    assert (await world.bus.stream_info()).first_seq == max(before, found["state"]["first_seq"])


async def followed(world: World, tmp_path: Path, run: str, gone: tuple[int, int], last: int) -> list[int]:
    """The sequences of a run that somebody sees who begins at 0, when the stream begins at the first of ``gone``, and
    at the second as soon as that is known."""
    access = Access(token="of-nobody")
    store, bus = Store(world.store_url), BusLink(world.nats.url)
    deps = Dependencies(store=store, reader=store, bus=bus, access=access, cache=tmp_path)
    seen = list[int]()
    async with store, bus, Streams(deps) as streams, asyncio.timeout(60):
        await let_go(world, gone[0])
        pieces = await streams.begin(LiveQuery(), 0)
        await let_go(world, gone[1])
        async with aclosing(pieces):
            async for piece in pieces:
                seen += [seq for seq, document in piece.events if json.loads(document)["run_id"] == run]
                if last in seen:
                    return seen
    raise AssertionError("the stream of a live client has no end")


def sequences(events: list[StoredEvent]) -> list[int]:
    return [stored.seq for stored in events]


def binary_change(history: History) -> str:
    """The event that wrote a file which nothing touched later."""
    found = (
        one.event for one in history.events if [file.path for file in one.event.state_change.files] == ["data.bin"]
    )
    return next(found).event_id


async def test_what_the_stream_lets_go_of_while_somebody_reads_comes_from_the_table(
    world: World, tmp_path: Path
) -> None:
    seqs = sequences((await scripted(world, "run-let-go")).events)
    assert await followed(world, tmp_path, "run-let-go", (0, seqs[4]), seqs[-1]) == seqs
    assert await followed(world, tmp_path, "run-let-go", (seqs[6], seqs[9]), seqs[-1]) == seqs


async def test_a_run_that_the_stream_has_no_more_of_is_undone_and_the_undo_too(world: World) -> None:
    history = await scripted(world, "run-aged")
    await scripted(world, "run-after-it")
    await let_go(world, history.events[-1].seq + 1)
    assert not await world.bus.read_run(history.run)
    event_id = binary_change(history)
    for number in (1, 2):
        answer = await world.http.post(f"/api/v1/runs/{history.run}/undos", json={"event_id": event_id})
        assert answer.status_code == 200, answer.text
        event_id = answer.json()["undo_event_id"]
        await world.stored(history.run, len(history.events) + number)


async def test_two_undos_of_it_at_once_do_not_both_win(world: World) -> None:
    history = await scripted(world, "run-aged-twice")
    await scripted(world, "run-after-those")
    await let_go(world, history.events[-1].seq + 1)
    before, body = (await world.bus.stream_info()).last_seq, {"event_id": binary_change(history)}
    asked = (world.http.post(f"/api/v1/runs/{history.run}/undos", json=body) for _ in range(2))
    assert sorted(answer.status_code for answer in await asyncio.gather(*asked)) == [200, 409]
    assert (await world.bus.stream_info()).last_seq == before + 1
