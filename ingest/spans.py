"""Spans from the stream into the table: pull, collect, write, acknowledge, in this order."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from enchanted.bus.connection import Bus
from enchanted.bus.consumer import Delivery, PullConsumer
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.errors import BusError
from enchanted.bus.streams import SPANS_STREAM
from enchanted.ingest.batch import Batch, BatchLimits
from enchanted.ingest.errors import NotAnExport, TableUnavailable
from enchanted.ingest.otlp import read_protobuf
from enchanted.ingest.span_rows import SpanRow, rows_of
from enchanted.ingest.span_writer import SpansWritten, SpanWriter

log = logging.getLogger(__name__)

DURABLE = "ingest-spans"
"""The consumer of whoever stores spans."""
LIMITS = BatchLimits(rows=1_000, bytes=4 * 1024**2, seconds=1.0)
"""A message holds many spans, so fewer of them make a batch."""
LONGEST_PAUSE = 5.0
"""Seconds between tries while ClickHouse is away."""
LAST_FLUSH = 10.0
"""Seconds `close` waits for the batch under way."""
_IDLE = 0.5

Verdicts = dict[int, tuple[str, str]]
"""By sequence: one word why a message is a dead letter, and the detail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanStatistics:
    """What a worker has done since it was started."""

    spans: int = 0
    """Inserted."""
    present: int = 0
    """Were in the table already: dropped."""
    batches: int = 0
    dead_letters: int = 0
    retries: int = 0
    last_seq: int = 0
    last_error: str = ""


class SpanWorker:
    """Stores spans. `run` until `close`; everything is opened by ``async with``."""

    def __init__(
        self,
        *,
        nats_url: str,
        clickhouse_url: str,
        name: str = "spans-0",
        limits: BatchLimits = LIMITS,
        ack_wait: float = 60.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``ack_wait``: seconds after which a message without acknowledgement comes again; longer than an insert."""
        self._bus = Bus.connect(nats_url, name=name)
        self._letters = DeadLetters(self._bus)
        self._writer = SpanWriter(clickhouse_url)
        self._consumer = PullConsumer(
            self._bus,
            durable=DURABLE,
            stream=SPANS_STREAM,
            batch=limits.rows,
            max_bytes=2 * limits.bytes,
            ack_wait=ack_wait,
        )
        self._limits = limits
        self._now = now
        self._stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._statistics = SpanStatistics()

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
            log.warning("spans could not be stored within %.0f s; they will be delivered again", LAST_FLUSH)
        await self._stack.aclose()

    def statistics(self) -> SpanStatistics:
        """A snapshot."""
        return self._statistics

    async def ready(self) -> None:
        """Connect to ClickHouse now; otherwise the first batch does.

        Raises:
            TableUnavailable: it cannot be used now.
        """
        await self._writer.ready()

    async def run(self) -> None:
        """Store spans until `close` is called."""
        self._idle.clear()
        try:
            batch: Batch[Delivery] = Batch(self._limits)
            while not self._stop.is_set():
                if batch.is_due(self._now()):
                    await self._flush(batch.items)
                    batch = Batch(self._limits)
                await self._collect(batch)
            if batch.items:
                await self._flush(batch.items)
        finally:
            self._idle.set()

    async def _collect(self, batch: Batch[Delivery]) -> None:
        messages, size = batch.room
        if messages and size:
            wait = max(0.0, min(_IDLE, batch.wait(self._now())))
            for delivery in await self._consumer.next_batch(messages, size, wait):
                batch.add(delivery, self._now())

    async def _flush(self, deliveries: Sequence[Delivery]) -> None:
        by_seq = {delivery.seq: delivery for delivery in deliveries}
        rows, dead = await asyncio.to_thread(decoded, list(by_seq.values()))
        written = await self._persisted(rows)
        if written is None:
            return
        for row, why in written.refused:
            dead[row.seq] = ("refused", f"span {row.values[2]}: {why}")
        kept = await self._bury(by_seq, dead)
        self._count(written, len(dead) - len(kept), max(by_seq))
        await self._acknowledge([delivery for delivery in deliveries if delivery.seq not in kept])

    async def _persisted(self, rows: Sequence[SpanRow]) -> SpansWritten | None:
        """Write the rows, however long ClickHouse is away; None when told to stop before that."""
        salt = secrets.token_hex(8)
        tries = 0
        while rows:
            try:
                return await self._writer.write(rows, salt)
            except TableUnavailable as error:
                self._note(error)
            if self._stop.is_set():
                return None
            tries += 1
            await self._pause(tries)
        return SpansWritten()

    async def _bury(self, by_seq: dict[int, Delivery], dead: Verdicts) -> set[int]:
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
        was = self._statistics
        self._statistics = replace(was, last_error=f"{type(error).__name__}: {error}", retries=was.retries + 1)

    def _count(self, written: SpansWritten, dead_letters: int, last_seq: int) -> None:
        was = self._statistics
        self._statistics = replace(
            was,
            spans=was.spans + written.inserted,
            present=was.present + written.present,
            batches=was.batches + 1,
            dead_letters=was.dead_letters + dead_letters,
            last_seq=max(was.last_seq, last_seq),
        )


def decoded(deliveries: Sequence[Delivery]) -> tuple[list[SpanRow], Verdicts]:
    """The spans of the messages, and what is wrong with some: those still give the spans that are sound."""
    rows: list[SpanRow] = []
    dead: Verdicts = {}
    for one in deliveries:
        try:
            found, faults = rows_of(read_protobuf(one.payload), one.seq)
        except NotAnExport as error:
            dead[one.seq] = ("undecodable", str(error))
            continue
        rows += found
        if faults:
            dead[one.seq] = ("invalid", f"{len(faults)} of {len(faults) + len(found)} spans: {faults[0]}")
    return rows, dead
