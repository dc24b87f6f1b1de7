"""The newest events of the stream, read once for everyone who follows it live."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import orjson

from enchanted.bus.errors import BusError
from enchanted.bus.streams import StreamInfo
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent
from enchanted.serve.errors import ServeError
from enchanted.serve.queries.events import event_document

KEPT, KEPT_BYTES = 4_096, 16 << 20
"""Events, and bytes of them, that are held for those who are a little behind."""
PIECE = 64 * 1024
"""Bytes after which a piece is sent even if more is waiting."""
LINGER = 5.0
"""Seconds that the tail is read on after the last client went: whoever was cut off comes back after one."""
LAST_PIECES = 8
"""Pieces that are remembered for the others who want the same."""
PACE = 0.0003
"""Seconds between two announcements, for each who listens: waking all of them for every event takes all of a core."""
LEAST_PACE = 0.01
"""Seconds between two announcements at least; the first after a rest is at once. At a thousand events a second a piece
is ten events then, and costs this process, the network and a browser a fraction of ten pieces."""

Tail = Callable[[int, datetime], AsyncGenerator[StoredEvent, None]]
"""Events after a sequence of the stream that was created then, for ever."""
Wants = Callable[[StoredEvent], bool]


class Told:
    """An event, and its document as JSON once somebody wants it."""

    __slots__ = ("_json", "stored")

    def __init__(self, stored: StoredEvent) -> None:
        self.stored = stored
        self._json = b""

    @property
    def json(self) -> bytes:
        """The document; made once, however many are told."""
        if not self._json:
            self._json = orjson.dumps(event_document(self.stored, sha256_hex(self.stored.raw)))
        return self._json


@dataclass(frozen=True)
class Piece:
    """Something to tell a client."""

    events: tuple[tuple[int, bytes], ...] = ()
    """Sequence and JSON of each event."""
    seen: int | None = None
    """Or a sequence that it need not look at again; None for a sign of life."""

    @cached_property
    def frames(self) -> bytes:
        """As server-sent events; put together once for all who get the same piece."""
        if self.events:
            return b"".join(b"id: %d\ndata: %b\n\n" % one for one in self.events)
        return b": alive\n\n" if self.seen is None else b"id: %d\n\n" % self.seen

    @cached_property
    def message(self) -> str:
        """As a message of a WebSocket."""
        if not self.events:
            return orjson.dumps({"type": "alive", "seq": self.seen}).decode()
        events = b",".join(document for _, document in self.events)
        return (b'{"type":"events","seq":%d,"events":[%b]}' % (self.events[-1][0], events)).decode()


def piece_of(taken: list[Told], wants: Wants) -> Piece:
    """What is wanted of some events; a position if nothing is, a sign of life if there are none."""
    wanted = tuple((told.stored.seq, told.json) for told in taken if wants(told.stored))
    return Piece(wanted, None if wanted or not taken else taken[-1].stored.seq)


def cut(events: Iterable[tuple[int, bytes]]) -> Iterator[Piece]:
    """Sequences and JSON of events in pieces; two that share a sequence stay together: nobody resumes between them."""
    ready, size = list[tuple[int, bytes]](), 0
    for seq, document in events:
        if size >= PIECE and seq != ready[-1][0]:
            yield Piece(tuple(ready))
            ready, size = [], 0
        ready.append((seq, document))
        size += len(document)
    if ready:
        yield Piece(tuple(ready))


class Window:
    """The events after ``floor`` in their order, as many of the newest as are kept."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        """Every event after this sequence is here, or has not come yet."""
        self._events: list[Told] = []
        self._seqs: list[int] = []
        self._bytes = 0

    @property
    def newest(self) -> int:
        """The last sequence that came."""
        return self._seqs[-1] if self._seqs else self.floor

    def add(self, stored: StoredEvent) -> None:
        """The next one; half of the window is forgotten when it is full."""
        self._events.append(Told(stored))
        self._seqs.append(stored.seq)
        self._bytes += len(stored.raw)
        if len(self._seqs) > KEPT or self._bytes > KEPT_BYTES:
            half = (len(self._seqs) + 1) // 2
            self.floor = self._seqs[half - 1]
            self._bytes -= sum(len(one.stored.raw) for one in self._events[:half])
            del self._events[:half], self._seqs[:half]

    def after(self, seq: int) -> list[Told]:
        """A piece of what comes after ``seq``, which is not below the floor."""
        start = end = bisect_right(self._seqs, seq)
        size = 0
        while end < len(self._events) and size < PIECE:
            size += len(self._events[end].stored.raw)
            end += 1
        return self._events[start:end]


class SharedTail:
    """One reader of the stream while anybody listens; its ``window`` grows, and who waits is told."""

    def __init__(self, tail: Tail, floor: int, created: datetime) -> None:
        self.created = created
        """When the stream was that is read."""
        self.window = Window(floor)
        self.listeners = 0
        self._tail = tail
        self._shown = floor
        self._last_pieces: dict[tuple[object, ...], Piece] = {}
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Stop reading."""
        self._reader.cancel()
        with suppress(asyncio.CancelledError, BusError, ServeError):
            await self._reader

    @property
    def ended(self) -> bool:
        """Whether it reads no more, which only a failure brings about."""
        return self._reader.done()

    async def wait(self, after: int, seconds: float) -> list[Told]:
        """A piece of what comes after ``after``, waiting up to ``seconds`` for it; empty when nothing came.

        Raises:
            BusError, ServeError: the reader failed.
        """
        if self.window.floor <= after < self._shown:
            return self.window.after(after)
        news = self._news
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await news.wait()
        # Whoever was woken late may have been left behind; the caller looks at the floor again.
        if after < self.window.floor:
            return []
        found = self.window.after(after)
        if not found and self._reader.done():
            self._reader.result()
        return found

    def piece(self, place: tuple[object, ...], taken: list[Told], wants: Wants) -> Piece:
        """The piece of ``taken``; one object for all whose ``place`` (filters and position) is the same.

        That is most of them, whenever something comes.
        """
        key = (*place, taken[-1].stored.seq if taken else 0)
        piece = self._last_pieces.get(key)
        if piece is None:
            if len(self._last_pieces) >= LAST_PIECES:
                self._last_pieces.clear()
            piece = self._last_pieces[key] = piece_of(taken, wants)
        return piece

    async def _read(self) -> None:
        loop, due = asyncio.get_running_loop(), 0.0
        try:
            async with aclosing(self._tail(self.window.floor, self.created)) as events:
                async for stored in events:
                    self.window.add(stored)
                    if due > loop.time():
                        continue
                    due = max(loop.time(), due + max(LEAST_PACE, PACE * self.listeners))
                    loop.call_at(due, self._announce)
        finally:
            self._announce()

    def _announce(self) -> None:
        self._shown = self.window.newest
        news, self._news = self._news, asyncio.Event()
        news.set()


class Sharing:
    """The shared tail, from the first who listens until a while after the last."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._shared: SharedTail | None = None
        self._ending: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop reading."""
        shared, self._shared = self._shared, None
        if self._ending is not None:
            self._ending.cancel()
        if shared is not None:
            await shared.close()

    @asynccontextmanager
    async def joined(self, after: int, info: StreamInfo) -> AsyncIterator[SharedTail]:
        """The tail that all read; the first one's begins where he does if that is near.

        So a client that comes back finds what it missed in there, and needs no reader of its own.
        """
        former = self._shared
        if former is None or former.ended or former.created != info.created:
            floor = after if info.last_seq - after <= KEPT // 2 else info.last_seq
            self._shared = SharedTail(self._tail, floor, info.created)
            if former is not None and not former.listeners:
                await former.close()
        shared = self._shared
        assert shared is not None
        shared.listeners += 1
        try:
            yield shared
        finally:
            shared.listeners -= 1
            if not shared.listeners:
                await self._left(shared)

    async def _left(self, shared: SharedTail) -> None:
        """The last one who listened to it has gone."""
        if shared is not self._shared:
            await shared.close()
            return
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.create_task(self._end(shared))

    async def _end(self, shared: SharedTail) -> None:
        await asyncio.sleep(LINGER)
        if shared is self._shared and not shared.listeners:
            self._shared = None
            await shared.close()
