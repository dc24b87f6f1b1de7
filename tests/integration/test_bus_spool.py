"""A publisher with a spool, and a server that dies: nothing acknowledged is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import PublishOutcomeUnknown
from enchanted.bus.ordered import read_all
from enchanted.bus.publisher import Publisher
from enchanted.bus.spool import Spool
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, nats_server
from enchanted.cluster.chaos.killed import Victim

SUBJECT = "swarm.events.coder.decision.r"
SHORT_WINDOW = replace(SMALL_LIMITS, duplicate_window=timedelta(seconds=1))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats", limits=SHORT_WINDOW) as running:
        yield running


def outgoing(event_id: str = "", *, expected_last: int | None = None) -> Outgoing:
    return Outgoing(subject=SUBJECT, payload=b"x", event_id=event_id or new_id(), expected_last=expected_last)


async def stored(bus: Bus) -> list[str]:
    return [m.headers["Nats-Msg-Id"] for m in await read_all(bus.link, EVENTS_STREAM, [SUBJECT])]


async def test_messages_of_an_outage_follow_in_order_once(server: NatsServer, tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(12)]
    async with asyncio.timeout(40), Bus.connect(server.url) as bus, Spool(tmp_path / "spool") as spool:
        first = await Publisher(bus.link, spool=spool, spool_after=10).publish(outgoing(names[0]))
        publisher = Publisher(bus.link, spool=spool, spool_after=0.3)
        victim = Victim(server.pid)
        await server.kill()
        away = [await publisher.publish(outgoing(name)) for name in names[1:8]]
        assert publisher.statistics().spool_bytes > 0
        await server.start()
        victim.assert_replaced_by(server.pid)
        later = [await publisher.publish(outgoing(name)) for name in names[8:]]
        await publisher.drain()
        assert (first.spooled, first.seq) == (False, 1)
        assert {(ack.spooled, ack.seq) for ack in away} == {(True, 0)}
        assert all(ack.spooled or ack.seq > 0 for ack in later)
        assert await stored(bus) == names
        assert publisher.statistics().spool_bytes == 0
        await publisher.close()


async def test_an_id_in_the_stream_is_not_published_again_after_the_duplicate_window(
    server: NatsServer, tmp_path: Path
) -> None:
    async with asyncio.timeout(40), Bus.connect(server.url) as bus:
        await bus.publisher.publish(outgoing("a"))
        await bus.publisher.publish(outgoing("twice"))
        # The control: the window is over once the stream takes an id twice, which it would do without the look-up.
        while (await bus.publisher.publish(outgoing("twice"))).duplicate:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        async with Spool(tmp_path / "spool") as spool:
            spool.append([outgoing("a"), outgoing("b"), outgoing("b")])
        async with Spool(tmp_path / "spool") as spool:
            publisher = Publisher(bus.link, spool=spool)
            await publisher.drain()
            await publisher.close()
        assert await stored(bus) == ["a", "twice", "twice", "b"]


async def test_a_hanging_server_does_not_double_what_it_stores_late(server: NatsServer, tmp_path: Path) -> None:
    async with asyncio.timeout(40), Bus.connect(server.url) as bus, Spool(tmp_path / "spool") as spool:
        publisher = Publisher(bus.link, spool=spool, spool_after=0.3)
        await server.pause()
        try:
            acks = [await publisher.publish(outgoing(name)) for name in "abc"]
        finally:
            server.resume()
        await publisher.drain()
        assert all(ack.spooled for ack in acks)
        assert await stored(bus) == ["a", "b", "c"]
        await publisher.close()


async def test_a_conditional_message_is_never_spooled(server: NatsServer, tmp_path: Path) -> None:
    async with asyncio.timeout(40), Bus.connect(server.url) as bus, Spool(tmp_path / "spool") as spool:
        publisher = Publisher(bus.link, spool=spool, spool_after=0.3, retry_for=1.0)
        victim = Victim(server.pid)
        await server.kill()
        assert (await publisher.publish(outgoing("a"))).spooled
        with pytest.raises(PublishOutcomeUnknown):
            await publisher.publish(outgoing("b", expected_last=0))
        await server.start()
        victim.assert_replaced_by(server.pid)
        await publisher.drain()
        assert await stored(bus) == ["a"]
        await publisher.close()
