"""Live events: resume after a sequence, catch up, go on live, without gap or repeat; as SSE here, or a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import Annotated, Any, Protocol, Self

import anyio
import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enchanted.bus.errors import BusError, StreamMadeAgain
from enchanted.bus.streams import EVENTS_STREAM, StreamInfo
from enchanted.schemas.events import Kind, Role, StoredEvent, kind_of, role_of, run_of
from enchanted.serve.errors import BadRequest, SequenceAhead, ServeError, StoreUnavailable, TooManyStreams
from enchanted.serve.live.shared import PIECE, Piece, SharedTail, Sharing, Told, cut, piece_of
from enchanted.serve.queries.events import row_document
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, Identifier, Sequence
from enchanted.serve.sources.store import PAGE

log = logging.getLogger(__name__)
router = APIRouter(prefix="/api/v1", tags=["live"])

BUFFER = 512
"""Events read ahead of a client."""
READERS = 48
"""Clients that may catch up at the same time: each takes a consumer, of which the stream allows a hundred."""
LAG = 5_000
"""Sequences by which one part of the table may be behind another."""
RECONNECT_MILLISECONDS = 1_000


class LiveQuery(BaseModel):
    """What to see; the filters are joined by "and"."""

    model_config = ConfigDict(extra="forbid")

    run: Identifier = ""
    trace: Identifier = ""
    agent: Identifier = ""
    role: Role | None = None
    kind: Kind | None = None
    after: Sequence | None = None
    """Begin after this sequence; from now on by default. A Last-Event-ID goes before it."""

    def wants(self, stored: StoredEvent) -> bool:
        """The event passes every filter."""
        event = stored.event
        return (
            (not self.run or self.run == run_of(event))
            and (not self.trace or self.trace == event.trace_id)
            and (not self.agent or self.agent in (event.agent_id, event.agent_name))
            and (self.role is None or self.role == role_of(event))
            and (self.kind is None or self.kind == kind_of(event))
        )

    def bound(self) -> dict[str, Any]:
        """The same for the table."""
        words = {"run": self.run, "trace": self.trace, "agent": self.agent}
        return {**words, "role": self.role or "", "kind": self.kind or "", "since": 0, "until": 0, "q": ""}


class Places:
    """So many at a time. A place is taken before anything is waited for, and given back whatever happens."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for as long as the block takes.

        Raises:
            TooManyStreams: there is none.
        """
        if self.taken >= self._most:
            raise TooManyStreams(self._most)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Streams:
    """The live streams of this process."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self.places = Places(deps.max_streams)
        self.plays = Places(deps.max_plays)
        self.waiting = Places(deps.max_streams)
        """Of sockets that have not said who they are: they must not take the places of those who have."""
        self._sharing = Sharing(self._tail)
        self._readers = asyncio.Semaphore(READERS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sharing.close()

    async def begin(self, query: LiveQuery, after: int | None) -> AsyncGenerator[Piece, None]:
        """What a client that has a place is to be told, starting after ``after``, or now; it never ends.

        Raises:
            SequenceAhead: the stream never had that sequence.
        """
        info = await self._deps.bus.stream_info()
        start = info.last_seq if after is None else after
        if start > info.last_seq:
            raise SequenceAhead(start, info.last_seq)
        if query.run and start < info.last_seq:
            start = min(info.last_seq, max(start, await self._before(query.run, info.created)))
        return self._pieces(query, start, info)

    async def _before(self, run: str, created: datetime) -> int:
        """A sequence that every event of the run comes after in the stream of that time: older ones need no look."""
        ends = await self._deps.bus.ends_of_run(run)
        try:
            known = (await self._deps.store.rows("run_bounds", run=run, created=created))[0]
        except StoreUnavailable:
            return 0
        # The stream knows its own subjects exactly. What others wrote of the run the table alone knows, and several
        # workers fill that: what one has written may be a little ahead of another.
        firsts = [first for first in (known["first_seq"], ends[0] if ends else 0) if first]
        return max(0, min(firsts, default=known["newest"]) - LAG)

    @property
    def slow(self) -> float:
        """Seconds a client may take for one piece."""
        return self._deps.slow_client

    async def _pieces(self, query: LiveQuery, start: int, info: StreamInfo) -> AsyncGenerator[Piece, None]:
        # Whoever is cut off before the first event comes back to here, and not to the "now" of then.
        yield Piece(seen=start)
        while start + 1 < info.first_seq:
            async with aclosing(self._from_table(query, start, info.first_seq)) as old:
                async for piece in old:
                    yield piece
            start = info.first_seq - 1
            # Reading the table takes minutes where it is long, in which the stream lets go of more.
            begun, info = info.created, await self._deps.bus.stream_info()
            if info.created != begun:
                raise StreamMadeAgain(EVENTS_STREAM, start)
        async with aclosing(self._from_stream(query, start, info)) as pieces:
            async for piece in pieces:
                yield piece

    async def _from_table(self, query: LiveQuery, after: int, before: int) -> AsyncGenerator[Piece, None]:
        """What the stream no longer holds."""
        bounds = {"after": after}
        while True:
            rows, more = await self._deps.store.fitting_events(
                "events_page", PAGE, before=before, **query.bound(), **bounds
            )
            for piece in cut((row.seq, orjson.dumps(row_document(row))) for row in rows):
                yield piece
            if not more:
                return
            bounds = rows[-1].behind

    async def _from_stream(self, query: LiveQuery, after: int, info: StreamInfo) -> AsyncGenerator[Piece, None]:
        """Up to the newest with a reader of its own, then with all others, and back when they are too far ahead."""
        async with self._sharing.joined(after, info) as shared:
            begun = False
            while True:
                if after < shared.window.floor:
                    async with aclosing(self._caught_up(after, shared)) as pieces:
                        async for taken in pieces:
                            async with aclosing(self._without_gap(query, after, taken)) as whole:
                                async for piece in whole:
                                    yield piece
                            after = taken[-1].stored.seq if taken else after
                taken = await shared.wait(after, self._deps.heartbeat)
                if taken and not begun:
                    async with aclosing(self._without_gap(query, after, taken)) as whole:
                        async for piece in whole:
                            yield piece
                elif taken or after >= shared.window.floor:
                    yield shared.piece((*query.bound().values(), after), taken, query.wants)
                begun = begun or bool(taken)
                after = taken[-1].stored.seq if taken else after

    async def _without_gap(self, query: LiveQuery, after: int, taken: list[Told]) -> AsyncGenerator[Piece, None]:
        """What a reader of its own has taken, and before it what the stream let go of while that was on its way."""
        begin = 0
        for place, told in enumerate(taken):
            before = taken[place - 1].stored.seq if place else after
            # Bytes that are no event leave a gap too.
            if told.stored.seq == before + 1 or (await self._deps.bus.stream_info()).first_seq <= before + 1:
                continue
            if place > begin:
                yield piece_of(taken[begin:place], query.wants)
            begin = place
            async with aclosing(self._from_table(query, before, told.stored.seq)) as missed:
                async for piece in missed:
                    yield piece
        yield piece_of(taken[begin:], query.wants)

    async def _caught_up(self, after: int, shared: SharedTail) -> AsyncGenerator[list[Told], None]:
        """What comes after a sequence, until the window has all that is to come; empty for a sign of life."""
        while not await _free(self._readers, self._deps.heartbeat):
            yield []
        try:
            async with aclosing(self._read_alone(after, shared)) as pieces:
                async for taken in pieces:
                    yield taken
        finally:
            self._readers.release()

    async def _read_alone(self, after: int, shared: SharedTail) -> AsyncGenerator[list[Told], None]:
        queue: asyncio.Queue[StoredEvent] = asyncio.Queue(BUFFER)

        async def pump() -> None:
            async with aclosing(self._tail(after, shared.created)) as events:
                async for stored in events:
                    await queue.put(stored)

        reader = asyncio.create_task(pump())
        try:
            while after < shared.window.floor:
                taken = await _next_events(queue, reader, self._deps.heartbeat)
                after = taken[-1].stored.seq if taken else after
                yield taken
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError, BusError, ServeError):
                await reader

    async def _tail(self, after: int, created: datetime) -> AsyncGenerator[StoredEvent, None]:
        bus = await self._deps.bus.connected()
        async with aclosing(bus.tail(after=after, created=created)) as events:
            async for stored in events:
                yield stored


async def _next_events(queue: asyncio.Queue[StoredEvent], reader: asyncio.Task[None], heartbeat: float) -> list[Told]:
    """What has arrived, after waiting up to ``heartbeat`` seconds for the first; empty when nothing did."""
    getter = asyncio.create_task(queue.get())
    try:
        await asyncio.wait({getter, reader}, timeout=heartbeat, return_when=asyncio.FIRST_COMPLETED)
        if not getter.done():
            if reader.done():
                reader.result()
            return []
        taken, size = [Told(getter.result())], 0
    finally:
        getter.cancel()
    while not queue.empty() and size < PIECE:
        taken.append(Told(queue.get_nowait()))
        size += len(taken[-1].stored.raw)
    return taken


async def _free(readers: asyncio.Semaphore, seconds: float) -> bool:
    """Take a place, waiting up to ``seconds``; whether there was one."""
    try:
        async with asyncio.timeout(seconds):
            return await readers.acquire()
    except TimeoutError:
        return False


class Framed(Protocol):
    """What can be sent."""

    @property
    def frames(self) -> bytes:
        """As server-sent events."""
        ...


class LiveResponse(Response):
    """Sends pieces as server-sent events until they end, or the client goes or is too slow."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[Framed, None], streams: Streams) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from its head to its end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._send_all(send)
            group.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> None:
        try:
            async with aclosing(self._pieces) as pieces:
                await self._send(send, f"retry: {RECONNECT_MILLISECONDS}\n\n".encode())
                async for piece in pieces:
                    await self._send(send, piece.frames)
        except TimeoutError:
            log.warning("a live client took nothing for %g s and was cut off; it can resume", self._streams.slow)
            return
        except (BusError, ServeError) as error:
            # The head is out, so all that can be said is the end; the client resumes.
            log.warning("a live stream ended: %s", error)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, body: bytes) -> None:
        async with asyncio.timeout(self._streams.slow):
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def taken_place(request: Request) -> AsyncGenerator[None, None]:
    """Taken before the request waits for anything, given back after its answer was sent."""
    streams: Streams = request.app.state.streams
    with streams.places.one():
        yield


@router.get(
    "/stream",
    response_model=None,
    dependencies=[Depends(taken_place)],
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events; each frame's id is its SEQ"}},
)
async def stream(
    query: Annotated[LiveQuery, Query()],
    request: Request,
    deps: Deps,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Response:
    """Events as they are stored, from a sequence on when one is named."""
    streams: Streams = request.app.state.streams
    after = query.after if last_event_id is None else position(last_event_id)
    return LiveResponse(await streams.begin(query, after), streams)


def position(text: str) -> int:
    """The sequence that a Last-Event-ID names.

    Raises:
        BadRequest: it names none.
    """
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_SEQ:
        raise BadRequest("Last-Event-ID must be the sequence of the last event seen, as the stream gave it")
    return int(text)
