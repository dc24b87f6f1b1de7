"""A live stream at 1,000 events/s whose connections are cut 200 times, anywhere: no gap, no repeat."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from enchanted.benchmarks.listeners import RUN, text_frame
from enchanted.benchmarks.players import player
from enchanted.bus.connection import Bus
from enchanted.bus.testing import nats_server
from enchanted.schemas.events import StoredEvent
from enchanted.serve.auth import Access
from enchanted.serve.buslink import BusLink
from enchanted.serve.dependencies import Dependencies
from enchanted.serve.store import Store
from enchanted.serve.testing import served

TOKEN = "live-token"
RATE = 1_000
Seen = list[tuple[int, str]]
"""Sequence and id of each event."""
Frames = Callable[[bytearray], Iterator[Seen]]
"""Takes what is whole from the beginning of what was received."""
Opened = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


class Cut:
    """A client whose connection is cut again and again, after a drawn number of bytes or a drawn time."""

    def __init__(self, url: str, opened: Opened, frames: Frames, seed: int, pause: float) -> None:
        self.seen: Seen = []
        self.cuts = self.in_a_frame = 0
        self._address = urlsplit(url)
        self._opened, self._frames = opened, frames
        self._chance = random.Random(seed)
        self._pause = pause

    async def follow(self, count: int, cuts: int) -> None:
        """Until ``count`` events came and ``cuts`` were made."""
        while len(self.seen) < count or self.cuts < cuts:
            reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
            try:
                # Some are cut before they are answered, and some in their head.
                allowed = self._chance.randrange(self._chance.choice((600, 100_000, 500_000, 500_000)))
                await self._opened(reader, writer, self.seen[-1][0] if self.seen else 0)
                await self._read(reader, count, allowed, self._chance.uniform(0, 2 * self._pause))
            finally:
                writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, count: int, allowed: int, seconds: float) -> None:
        received, deadline = bytearray(), time.monotonic() + seconds
        while allowed > 0 and (left := deadline - time.monotonic()) > 0:
            try:
                piece = await asyncio.wait_for(reader.read(min(allowed, 65_536)), left)
            except TimeoutError:
                break
            assert piece, "the server ended a stream by itself"
            allowed -= len(piece)
            received += piece
            for events in self._frames(received):
                self.seen += events
            assert len(self.seen) <= count
        self.cuts += 1
        self.in_a_frame += bool(received)


async def open_sse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, after: int) -> None:
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nLast-Event-ID: {after}\r\n"
    writer.write(f"GET /api/v1/stream HTTP/1.1\r\n{head}\r\n".encode())


def sse_frames() -> Frames:
    """Out of chunks of HTTP, each of which begins with its size; what is left is a part of one."""

    def frames(received: bytearray) -> Iterator[Seen]:
        if received.startswith(b"HTTP/"):
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            assert received.startswith(b"HTTP/1.1 200 "), bytes(received)
            del received[: end + 4]
        while (end := received.find(b"\r\n")) > 0:
            size = int(received[:end], 16)
            if len(received) < end + 2 + size + 2:
                return
            chunk = bytes(received[end + 2 : end + 2 + size])
            del received[: end + 2 + size + 2]
            yield [_sse_event(frame) for frame in chunk.split(b"\n\n") if b"data: " in frame]

    return frames


def _sse_event(frame: bytes) -> tuple[int, str]:
    identity, data = frame.split(b"\n")
    document = json.loads(data.removeprefix(b"data: "))
    assert int(identity.removeprefix(b"id: ")) == document["seq"]
    return document["seq"], document["event_id"]


async def open_socket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, after: int) -> None:
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    writer.write(f"GET /api/v1/live HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}{key}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.write(text_frame(json.dumps({"token": TOKEN, "resume_from": after, "filter": {"run": RUN}})))


def socket_frames(received: bytearray) -> Iterator[Seen]:
    """Out of WebSocket frames."""
    while len(received) >= 2:
        size, start = received[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(received[2:start], "big")
        if len(received) < start or len(received) < start + size:
            return
        assert received[0] in (0x81, 0x89), "a text or a ping, not an end"
        message = json.loads(received[start : start + size]) if received[0] == 0x81 else {"type": "alive"}
        assert message["type"] in ("events", "alive"), message
        del received[: start + size]
        yield [(event["seq"], event["event_id"]) for event in message.get("events", ())]


@asynccontextmanager
async def serving(nats_url: str, folder: Path) -> AsyncIterator[str]:
    """The API on a real socket; its table store is away."""
    store, bus = Store("http://127.0.0.1:9/default", deadline=2), BusLink(nats_url)
    async with served(Dependencies(store=store, bus=bus, access=Access(token=TOKEN), cache=folder)) as url:
        yield url


async def _first(events: AsyncGenerator[StoredEvent, None], count: int) -> AsyncIterator[StoredEvent]:
    async with aclosing(events):
        async for event in events:
            yield event
            count -= 1
            if not count:
                return


async def check_cuts(folder: Path, seconds: int, cuts: int, seed: int) -> None:
    count = seconds * RATE
    async with (
        nats_server(folder / "nats") as nats,
        serving(nats.url, folder) as url,
        player("offer", nats.url, "", count, RATE, 1) as publisher,
    ):
        clients = (
            Cut(url, open_sse, sse_frames(), seed, seconds / cuts),
            Cut(url, open_socket, socket_frames, seed + 1, seconds / cuts),
        )
        publisher.begin()
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(client.follow(count, cuts)) for client in clients]
        assert all(task.done() for task in following)
        print([(client.cuts, client.in_a_frame) for client in clients], time.monotonic() - begun)
        published = sorted(await publisher.end())
        async with Bus.connect(nats.url) as bus:
            stored = [(one.seq, one.event.event_id) async for one in _first(bus.tail(after=0), count)]
    handed = [at for _, _, at in published]
    assert (count - 1) / (max(handed) - min(handed)) > 0.95 * RATE
    assert [seq for seq, _, _ in published] == [seq for seq, _ in stored] == list(range(1, count + 1))
    for client in clients:
        assert client.cuts >= cuts
        assert client.in_a_frame >= cuts // 10
        assert client.seen == stored


async def test_200_cuts_of_a_stream_at_1000_events_a_second_lose_and_repeat_nothing(tmp_path: Path) -> None:
    await check_cuts(tmp_path, seconds=20, cuts=200, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_2000_cuts_in_two_minutes_lose_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    await check_cuts(tmp_path, seconds=120, cuts=2_000, seed=seed)
