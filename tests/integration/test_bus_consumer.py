"""The pull consumer and the dead letters on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from enchanted.bus.agent_log import AgentLog, new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.delivery import Delivery
from enchanted.bus.errors import MessageMissing
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.bus.trace_headers import context_of
from enchanted.schemas import events

MIB = 1024 * 1024


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with asyncio.timeout(60), Bus.connect(server.url) as connected:
        yield connected


async def publish(bus: Bus, count: int, *, size: int = 10) -> None:
    await bus.publisher.publish_many(
        [
            Outgoing(
                subject="swarm.events.coder.decision.r",
                payload=b"x" * size,
                event_id=new_id(),
                headers={"traceparent": "00-1-2-01"},
            )
            for _ in range(count)
        ]
    )


async def take(consumer: PullConsumer, count: int) -> list[Delivery]:
    """Exactly ``count`` deliveries, however they are cut into batches."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await consumer.next_batch(count - len(taken), 8 * MIB, 1.0)
    return taken


async def test_messages_come_in_order_with_where_and_when_they_were_stored(bus: Bus) -> None:
    await publish(bus, 50)
    async with PullConsumer(bus, durable="ingest") as consumer:
        deliveries = await take(consumer, 50)
        await consumer.ack_all(deliveries)
        assert await consumer.pending() == 0
    assert [d.seq for d in deliveries] == list(range(1, 51))
    assert {d.num_delivered for d in deliveries} == {1}
    assert deliveries[0].headers["traceparent"] == "00-1-2-01"
    stored = await bus.get(1)
    assert (stored.time, stored.subject) == (deliveries[0].time, deliveries[0].subject)


async def test_an_agents_messages_carry_the_trace_they_were_written_in(bus: Bus) -> None:
    log = AgentLog(bus, run_id="run", role="coder", agent_name="coder-1")
    with TracerProvider().get_tracer("test").start_as_current_span("step") as span:
        (stored,) = await log.emit(events.system_signal(status="HEALTHY"))
    async with PullConsumer(bus, durable="ingest") as consumer:
        (delivery,) = await take(consumer, 1)
    found = trace.get_current_span(context_of(delivery.headers)).get_span_context()
    assert (found.trace_id, found.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
    assert delivery.headers["Nats-Msg-Id"] == stored.event.event_id


async def test_what_is_acknowledged_does_not_come_again_and_what_is_not_does(bus: Bus) -> None:
    await publish(bus, 10)
    async with PullConsumer(bus, durable="ingest", ack_wait=60) as consumer:
        deliveries = await take(consumer, 10)
        await consumer.ack_all(deliveries[:7])
    async with PullConsumer(bus, durable="ingest", ack_wait=60) as consumer:
        again = await take(consumer, 3)
        await consumer.ack_all(again)
        assert await consumer.next_batch(10, MIB, 0.7) == []
    assert sorted(d.seq for d in again) == [8, 9, 10]
    assert {d.num_delivered for d in again} == {2}


async def test_what_a_dead_consumer_held_comes_at_once_and_not_after_its_ack_wait(bus: Bus) -> None:
    await publish(bus, 10)
    async with PullConsumer(bus, durable="ingest", ack_wait=60) as consumer:
        await consumer.ack_all((await take(consumer, 10))[:7])
    async with PullConsumer(bus, durable="ingest", ack_wait=60) as consumer:
        again = await take(consumer, 3)
        assert await consumer.next_batch(10, MIB, 0.7) == [], "the ack_wait is 60 s again"
        await consumer.ack_all(again)
    assert sorted(d.seq for d in again) == [8, 9, 10]


async def test_a_nak_delays_a_message_and_a_term_ends_it(bus: Bus) -> None:
    await publish(bus, 2)
    async with PullConsumer(bus, durable="ingest", ack_wait=30) as consumer:
        first, second = await take(consumer, 2)
        await first.nak(0.2)
        await second.term()
        (again,) = await take(consumer, 1)
        await again.ack()
        assert await consumer.next_batch(10, MIB, 0.5) == []
    assert (again.seq, again.num_delivered) == (first.seq, 2)


async def test_both_bounds_cut_a_batch_and_one_message_always_fits(bus: Bus) -> None:
    await publish(bus, 10, size=1000)
    async with PullConsumer(bus, durable="ingest") as consumer:
        await take(consumer, 1)
        while len(consumer._received) < 9:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert len(await consumer.next_batch(3, MIB, 1.0)) == 3
        assert len(await consumer.next_batch(100, 2_500, 1.0)) == 2
        assert len(await consumer.next_batch(100, 1, 1.0)) == 1


async def test_more_than_one_pull_asks_for_is_delivered_whole(bus: Bus) -> None:
    await publish(bus, 250, size=2000)
    async with PullConsumer(bus, durable="ingest", batch=40, max_bytes=30_000) as consumer:
        deliveries = await take(consumer, 250)
    assert [d.seq for d in deliveries] == list(range(1, 251))


async def test_an_empty_stream_gives_an_empty_batch_in_time(bus: Bus) -> None:
    async with PullConsumer(bus, durable="ingest") as consumer:
        started = time.monotonic()
        assert await consumer.next_batch(10, MIB, 0.3) == []
        assert time.monotonic() - started < 20, "the pull itself expires after 30"
        assert consumer.rebuilds == 0


async def test_the_consumer_goes_on_after_the_server_was_killed(bus: Bus, server: NatsServer) -> None:
    await publish(bus, 20)
    async with PullConsumer(bus, durable="ingest") as consumer:
        await consumer.ack_all(await take(consumer, 20))
        before = server.pid
        await server.kill()
        assert await consumer.next_batch(10, MIB, 0.2) == []
        await server.start()
        assert server.pid != before
        await publish(bus, 20)
        seen: set[int] = set()
        # The acknowledgement floor may be lost with the server, then everything comes again.
        while not seen >= set(range(21, 41)):
            deliveries = await consumer.next_batch(100, MIB, 1.0)
            await consumer.ack_all(deliveries)
            seen |= {d.seq for d in deliveries}
        assert await consumer.pending() == 0


async def test_a_consumer_that_is_deleted_is_made_again(bus: Bus) -> None:
    await publish(bus, 5)
    async with PullConsumer(bus, durable="ingest", heartbeat=0.2, stalled_after=0.5) as consumer:
        await take(consumer, 5)
        await bus.link.api(f"CONSUMER.DELETE.{EVENTS_STREAM}.ingest")
        await publish(bus, 5)
        # A second time, where it is silent once more before all have come.
        seen: set[int] = set()
        while seen != set(range(1, 11)):
            seen |= {d.seq for d in await take(consumer, 1)}
        assert consumer.rebuilds > 0


async def test_a_consumer_whose_folder_went_with_an_older_one_of_its_name_is_made_again(
    bus: Bus, server: NatsServer
) -> None:
    await publish(bus, 3)
    async with PullConsumer(bus, durable="ingest") as consumer:
        await consumer.ack_all(await take(consumer, 3))
        (folder,) = server.folder.glob(f"store/jetstream/APP/streams/{EVENTS_STREAM}/obs/ingest")
        # Out of the way in one step: the server writes into it a moment after every acknowledgement.
        folder.rename(server.folder / "gone")
        before = consumer.rebuilds
        consumer._inbox.lose()  # type: ignore[union-attr]
        await publish(bus, 1)
        # Counts from the beginning again, as a consumer does that somebody deleted.
        seen: set[int] = set()
        while len(seen) < 4:
            deliveries = await consumer.next_batch(10, MIB, 1.0)
            seen |= {delivery.seq for delivery in deliveries}
            await consumer.ack_all(deliveries)
        assert seen == {1, 2, 3, 4}
        assert consumer.rebuilds > before
        assert await consumer.pending() == 0


async def test_a_pull_the_server_forgot_is_noticed_and_asked_again(bus: Bus) -> None:
    async with PullConsumer(bus, durable="ingest", heartbeat=0.2, stalled_after=0.5) as consumer:
        assert await consumer.next_batch(10, MIB, 0.1) == []
        assert consumer._inbox is not None
        assert consumer._inbox.subscription is not None
        # Deaf, as after a subscription the server lost: no message, no heartbeat, no error.
        await consumer._inbox.subscription.unsubscribe()
        await publish(bus, 3)
        assert len(await take(consumer, 3)) == 3
        assert consumer.rebuilds > 0


async def test_a_dead_letter_keeps_the_bytes_and_says_why_and_where_from(bus: Bus) -> None:
    poison = b"\xff\x00\xfe" * 300_000
    await bus.publisher.publish(Outgoing(subject="swarm.events.a.b", payload=poison, event_id=new_id()))
    letters = DeadLetters(bus)
    async with PullConsumer(bus, durable="ingest") as consumer:
        (delivery,) = await take(consumer, 1)
        ack = await letters.put(delivery, "not_an_event", "line one\r\nline two\udcff" + "x" * 5_000)
        again = await letters.put(delivery, "not_an_event", "again")
        await delivery.term()
    assert (again.seq, again.duplicate) == (ack.seq, True)
    (letter,) = await letters.list()
    assert letter == await letters.get(ack.seq)
    assert letter.payload == poison
    assert (letter.reason, letter.original_subject, letter.original_seq) == ("not_an_event", "swarm.events.a.b", 1)
    assert letter.original_time == delivery.time
    assert letter.detail.startswith("line one line two")
    with pytest.raises(MessageMissing):
        await letters.get(99)


async def test_a_dead_letter_of_the_largest_message_fits(bus: Bus) -> None:
    largest = Outgoing(
        subject="swarm.events.a.b", payload=b"x" * (MIB - 70_000), event_id=new_id(), headers={"big": "y" * 60_000}
    )
    await bus.publisher.publish(largest)
    stored = await bus.link.api(f"STREAM.INFO.{EVENTS_STREAM}")
    assert stored["state"]["messages"] == 1
    async with PullConsumer(bus, durable="ingest") as consumer:
        (delivery,) = await take(consumer, 1)
    await DeadLetters(bus).put(delivery, "reason", "detail")
    assert [letter.payload for letter in await DeadLetters(bus).list()] == [largest.payload]


async def test_a_large_batch_is_acknowledged_whole_once_its_last_message_is_confirmed(bus: Bus) -> None:
    await publish(bus, 3000)
    async with PullConsumer(bus, durable="ingest", ack_wait=60) as consumer:
        await consumer.ack_all(await take(consumer, 3000))
        info = await bus.link.api(f"CONSUMER.INFO.{EVENTS_STREAM}.ingest")
    assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (0, 3000)
