"""What a pull consumer asks a real server for, and when it is made again: seen from a connection that only listens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.bus.testing import NatsServer, nats_server

MIB = 1024 * 1024
DURABLE = "ingest"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with asyncio.timeout(60), Bus.connect(server.url) as connected:
        yield connected


@dataclass(slots=True)
class Wire:
    """What went over it, in the server's order."""

    asked: int = 0
    delivered: int = 0
    left_when_asked: list[int] = field(default_factory=list)
    """At each pull: of the messages asked for before it, those that were not delivered yet."""
    most_asked: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def see(self, message: Msg) -> None:
        if message.subject.startswith("$JS.API.CONSUMER.MSG.NEXT."):
            self.left_when_asked.append(self.asked - self.delivered)
            self.asked += json.loads(message.data)["batch"]
            self.most_asked = max(self.most_asked, self.asked - self.delivered)
        elif message.reply.startswith("$JS.ACK."):
            self.delivered += 1
        self.changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def listening(server: NatsServer) -> AsyncIterator[Wire]:
    """A second reader of all inboxes; a consumer that is made again would go on being sent what its old one gets."""
    client = await nats.connect(server.url)
    wire = Wire()
    try:
        await client.subscribe(">", cb=wire.see)
        await client.flush()
        yield wire
    finally:
        await client.close()


async def publish(bus: Bus, *sizes: int) -> None:
    await bus.publisher.publish_many(
        [Outgoing(subject="swarm.events.coder.decision.r", payload=b"x" * size, event_id=new_id()) for size in sizes]
    )


async def take(consumer: PullConsumer, count: int) -> list[int]:
    """The sequences of exactly ``count`` deliveries, acknowledged."""
    taken: list[int] = []
    while len(taken) < count:
        deliveries = await consumer.next_batch(count - len(taken), 8 * MIB, 1.0)
        await consumer.ack_all(deliveries)
        taken += [delivery.seq for delivery in deliveries]
    return taken


async def info(bus: Bus) -> dict[str, Any]:
    return await bus.link.api(f"CONSUMER.INFO.{EVENTS_STREAM}.{DURABLE}")


async def until_all_is_there(bus: Bus, consumer: PullConsumer, taken: int) -> None:
    """The server has no pull left, so nothing more can come, and all that it sent has come.

    What it says about itself comes another way than the messages, so it may be here before them.
    """
    while True:
        found = await info(bus)
        come = taken + len(consumer._received)
        if not consumer._credit.asking and (found["num_waiting"], found["num_ack_pending"]) == (0, come):
            return


async def test_the_next_pull_is_there_before_the_last_one_is_used_up(bus: Bus, server: NatsServer) -> None:
    consumer = PullConsumer(bus, durable=DURABLE, batch=40, heartbeat=12.0, stalled_after=30.0)
    async with listening(server) as wire, consumer:
        for seq in range(1, 201):
            await publish(bus, 10)
            assert await take(consumer, 1) == [seq]
        await wire.until(lambda: wire.delivered == 200)
        assert wire.left_when_asked[0] == 0
        assert min(wire.left_when_asked[1:]) > 0
        assert len(wire.left_when_asked) > 200 // 40
        assert wire.most_asked <= 40
        assert consumer.rebuilds == 0


async def test_a_reader_who_takes_nothing_is_sent_no_more_messages_than_agreed(bus: Bus) -> None:
    await publish(bus, *[10] * 400)
    async with PullConsumer(bus, durable=DURABLE, batch=40, ack_wait=60) as consumer:
        taken = await consumer.next_batch(1, MIB, 5.0)
        await until_all_is_there(bus, consumer, len(taken))
        # Two pulls, of 20 and of 10; a third one only if both had come whole before the one was taken.
        assert 20 < len(consumer._received) <= 40
        assert await take(consumer, 399) == list(range(2, 401))


async def test_a_reader_who_takes_nothing_is_sent_no_more_bytes_than_agreed(bus: Bus) -> None:
    await publish(bus, *[2_000] * 100)
    async with PullConsumer(bus, durable=DURABLE, max_bytes=30_000, ack_wait=60) as consumer:
        taken = await consumer.next_batch(1, MIB, 5.0)
        await until_all_is_there(bus, consumer, len(taken))
        waiting = sum(delivery.size for delivery in consumer._received)
        assert 15_000 < waiting <= 30_000
        assert await take(consumer, 100 - len(taken)) == list(range(2, 101))


async def test_messages_larger_than_a_pulls_share_come_as_well(bus: Bus) -> None:
    await publish(bus, 100, 20_000, 29_000, 100, 29_000, 20_000, 100)
    async with PullConsumer(bus, durable=DURABLE, max_bytes=30_000) as consumer:
        assert await take(consumer, 7) == list(range(1, 8))
        assert consumer.rebuilds == 0


async def stall(bus: Bus) -> None:
    """Somebody edits the consumer: from now on the server answers with heartbeats and delivers nothing.

    Undone when the consumer is made again.
    """
    config = (await info(bus))["config"] | {"max_ack_pending": 1}
    await bus.link.api(f"CONSUMER.CREATE.{EVENTS_STREAM}.{DURABLE}", {"stream_name": EVENTS_STREAM, "config": config})


class Watched(PullConsumer):
    """Counts heartbeats, and how often it was asked whether it is stalled and was."""

    heartbeats = 0
    asked = 0
    stalled = 0

    def _on_message(self, message: Msg) -> None:
        self.heartbeats += (message.headers or {}).get("Status") == "100"
        super()._on_message(message)

    async def _is_stalled(self) -> bool:
        stalled = await super()._is_stalled()
        self.asked += 1
        self.stalled += stalled
        return stalled


async def goes_on(bus: Bus, consumer: Watched) -> float:
    """Seconds until a consumer that lives and delivers nothing delivers again."""
    await publish(bus, 10)
    (held,) = await consumer.next_batch(1, MIB, 5.0)
    await stall(bus)
    await publish(bus, 10)
    begun, seen = time.monotonic(), consumer.heartbeats
    assert sorted(await take(consumer, 2)) == [held.seq, held.seq + 1]
    assert consumer.heartbeats > seen
    assert (consumer.stalled, consumer.rebuilds) == (1, 1)
    assert (await info(bus))["config"]["max_ack_pending"] > 1
    return time.monotonic() - begun


async def test_a_consumer_that_lives_and_delivers_nothing_is_made_again(bus: Bus) -> None:
    # Silent, which is another reason, it would be after 10 s.
    async with Watched(bus, durable=DURABLE, heartbeat=4.0, stalled_after=5.0) as consumer:
        await goes_on(bus, consumer)


async def test_a_stalled_consumer_goes_on_within_15_seconds_as_it_is_set(bus: Bus) -> None:
    async with Watched(bus, durable=DURABLE) as consumer:
        assert await goes_on(bus, consumer) < 15.0


async def test_a_consumer_that_waits_for_acknowledgements_is_not_made_again(bus: Bus) -> None:
    async with Watched(bus, durable=DURABLE, heartbeat=1.0, stalled_after=0.3, max_ack_pending=5) as consumer:
        await publish(bus, *[10] * 10)
        held = [delivery for _ in range(5) for delivery in await consumer.next_batch(1, MIB, 5.0)]
        assert [delivery.seq for delivery in held] == [1, 2, 3, 4, 5]
        while consumer.heartbeats < 2 or consumer.asked < 2:
            assert await consumer.next_batch(1, MIB, 0.2) == []
        assert (consumer.stalled, consumer.rebuilds) == (0, 0)
        await consumer.ack_all(held)
        assert await take(consumer, 5) == [6, 7, 8, 9, 10]
