"""Dead letters on a real server: nothing is too odd to be buried, and nothing is buried twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.delivery import Delivery
from enchanted.bus.errors import BusUnavailable
from enchanted.bus.reader import RawMessage
from enchanted.bus.streams import DEAD_LETTERS_STREAM
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, nats_server

SUBJECT = "swarm.events.a.b"
SHORT_WINDOW = replace(SMALL_LIMITS, duplicate_window=timedelta(seconds=1))
MIB = 1024 * 1024


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats", limits=SHORT_WINDOW) as running:
        yield running


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with asyncio.timeout(60), Bus.connect(server.url) as connected:
        yield connected


async def delivered(bus: Bus, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with PullConsumer(bus, durable="ingest") as consumer:
        while len(taken) < count:
            taken += await consumer.next_batch(count - len(taken), 8 * MIB, 1.0)
    return taken


def original(seq: int, *, age: timedelta = timedelta(hours=1), subject: str = SUBJECT) -> RawMessage:
    time = datetime.now(UTC) - age
    return RawMessage(seq=seq, time=time, subject=subject, payload=b"x%d" % seq, headers={"Nats-Msg-Id": f"m-{seq}"})


async def window_over(bus: Bus, event_id: str) -> None:
    """Until the stream takes this id again, which shows that the window does not protect any more."""
    probe = Outgoing(subject="swarm.dead.probe", payload=b"", event_id=event_id)
    await bus.publisher.publish(probe)
    while (await bus.publisher.publish(probe)).duplicate:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def buried(bus: Bus) -> list[tuple[int, str]]:
    """Sequence and reason of the originals."""
    return [(letter.original_seq, letter.reason) for letter in await DeadLetters(bus).list() if letter.reason]


async def test_a_message_with_as_many_bytes_of_headers_as_the_server_takes_is_buried(bus: Bus) -> None:
    poison = b"\xff\x00" * 1000
    headers = {"small": "s", "big": "b" * 40_000, "middle": "m" * 25_400}
    await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=poison, event_id="its-own", headers=headers))
    await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=b"\xfe", event_id="another"))
    deliveries = await delivered(bus, 2)
    assert 65_450 < len(deliveries[0].head) <= 65_535
    letters = DeadLetters(bus)
    assert await letters.put_all([(delivery, "undecodable", "why") for delivery in deliveries]) == {}
    first, second = await letters.list()
    assert (first.payload, first.original_id, first.headers_left_out) == (poison, "its-own", 1)
    assert first.original_headers == {"small": "s", "middle": headers["middle"]}
    assert (second.payload, second.headers_left_out) == (b"\xfe", 0)


async def test_a_message_whose_headers_are_no_utf8_is_buried(bus: Bus) -> None:
    block = b"NATS/1.0\r\nodd: " + b"\xff" * 60_000 + b"\r\nplain: p\r\n\r\n"
    connection = bus.link._connection.client
    await connection._send_command(
        b"HPUB %s  %d %d\r\n%s\xff\r\n" % (SUBJECT.encode(), len(block), len(block) + 1, block)
    )
    await connection._flush_pending()
    (delivery,) = await delivered(bus, 1)
    await DeadLetters(bus).put(delivery, "undecodable", "why")
    (letter,) = await DeadLetters(bus).list()
    assert (letter.payload, letter.original_headers, letter.headers_left_out) == (b"\xff", {"plain": "p"}, 1)


async def test_what_is_buried_again_after_the_duplicate_window_is_there_once(bus: Bus) -> None:
    letters, one, other = DeadLetters(bus), original(7), original(8)
    ack = await letters.put(one, "undecodable", "first")
    await window_over(bus, "probe")
    again = await letters.put(one, "refused", "another reason now")
    assert (again.seq, again.duplicate) == (ack.seq, True)
    assert await letters.put_all([(one, "undecodable", "third"), (other, "undecodable", "new")]) == {}
    assert await buried(bus) == [(7, "undecodable"), (8, "undecodable")]


async def test_a_message_of_another_stream_or_time_with_the_same_sequence_has_its_own_letter(bus: Bus) -> None:
    letters = DeadLetters(bus)
    await letters.put(original(7), "undecodable", "")
    await letters.put(original(7, subject="swarm.spans.otlp"), "undecodable", "")
    await letters.put(original(7, age=timedelta(minutes=5)), "undecodable", "of a stream that was made again")
    subjects = [(letter.original_subject, letter.original_seq) for letter in await letters.list()]
    assert subjects == [(SUBJECT, 7), ("swarm.spans.otlp", 7), (SUBJECT, 7)]


async def test_what_cannot_be_looked_up_is_not_put_and_comes_again(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unanswered(*_: object, **__: object) -> dict[str, object]:
        raise BusUnavailable("STREAM.MSG.GET", "no answer in time")

    monkeypatch.setattr(bus.link, "api", unanswered)
    kept = await DeadLetters(bus).put_all([(original(number), "undecodable", "") for number in range(200)])
    monkeypatch.undo()
    assert set(kept) == set(range(200))
    assert await buried(bus) == []


async def test_a_letter_whose_stream_was_made_again_is_put_again(bus: Bus) -> None:
    letters, one = DeadLetters(bus), original(7)
    await letters.put(one, "undecodable", "")
    await bus.link.api(f"STREAM.DELETE.{DEAD_LETTERS_STREAM}")
    await bus.ensure_streams(SHORT_WINDOW)
    assert not (await letters.put(one, "undecodable", "")).duplicate


async def test_thousands_of_old_messages_are_looked_up_and_buried(bus: Bus) -> None:
    letters = DeadLetters(bus)
    dead = [(original(number), "undecodable", "") for number in range(1, 5_001)]
    assert await letters.put_all(dead) == {}
    assert await letters.put_all(dead) == {}
    assert len(await letters.list(limit=20_000)) == 5_000
