"""Events from the stream into the table."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.delivery import Delivery
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.pull_worker import PullWorker, Verdicts
from enchanted.ingest.rows import Row, read_row
from enchanted.ingest.statistics import WorkerStatistics
from enchanted.ingest.writer import Writer, Written
from enchanted.schemas.errors import NotAnEvent

DURABLE = "ingest"
"""The consumer all workers share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestStatistics(WorkerStatistics):
    """What a worker has done since it was started."""

    rows: int = 0
    """Inserted, duplicates included."""
    duplicates: int = 0
    """Later copies of an event id."""
    conflicting: int = 0
    """Later copies with other bytes than the first."""

    @property
    def stored(self) -> int:
        """Rows inserted."""
        return self.rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        # Not super(): slots make the class anew, and super() knows the old one.
        return {**WorkerStatistics.as_dict(self), "duplicates": self.duplicates, "conflicting": self.conflicting}


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


class IngestWorker(PullWorker[Row, Written, IngestStatistics]):
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
        """``ack_wait``: seconds after which a message without acknowledgement comes again; longer than three inserts.

        ``bus`` and ``writer`` are used instead of those the URLs lead to; they are closed with the worker.
        """
        bus = bus or Bus.connect(nats_url, name=name)
        self._writer = writer or Writer(clickhouse_url)
        super().__init__(
            bus,
            # Half: what is held here waits for two inserts before its own, and comes again if the three are too slow.
            PullConsumer(bus, durable=DURABLE, batch=max(1, limits.rows // 2), ack_wait=ack_wait),
            self._writer,
            limits=limits,
            now=now,
            statistics=IngestStatistics(),
        )
        self._subscription: _Subscription | None = None
        self._rebuilds = 0
        self._seen = 0

    async def ready(self) -> None:
        """Connect to ClickHouse now; otherwise the first batch does.

        Raises:
            TableUnavailable: it cannot be used now.
        """
        await self._writer.begin((await self._bus.stream_info()).created)

    async def _decoded(self, deliveries: Sequence[Delivery]) -> tuple[list[Row], Verdicts]:
        rows: list[Row] = []
        dead: Verdicts = {}
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

    async def _write(self, rows: Sequence[Row], *, again: bool, salt: str) -> Written:
        begun = await self._begun()
        for row in rows:
            row.redelivered = row.redelivered or row.seq <= begun.highest
        return await self._writer.write(rows, begun.created, again=again)

    async def _begun(self) -> _Subscription:
        if self._subscription is None or self._rebuilds != self._consumer.rebuilds:
            rebuilds = self._consumer.rebuilds
            created = (await self._bus.stream_info()).created
            self._subscription = _Subscription(created, await self._writer.begin(created))
            self._rebuilds = rebuilds
        return self._subscription

    def _nothing(self) -> Written:
        return Written()

    def _refusals(self, written: Written) -> Verdicts:
        return {row.seq: ("refused", why) for row, why in written.refused}

    def _counted(self, was: IngestStatistics, written: Written) -> IngestStatistics:
        return replace(
            was,
            rows=was.rows + written.inserted,
            present=was.present + written.present,
            duplicates=was.duplicates + written.duplicates,
            conflicting=was.conflicting + written.conflicting,
        )
