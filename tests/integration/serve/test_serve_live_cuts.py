"""A live stream at 1,000 events/s whose connections are cut 200 times, anywhere: no gap, no repeat."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import pytest

from enchanted.benchmarks.listeners import RUN, TOKEN, text_frame
from enchanted.benchmarks.players import player
from enchanted.bus.connection import Bus
from enchanted.bus.testing import free_port, nats_server
from enchanted.schemas.events import StoredEvent

RATE = 1_000
Seen = list[tuple[int, str]]
"""Sequence and id of each event."""
MOST = 150_000
"""Bytes that a connection may bring at most before it is cut: some 110 events."""


class Frames(Protocol):
    """What one connection brings: gives what is whole, and keeps the rest."""

    rest: bytes

    def take(self, piece: bytes) -> Seen: ...


Opened = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


class Cut:
    """A client whose connection is cut again and again, after a drawn number of bytes, and sometimes a drawn time."""

    def __init__(self, port: int, opened: Opened, frames: Callable[[], Frames], seed: int) -> None:
        self.seen: Seen = []
        self.cuts = self.in_a_frame = 0
        self._port = port
        self._opened, self._frames = opened, frames
        self._chance = random.Random(seed)

    async def follow(self, count: int) -> None:
        """Until ``count`` events came."""
        while len(self.seen) < count:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await self._opened(reader, writer, self.seen[-1][0] if self.seen else 0)
                await self._read(reader, count, *self._drawn())
            finally:
                writer.transport.abort()

    def _drawn(self) -> tuple[int, float]:
        """Bytes and seconds after which it is cut; the first bytes of all are the head of an answer."""
        kind = self._chance.random()
        if kind < 0.1:
            return self._chance.randrange(600), 20.0
        if kind < 0.2:
            return MOST, self._chance.uniform(0, 0.2)
        return self._chance.randrange(MOST), 20.0

    async def _read(self, reader: asyncio.StreamReader, count: int, allowed: int, seconds: float) -> None:
        frames, deadline = self._frames(), time.monotonic() + seconds
        while allowed > 0 and (left := deadline - time.monotonic()) > 0 and len(self.seen) < count:
            try:
                piece = await asyncio.wait_for(reader.read(min(allowed, 65_536)), left)
            except TimeoutError:
                break
            assert piece, "the server ended a stream by itself"
            allowed -= len(piece)
            self.seen += frames.take(piece)
        self.cuts += 1
        self.in_a_frame += bool(frames.rest)


async def open_sse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, after: int) -> None:
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nLast-Event-ID: {after}\r\n"
    writer.write(f"GET /api/v1/stream HTTP/1.1\r\n{head}\r\n".encode())


class SseFrames:
    """Server-sent events out of the chunks of HTTP, as far as they are whole; a chunk need not be."""

    def __init__(self) -> None:
        self.rest = b""
        self._head, self._raw, self._left = False, b"", 0

    def take(self, piece: bytes) -> Seen:
        self._raw += piece
        if not self._head:
            head, found, self._raw = self._raw.partition(b"\r\n\r\n")
            if not found:
                self._raw = head
                return []
            assert head.startswith(b"HTTP/1.1 200 "), head
            self._head = True
        self._dechunk()
        *whole, self.rest = self.rest.split(b"\n\n")
        return [_sse_event(frame) for frame in whole if b"data: " in frame]

    def _dechunk(self) -> None:
        while self._raw:
            if not self._left:
                size, found, after = self._raw.removeprefix(b"\r\n").partition(b"\r\n")
                if not found:
                    return
                self._raw, self._left = after, int(size, 16)
            self.rest += self._raw[: self._left]
            taken = min(self._left, len(self._raw))
            self._raw, self._left = self._raw[taken:], self._left - taken


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


class SocketFrames:
    """Events out of whole frames of a WebSocket."""

    def __init__(self) -> None:
        self.rest = b""

    def take(self, piece: bytes) -> Seen:
        self.rest += piece
        seen: Seen = []
        while (frame := _socket_frame(self.rest)) is not None:
            start, end = frame
            assert self.rest[0] in (0x81, 0x89), "a text or a ping, not an end"
            message = json.loads(self.rest[start:end]) if self.rest[0] == 0x81 else {"type": "alive"}
            assert message["type"] in ("events", "alive"), message
            self.rest = self.rest[end:]
            seen += [(event["seq"], event["event_id"]) for event in message.get("events", ())]
        return seen


def _socket_frame(raw: bytes) -> tuple[int, int] | None:
    """Where the body of the first frame begins and ends; None while it is not whole."""
    if len(raw) < 2:
        return None
    start = {126: 4, 127: 10}.get(raw[1], 2)
    if len(raw) < start:
        return None
    end = start + (int.from_bytes(raw[2:start], "big") if start > 2 else raw[1])
    return (start, end) if len(raw) >= end else None


async def _first(events: AsyncGenerator[StoredEvent, None], count: int) -> AsyncIterator[StoredEvent]:
    async with aclosing(events):
        async for event in events:
            yield event
            count -= 1
            if not count:
                return


async def check_cuts(folder: Path, seconds: int, cuts: int, seed: int) -> None:
    count = seconds * RATE
    port = free_port()
    async with (
        nats_server(folder / "nats") as nats,
        player("api", nats.url, port, module="listeners") as api,
        player("offer", nats.url, "", count, RATE, 1) as publisher,
    ):
        clients = (
            Cut(port, open_sse, SseFrames, seed),
            Cut(port, open_socket, SocketFrames, seed + 1),
        )
        api.begin()
        publisher.begin()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.follow(count))
        published = sorted(await publisher.end())
        async with Bus.connect(nats.url) as bus:
            stored = [(one.seq, one.event.event_id) async for one in _first(bus.tail(after=0), count)]
    handed = [at for _, _, at in published]
    assert (count - 1) / (max(handed) - min(handed)) > 0.7 * RATE
    assert [seq for seq, _, _ in published] == [seq for seq, _ in stored] == list(range(1, count + 1))
    for client in clients:
        assert client.cuts >= cuts
        assert client.in_a_frame >= cuts // 2
        assert client.seen == stored


async def test_200_cuts_of_a_stream_at_1000_events_a_second_lose_and_repeat_nothing(tmp_path: Path) -> None:
    await check_cuts(tmp_path, seconds=12, cuts=200, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_2000_cuts_in_two_minutes_lose_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    await check_cuts(tmp_path, seconds=120, cuts=2_000, seed=seed)
