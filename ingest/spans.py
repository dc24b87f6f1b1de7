"""Spans from the stream into the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.delivery import Delivery
from enchanted.bus.streams import SPANS_STREAM
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.errors import NotAnExport
from enchanted.ingest.otlp import read_protobuf
from enchanted.ingest.pull_worker import PullWorker, Verdicts
from enchanted.ingest.span_rows import SpanRow, rows_of
from enchanted.ingest.span_writer import SpansWritten, SpanWriter
from enchanted.ingest.statistics import WorkerStatistics

DURABLE = "ingest-spans"
"""The consumer of whoever stores spans."""
LIMITS = BatchLimits(rows=1_000, bytes=4 * 1024**2, seconds=1.0)
"""A message holds many spans, so fewer of them make a batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanStatistics(WorkerStatistics):
    """What a worker has done since it was started."""

    spans: int = 0
    """Inserted."""

    @property
    def stored(self) -> int:
        """Rows inserted."""
        return self.spans


class SpanWorker(PullWorker[SpanRow, SpansWritten, SpanStatistics]):
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
        bus = Bus.connect(nats_url, name=name)
        self._writer = SpanWriter(clickhouse_url)
        consumer = PullConsumer(
            bus,
            durable=DURABLE,
            stream=SPANS_STREAM,
            batch=limits.rows,
            max_bytes=2 * limits.bytes,
            ack_wait=ack_wait,
        )
        super().__init__(bus, consumer, self._writer, limits=limits, now=now, statistics=SpanStatistics())

    async def ready(self) -> None:
        """Connect to ClickHouse now; otherwise the first batch does.

        Raises:
            TableUnavailable: it cannot be used now.
        """
        await self._writer.ready()

    async def _decoded(self, deliveries: Sequence[Delivery]) -> tuple[list[SpanRow], Verdicts]:
        return await asyncio.to_thread(decoded, deliveries)

    async def _write(self, rows: Sequence[SpanRow], *, again: bool, salt: str) -> SpansWritten:
        return await self._writer.write(rows, salt)

    def _nothing(self) -> SpansWritten:
        return SpansWritten()

    def _refusals(self, written: SpansWritten) -> Verdicts:
        return {row.seq: ("refused", f"span {row.values[2]}: {why}") for row, why in written.refused}

    def _counted(self, was: SpanStatistics, written: SpansWritten) -> SpanStatistics:
        return replace(was, spans=was.spans + written.inserted, present=was.present + written.present)


def decoded(deliveries: Sequence[Delivery]) -> tuple[list[SpanRow], Verdicts]:
    """The spans of the messages, and what is wrong with some: those still give the spans that are sound."""
    rows: list[SpanRow] = []
    dead: Verdicts = {}
    for one in deliveries:
        try:
            found, faults = rows_of(read_protobuf(one.payload), one.seq, redelivered=one.num_delivered > 1)
        except NotAnExport as error:
            dead[one.seq] = ("undecodable", str(error))
            continue
        rows += found
        if faults:
            dead[one.seq] = ("invalid", f"{len(faults)} of {len(faults) + len(found)} spans: {faults[0]}")
    return rows, dead
