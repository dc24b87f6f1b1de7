"""Pull, collect, write, acknowledge: in this order, so that nothing is lost whatever is killed."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self

from enchanted.bus.connection import Bus
from enchanted.bus.consumer import Delivery, PullConsumer
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.errors import BusError
from enchanted.ingest.batch import Batch, BatchLimits
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.rows import Row, read_row
from enchanted.ingest.writer import Writer, Written
from enchanted.schemas.errors import NotAnEvent

log = logging.getLogger(__name__)

DURABLE = "ingest"
"""The consumer all workers share."""
LONGEST_PAUSE = 5.0
"""Seconds between tries while ClickHouse is away."""
LAST_FLUSH = 10.0
"""Seconds `close` waits for the batch under way."""
_IDLE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestStatistics:
    """What a worker has done since it was started."""

    rows: int = 0
    """Inserted, duplicates included."""
    batches: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    """Later copies of an event id."""
    conflicting: int = 0
    """Later copies with other bytes than the first."""
    present: int = 0
    """Delivered again although they were in the table: dropped."""
    retries: int = 0
    last_seq: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class _Subscription:
    created: datetime
    """Of the stream."""
    highest: int
    """In the table when it began: what is not above may be there already."""


def collect_seldom() -> None:
    """For a process that only ingests: look for garbage in cycles seldom, and not among what is there already.

    What is made for each event is freed by its count, so a collection finds nothing; it cost a sixth of the CPU.
    """
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)


class IngestWorker:
    """One worker of the pool. `run` until `close`; everything is opened by ``async with``."""

    def __init__(
        self,
        *,
        nats_url: str,
        clickhouse_url: str,
        name: str = "ingest-0",
        limits: BatchLimits = BatchLimits(),  # noqa: B008 - frozen
        ack_wait: float = 60.0,
        now: Callable[[], float] = time.monotonic,
        bus: Bus | None = None,
        writer: Writer | None = None,
    ) -> None:
        """``ack_wait``: seconds after which a message without acknowledgement comes again; longer than an insert.

        ``bus`` and ``writer`` are used instead of those the URLs lead to; they are closed with the worker.
        """
        self._bus = bus or Bus.connect(nats_url, name=name)
        self._letters = DeadLetters(self._bus)
        self._writer = writer or Writer(clickhouse_url)
        self._consumer = PullConsumer(self._bus, durable=DURABLE, batch=limits.rows, ack_wait=ack_wait)
        self._limits = limits
        self._now = now
        self._stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writing: asyncio.Task[None] | None = None
        self._subscription: _Subscription | None = None
        self._rebuilds = 0
        self._seen = 0
        self._gave_up = False
        self._statistics = IngestStatistics()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._bus)
        self._stack.push_async_callback(self._writer.close)
        await self._stack.enter_async_context(self._consumer)
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

    def statistics(self) -> IngestStatistics:
        """A snapshot."""
        return self._statistics

    async def ready(self) -> None:
        """Connect to ClickHouse now; otherwise the first batch does.

        Raises:
            TableUnavailable: it cannot be used now.
        """
        await self._writer.begin((await self._bus.stream_info()).created)

    async def run(self) -> None:
        """Ingest until `close` is called."""
        self._idle.clear()
        try:
            batch: Batch[Delivery] = Batch(self._limits)
            while not self._stop.is_set():
                batch = await self._turn(batch)
            if self._writing is not None:
                await self._writing
            # What was given up may still come in late: a copy of one of its events must not be the first before it.
            if batch.items and not self._gave_up:
                await self._flush(batch.items)
        finally:
            await self._abandon()
            self._idle.set()

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
        await self._collect(batch, 0.0)
        self._writing = asyncio.create_task(self._flush(batch.items))
        return Batch(self._limits)

    async def _collect(self, batch: Batch[Delivery], wait: float) -> None:
        rows, size = batch.room
        if rows and size:
            for delivery in await self._consumer.next_batch(rows, size, wait):
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
        for row, why in written.refused:
            dead[row.seq] = ("refused", why)
        kept = await self._bury(by_seq, dead)
        self._count(written, len(dead) - len(kept), max(by_seq))
        await self._acknowledge([delivery for delivery in deliveries if delivery.seq not in kept])

    async def _decoded(self, deliveries: Sequence[Delivery]) -> tuple[list[Row], dict[int, tuple[str, str]]]:
        """The rows, and why the others are none."""
        rows: list[Row] = []
        dead: dict[int, tuple[str, str]] = {}
        for one in deliveries:
            # A consumer that was made again counts deliveries from one, so going back in the stream counts as well.
            redelivered = one.num_delivered > 1 or one.seq <= self._seen
            try:
                rows.append(
                    read_row(
                        one.seq,
                        one.nanoseconds // 1000,
                        one.subject,
                        one.payload,
                        redelivered=redelivered,
                        msg_id=one.msg_id,
                    )
                )
            except NotAnEvent as error:
                dead[one.seq] = ("undecodable", str(error))
                continue
            self._seen = max(self._seen, one.seq)
        return rows, dead

    async def _persisted(self, rows: Sequence[Row]) -> Written | None:
        """Write the rows, however long ClickHouse is away; None when told to stop before that."""
        tries = 0
        while rows:
            try:
                begun = await self._begun()
                for row in rows:
                    row.redelivered = row.redelivered or row.seq <= begun.highest
                return await self._writer.write(rows, begun.created, again=tries > 0)
            except (TableUnavailable, BusError) as error:
                self._note(error)
            if self._stop.is_set():
                self._gave_up = True
                return None
            tries += 1
            await self._pause(tries)
        return Written()

    async def _begun(self) -> _Subscription:
        if self._subscription is None or self._rebuilds != self._consumer.rebuilds:
            rebuilds = self._consumer.rebuilds
            created = (await self._bus.stream_info()).created
            self._subscription = _Subscription(created, await self._writer.begin(created))
            self._rebuilds = rebuilds
        return self._subscription

    async def _bury(self, by_seq: dict[int, Delivery], dead: dict[int, tuple[str, str]]) -> set[int]:
        """Put the dead where they belong; returns those that could not be and must come again."""
        kept = await self._letters.put_all([(by_seq[seq], why, detail) for seq, (why, detail) in dead.items()])
        for error in kept.values():
            self._note(error)
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
        self._statistics = replace(
            self._statistics, last_error=f"{type(error).__name__}: {error}", retries=self._statistics.retries + 1
        )

    def _count(self, written: Written, dead_letters: int, last_seq: int) -> None:
        was = self._statistics
        self._statistics = replace(
            was,
            rows=was.rows + written.inserted,
            batches=was.batches + 1,
            dead_letters=was.dead_letters + dead_letters,
            duplicates=was.duplicates + written.duplicates,
            conflicting=was.conflicting + written.conflicting,
            present=was.present + written.present,
            last_seq=max(was.last_seq, last_seq),
        )
