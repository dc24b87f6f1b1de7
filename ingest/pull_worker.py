"""What every ingest worker does: pull, collect, write, acknowledge, in this order, so that no kill loses anything."""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.delivery import Delivery
from enchanted.bus.errors import BusError
from enchanted.ingest.batch import Batch, BatchLimits
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.statistics import Throughput, WorkerStatistics

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
"""Seconds between tries while ClickHouse is away."""
LAST_FLUSH = 10.0
"""Seconds `close` waits for the batch under way."""
_IDLE = 0.5

Verdicts = dict[int, tuple[str, str]]
"""By sequence: one word why a message is a dead letter, and the detail."""


class Numbered(Protocol):
    """A row that came from a message of the stream."""

    @property
    def seq(self) -> int: ...


class Closing(Protocol):
    """A writer, as far as its end goes."""

    async def close(self) -> None: ...


R = TypeVar("R", bound=Numbered)
W = TypeVar("W")
S = TypeVar("S", bound=WorkerStatistics)


class PullWorker(ABC, Generic[R, W, S]):
    """A worker of rows R, whose writer answers W. `run` until `close`; everything is opened by ``async with``."""

    def __init__(
        self,
        bus: Bus,
        consumer: PullConsumer,
        writer: Closing,
        *,
        limits: BatchLimits,
        now: Callable[[], float],
        statistics: S,
    ) -> None:
        self._bus = bus
        self._letters = DeadLetters(bus)
        self._consumer = consumer
        self._closing = writer
        self._limits = limits
        self._now = now
        self._statistics = statistics
        self._throughput = Throughput(now())
        self._stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writing: asyncio.Task[None] | None = None
        self._gave_up = False

    async def __aenter__(self) -> Self:
        try:
            await self._stack.enter_async_context(self._bus)
            self._stack.push_async_callback(self._closing.close)
            await self._stack.enter_async_context(self._consumer)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish the batch under way, then let go; what is not acknowledged comes again later. Idempotent."""
        self._stop.set()
        try:
            async with asyncio.timeout(LAST_FLUSH):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a batch could not be finished within %.0f s; it will be delivered again", LAST_FLUSH)
        await self._stack.aclose()

    def statistics(self) -> S:
        """A snapshot; any thread may ask."""
        now, throughput = self._now(), self._throughput
        return replace(
            self._statistics,
            seconds=now - throughput.begun,
            rows_per_second=throughput.per_second(now),
            rebuilds=self._consumer.rebuilds,
        )

    async def run(self) -> None:
        """Ingest until `close` is called."""
        self._idle.clear()
        try:
            batch: Batch[Delivery] = Batch(self._limits)
            while not self._stop.is_set():
                batch = await self._turn(batch)
            if self._writing is not None:
                await self._writing
            # A copy of an event of what was given up must not be the first before it.
            if batch.items and not self._gave_up:
                await self._flush(batch.items)
        finally:
            await self._abandon()
            self._idle.set()

    @abstractmethod
    async def _decoded(self, deliveries: Sequence[Delivery]) -> tuple[list[R], Verdicts]:
        """The rows, and why the other messages are none."""

    @abstractmethod
    async def _write(self, rows: Sequence[R], *, again: bool, salt: str) -> W:
        """Write rows. ``again``: these were tried before. ``salt``: the same at each try of the same rows.

        Raises:
            TableUnavailable, BusError: not now.
        """

    @abstractmethod
    def _nothing(self) -> W:
        """What `_write` answers of no rows."""

    @abstractmethod
    def _refusals(self, written: W) -> Verdicts:
        """The messages that ClickHouse did not take for what is in them."""

    @abstractmethod
    def _counted(self, was: S, written: W) -> S:
        """The statistics with what was written."""

    async def _turn(self, batch: Batch[Delivery]) -> Batch[Delivery]:
        """Collect; write what is due, one batch at a time, while the next one is collected."""
        if not batch.is_due(self._now()):
            await self._collect(batch, max(0.0, min(_IDLE, batch.wait(self._now()))))
            return batch
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_IDLE)
            if not self._writing.done():
                return batch
            self._writing.result()
        # Told to stop while it was being waited for: what was given up may still come in late.
        if self._gave_up:
            return batch
        await self._collect(batch, 0.0)
        self._writing = asyncio.create_task(self._flush(batch.items))
        return Batch(self._limits)

    async def _collect(self, batch: Batch[Delivery], wait: float) -> None:
        messages, size = batch.room
        if messages and size:
            for delivery in await self._consumer.next_batch(messages, size, wait):
                batch.add(delivery, self._now())

    async def _abandon(self) -> None:
        """Stop a write that is still under way: what it does not acknowledge comes again."""
        writing, self._writing = self._writing, None
        if writing is not None and not writing.done():
            writing.cancel()
            await asyncio.wait({writing})

    async def _flush(self, deliveries: Sequence[Delivery]) -> None:
        by_seq = {delivery.seq: delivery for delivery in deliveries}
        rows, dead = await self._decoded(list(by_seq.values()))
        written = await self._persisted(rows)
        if written is None:
            return
        dead |= self._refusals(written)
        kept = await self._bury(by_seq, dead)
        before = self._statistics
        was = self._counted(before, written)
        self._throughput = self._throughput.plus(was.stored - before.stored, self._now())
        self._statistics = replace(
            was,
            batches=was.batches + 1,
            messages=was.messages + len(by_seq),
            last_batch=len(by_seq),
            dead_letters=was.dead_letters + len(dead) - len(kept),
            last_seq=max(was.last_seq, *by_seq),
        )
        await self._acknowledge([delivery for delivery in deliveries if delivery.seq not in kept])

    async def _persisted(self, rows: Sequence[R]) -> W | None:
        """Write the rows, however long ClickHouse is away; None when told to stop before that."""
        salt = secrets.token_hex(8)
        tries = 0
        while rows:
            try:
                return await self._timed(self._write(rows, again=tries > 0, salt=salt))
            except (TableUnavailable, BusError) as error:
                self._note(error)
            if self._stop.is_set():
                self._gave_up = True
                return None
            tries += 1
            await self._pause(tries)
        return self._nothing()

    async def _timed(self, writing: Awaitable[W]) -> W:
        begun = self._now()
        written = await writing
        took, was = self._now() - begun, self._statistics
        self._statistics = replace(
            was, inserts=was.inserts + 1, insert_seconds=was.insert_seconds + took, last_insert_seconds=took
        )
        return written

    async def _bury(self, by_seq: dict[int, Delivery], dead: Verdicts) -> set[int]:
        """Put the dead where they belong; returns those that could not be and must come again."""
        kept = await self._letters.put_all([(by_seq[seq], why, detail) for seq, (why, detail) in dead.items()])
        if kept:
            # One for all: a full stream refuses thousands at once.
            log.warning("%d dead letters cannot be put now and will come again", len(kept))
            self._note(next(iter(kept.values())))
        return set(kept)

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self._consumer.ack_all(deliveries)
        except BusError as error:
            # They come again, are found in the table and dropped.
            self._note(error)

    async def _pause(self, tries: int) -> None:
        try:
            async with asyncio.timeout(min(LONGEST_PAUSE, 0.1 * 2 ** min(tries, 10))):
                await self._stop.wait()
        except TimeoutError:
            return

    def _note(self, error: Exception) -> None:
        log.warning("%s", error)
        was = self._statistics
        self._statistics = replace(was, last_error=f"{type(error).__name__}: {error}", retries=was.retries + 1)
