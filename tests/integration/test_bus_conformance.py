"""One suite, two buses: a real server and the in-memory twin."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import nats
import pytest

from enchanted.bus.agent_log import AgentLog, new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BlobMissing, InvalidSubject, MessageMissing, PayloadTooLarge, StateConflict
from enchanted.bus.memory import InMemoryBus
from enchanted.bus.reader import RawMessage
from enchanted.bus.subjects import event_subject
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.schemas import events
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent

AnyBus = Bus | InMemoryBus


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    async with nats_server(Path(tmp_path_factory.mktemp("nats"))) as running:
        yield running


@pytest.fixture(params=["nats", "memory"])
async def bus(request: pytest.FixtureRequest, server: NatsServer) -> AsyncIterator[AnyBus]:
    if request.param == "memory":
        async with InMemoryBus() as twin:
            yield twin
        return
    async with Bus.connect(server.url, name="conformance") as real:
        yield real


@pytest.fixture
def run() -> str:
    return f"run {new_id()}"


def outgoing(run: str, *, event_id: str = "", detail: str = "", expected_last: int | None = None) -> Outgoing:
    event = events.system_signal(status="HEALTHY", detail=detail)
    event.run_id, event.event_id = run, event_id or new_id()
    return Outgoing(
        subject=event_subject(event),
        payload=event.SerializeToString(),
        event_id=event.event_id,
        expected_last=expected_last,
    )


def details(stored: list[StoredEvent]) -> list[str]:
    return [entry.event.system_signal.detail for entry in stored]


async def test_what_was_published_is_read_back_byte_for_byte(bus: AnyBus, run: str) -> None:
    message = outgoing(run, detail="é\U0001f600")
    ack = await bus.publisher.publish(message)
    assert not ack.duplicate
    (stored,) = await bus.read_run(run)
    assert (stored.seq, stored.subject, stored.raw) == (ack.seq, message.subject, message.payload)
    assert await bus.get(ack.seq) == stored


async def test_a_duplicate_id_is_stored_once(bus: AnyBus, run: str) -> None:
    message = outgoing(run)
    first = await bus.publisher.publish(message)
    again = await bus.publisher.publish(message)
    assert (again.seq, again.duplicate) == (first.seq, True)
    assert len(await bus.read_run(run)) == 1


async def test_many_are_contiguous_and_in_order(bus: AnyBus, run: str) -> None:
    other = f"{run} other"
    groups = [[outgoing(run, detail=f"{g}-{k}") for k in range(7)] for g in range(5)]
    async with asyncio.TaskGroup() as tasks:
        publishing = [tasks.create_task(bus.publisher.publish_many(group)) for group in groups]
        for _ in range(20):
            tasks.create_task(bus.publisher.publish(outgoing(other)))
    acks = [task.result() for task in publishing]
    for group in acks:
        assert [ack.seq for ack in group] == list(range(group[0].seq, group[0].seq + 7))
    assert details(await bus.read_run(run)) == [f"{g}-{k}" for g in range(5) for k in range(7)]


async def test_an_id_twice_in_one_call_is_stored_once(bus: AnyBus, run: str) -> None:
    a, b = outgoing(run, detail="a"), outgoing(run, detail="b")
    acks = await bus.publisher.publish_many([a, b, a])
    assert [ack.duplicate for ack in acks] == [False, False, True]
    assert acks[2].seq == acks[0].seq
    assert details(await bus.read_run(run)) == ["a", "b"]


async def test_a_call_repeated_whole_gets_the_same_sequences(bus: AnyBus, run: str) -> None:
    messages = [outgoing(run) for _ in range(5)]
    first = await bus.publisher.publish_many(messages)
    again = await bus.publisher.publish_many(messages)
    assert [ack.seq for ack in again] == [ack.seq for ack in first]
    assert all(ack.duplicate for ack in again)


async def test_of_a_call_repeated_in_part_only_the_rest_is_stored(bus: AnyBus, run: str) -> None:
    known = [outgoing(run, detail="known 0"), outgoing(run, detail="known 1")]
    seqs = [ack.seq for ack in await bus.publisher.publish_many(known)]
    fresh = [outgoing(run, detail="new 0"), outgoing(run, detail="new 1")]
    acks = await bus.publisher.publish_many([known[0], fresh[0], known[1], fresh[1]])
    assert [ack.duplicate for ack in acks] == [True, False, True, False]
    assert [acks[0].seq, acks[2].seq] == seqs
    assert details(await bus.read_run(run)) == ["known 0", "known 1", "new 0", "new 1"]


async def test_a_duplicate_does_not_touch_its_neighbours(bus: AnyBus, run: str) -> None:
    known = outgoing(run, detail="known")
    await bus.publisher.publish(known)
    messages = [outgoing(run, detail=str(k)) for k in range(6)]
    acks = await asyncio.gather(*(bus.publisher.publish(m) for m in [*messages[:3], known, *messages[3:]]))
    assert [ack.duplicate for ack in acks] == [False, False, False, True, False, False, False]
    assert details(await bus.read_run(run)) == ["known", "0", "1", "2", "3", "4", "5"]


async def test_a_condition_that_holds_is_stored_and_one_that_does_not_is_a_conflict(bus: AnyBus, run: str) -> None:
    first = await bus.publisher.publish(outgoing(run, detail="a", expected_last=0))
    with pytest.raises(StateConflict):
        await bus.publisher.publish(outgoing(run, detail="b", expected_last=0))
    second = await bus.publisher.publish(outgoing(run, detail="c", expected_last=first.seq))
    assert second.seq > first.seq
    assert details(await bus.read_run(run)) == ["a", "c"]


async def test_a_condition_published_again_is_a_duplicate_and_no_conflict(bus: AnyBus, run: str) -> None:
    message = outgoing(run, expected_last=0)
    first = await bus.publisher.publish(message)
    await bus.publisher.publish(outgoing(run, expected_last=first.seq))
    again = await bus.publisher.publish(message)
    assert (again.seq, again.duplicate) == (first.seq, True)


async def test_of_many_who_extend_one_state_exactly_one_succeeds(bus: AnyBus, run: str) -> None:
    attempts = [bus.publisher.publish(outgoing(run, expected_last=0)) for _ in range(10)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 9
    assert len(await bus.read_run(run)) == 1


async def test_what_is_too_large_or_goes_nowhere_is_refused_and_its_neighbours_are_stored(
    bus: AnyBus, run: str
) -> None:
    large = Outgoing(subject="swarm.events.a.b", payload=b"x" * 1024 * 1024, event_id=new_id())
    nowhere = Outgoing(subject="elsewhere.a", payload=b"", event_id=new_id())
    outcomes = await asyncio.gather(
        *(bus.publisher.publish(m) for m in (outgoing(run), large, nowhere, outgoing(run))), return_exceptions=True
    )
    assert isinstance(outcomes[1], PayloadTooLarge)
    assert isinstance(outcomes[2], InvalidSubject)
    assert len(await bus.read_run(run)) == 2


async def test_a_run_is_read_from_a_sequence_on(bus: AnyBus, run: str) -> None:
    acks = await bus.publisher.publish_many([outgoing(run, detail=str(k)) for k in range(5)])
    assert details(await bus.read_run(run, after=acks[2].seq)) == ["3", "4"]
    assert await bus.read_run(run, after=acks[4].seq) == []
    assert await bus.read_run(f"{run} unknown") == []


async def test_bytes_that_are_no_event_are_skipped_and_can_be_had_raw(bus: AnyBus, run: str) -> None:
    good = outgoing(run)
    poison = Outgoing(subject=good.subject, payload=b"\xff\xff\xff", event_id=new_id())
    acks = await bus.publisher.publish_many([poison, good])
    assert [stored.seq for stored in await bus.read_run(run)] == [acks[1].seq]
    raw = await bus.get(acks[0].seq)
    assert isinstance(raw, RawMessage)
    assert raw.payload == b"\xff\xff\xff"


async def test_a_sequence_that_is_not_there_is_missing(bus: AnyBus) -> None:
    with pytest.raises(MessageMissing):
        await bus.get(10_000_000)


async def test_the_tail_gives_what_was_stored_and_what_comes(bus: AnyBus, run: str) -> None:
    start = (await bus.stream_info()).last_seq
    await bus.publisher.publish_many([outgoing(run, detail=str(k)) for k in range(3)])
    seen: list[str] = []
    numbers = count(3)
    async with asyncio.timeout(20):
        async for stored in bus.tail(after=start):
            seen.append(stored.event.system_signal.detail)
            if len(seen) == 6:
                break
            if len(seen) >= 3:
                await bus.publisher.publish(outgoing(run, detail=str(next(numbers))))
    assert seen == [str(k) for k in range(6)]


async def test_the_tail_selects_by_subject(bus: AnyBus, run: str) -> None:
    start = (await bus.stream_info()).last_seq
    coder = Outgoing(subject="swarm.events.coder.system_signal", payload=b"", event_id=new_id())
    await bus.publisher.publish_many([outgoing(run), coder])
    async with asyncio.timeout(20):
        async for stored in bus.tail("swarm.events.coder.>", after=start):
            assert stored.subject == coder.subject
            break


async def test_the_stream_says_what_it_holds(bus: AnyBus, run: str) -> None:
    before = await bus.stream_info()
    ack = await bus.publisher.publish(outgoing(run))
    after = await bus.stream_info()
    assert after.messages == before.messages + 1
    assert after.last_seq == ack.seq
    assert after.created == before.created
    assert after.bytes > before.bytes


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 700_001])
async def test_a_blob_comes_back_under_its_hash(bus: AnyBus, size: int) -> None:
    data = hashlib.shake_128(str(size).encode()).digest(size)
    name = await bus.blobs.put(data)
    assert name == hashlib.sha256(data).hexdigest()
    assert await bus.blobs.get(name) == data
    assert await bus.blobs.put(data) == name


async def test_one_blob_put_by_many_at_once_is_whole(bus: AnyBus, run: str) -> None:
    data = run.encode() * 20_000
    names = await asyncio.gather(*(bus.blobs.put(data) for _ in range(5)))
    assert len(set(names)) == 1
    assert await bus.blobs.get(names[0]) == data


async def test_a_blob_that_is_not_there_is_missing(bus: AnyBus) -> None:
    with pytest.raises(BlobMissing):
        await bus.blobs.get("0" * 64)


async def test_a_run_written_by_several_agents_verifies(bus: AnyBus, run: str) -> None:
    logs = [AgentLog(bus, run_id=run, role="coder", agent_name=f"coder-{k}") for k in range(4)]
    signal = events.system_signal(status="HEALTHY")
    big = events.tool_call(tool="t", arguments={}, outcome="OK", output="x" * 400_000)
    await asyncio.gather(*(log.emit(signal, big, signal) for log in logs for _ in range(3)))
    stored = await bus.read_run(run)
    verdict = verify(stored)
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 36)
    assert (await bus.inflate(stored[1].event)).tool_call.output == "x" * 400_000


async def test_any_client_reads_our_blobs_from_the_object_store(server: NatsServer) -> None:
    data = b"0123456789" * 100_000
    async with Bus.connect(server.url) as bus:
        name = await bus.blobs.put(data)
    client = await nats.connect(server.url)
    try:
        store = await client.jetstream().object_store("enchanted-blobs")
        assert (await store.get(name)).data == data
    finally:
        await client.close()


async def test_the_newest_event_of_each_subject_is_found(bus: AnyBus) -> None:
    for run, words in (("run-a", ("old", "new")), ("run-b", ("only",))):
        log = AgentLog(bus, run_id=run, role="operator", agent_name="o")
        for word in words:
            await log.emit(events.run_transition(subject="run", from_state="", to_state=word, reason=""))
    newest = await bus.last_of_each("swarm.events.operator.run_transition.*")
    assert sorted((s.event.run_id, s.event.run_transition.to_state) for s in newest) == [
        ("run-a", "new"),
        ("run-b", "only"),
    ]
