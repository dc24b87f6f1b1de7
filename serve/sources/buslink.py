"""The API's connection to the bus: made when first needed, so the API starts and answers while NATS is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from enchanted.bus.connection import Bus
from enchanted.bus.errors import BlobUnusable, BusError, MessageMissing
from enchanted.bus.reader import RawMessage, consumer_state, message_at
from enchanted.bus.streams import EVENTS_STREAM, StreamInfo
from enchanted.bus.subjects import run_filters
from enchanted.schemas.events import StoredEvent, SwarmEvent
from enchanted.serve.errors import BusUnavailable, ContentUnavailable

AT_ONCE = 64
"""Single messages asked for at a time."""
BUS_DEADLINE = 5.0
"""Seconds a single question to the bus may take."""
RUN_DEADLINE = 30.0
"""Seconds to read a whole run from the stream."""


class BusLink:
    """One shared connection; every use has a deadline and fails as BusUnavailable."""

    def __init__(self, url: str, *, name: str = "enchanted-api", deadline: float = BUS_DEADLINE) -> None:
        self._url = url
        self._name = name
        self._deadline = deadline
        self._bus: Bus | None = None
        self._stack = AsyncExitStack()
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave the bus."""
        self._bus = None
        await self._stack.aclose()

    async def connected(self) -> Bus:
        """The connection itself, for what has its own deadlines."""
        async with self.use() as bus:
            return bus

    @asynccontextmanager
    async def use(self, deadline: float | None = None) -> AsyncIterator[Bus]:
        """The connection, for questions that must be answered within ``deadline`` seconds.

        Raises:
            BusUnavailable: no connection, no answer in time, or a refusal.
        """
        seconds = self._deadline if deadline is None else deadline
        try:
            async with asyncio.timeout(seconds):
                yield await self._connect()
        except TimeoutError as error:
            raise BusUnavailable(f"no answer within {seconds:g} s") from error
        except (BusError, OSError) as error:
            raise BusUnavailable(str(error)) from error

    async def stream_info(self) -> StreamInfo:
        """What the stream holds."""
        async with self.use() as bus:
            return await bus.stream_info()

    async def ends_of_run(self, run: str) -> tuple[int, int] | None:
        """The sequences of the first and the last event that the stream holds on the run's own subjects."""
        questions = [
            question
            for subject in run_filters(run)
            for question in ({"seq": 1, "next_by_subj": subject}, {"last_by_subj": subject})
        ]
        async with self.use() as bus:
            found = await asyncio.gather(*(message_at(bus.link, EVENTS_STREAM, one) for one in questions))
        seqs = [message.seq for message in found if message is not None]
        return (min(seqs), max(seqs)) if seqs else None

    async def acknowledged(self, durable: str) -> int:
        """The sequence up to which a consumer of the stream has acknowledged every event; 0 where there is none."""
        async with self.use() as bus:
            state = await consumer_state(bus.link, EVENTS_STREAM, durable)
        return state.acknowledged if state else 0

    async def read_run(self, run: str, *, until: int | None = None) -> list[StoredEvent]:
        """Every event of a run that the stream still holds, up to a sequence."""
        await self.stream_info()  # a bus that is away is told apart from a long run within the short deadline
        async with self.use(RUN_DEADLINE) as bus:
            return await bus.read_run(run, until=until)

    async def read_events(self, seqs: Sequence[int]) -> list[StoredEvent]:
        """The events with these sequences, without those the stream no longer holds."""
        found: list[StoredEvent | RawMessage | None] = []
        async with self.use(RUN_DEADLINE) as bus:
            for start in range(0, len(seqs), AT_ONCE):
                found += await asyncio.gather(*(_get(bus, seq) for seq in seqs[start : start + AT_ONCE]))
        return [stored for stored in found if isinstance(stored, StoredEvent)]

    async def inflate(self, event: SwarmEvent) -> SwarmEvent:
        """The event with its moved-out fields.

        Raises:
            ContentUnavailable: the store does not have them.
        """
        async with self.use() as bus, _named_content():
            return await bus.inflate(event)

    async def blob(self, sha256: str) -> bytes:
        """One object of the store, checked.

        Raises:
            ContentUnavailable: there is none, or another one.
        """
        async with self.use(RUN_DEADLINE) as bus, _named_content():
            return await bus.blobs.get(sha256)

    async def _connect(self) -> Bus:
        async with self._connecting:
            if self._bus is None:
                self._bus = await self._stack.enter_async_context(Bus.connect(self._url, name=self._name))
            return self._bus


@asynccontextmanager
async def _named_content() -> AsyncIterator[None]:
    """Any event may name content that nobody stored; the bus is well all the same."""
    try:
        yield
    except BlobUnusable as error:
        raise ContentUnavailable(str(error)) from error


async def _get(bus: Bus, seq: int) -> StoredEvent | RawMessage | None:
    try:
        return await bus.get(seq)
    except MessageMissing:
        return None
