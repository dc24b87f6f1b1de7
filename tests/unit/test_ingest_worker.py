"""What a worker that is told to stop still writes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from enchanted.bus.connection import Bus
from enchanted.bus.delivery import Delivery
from enchanted.bus.streams import StreamInfo
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.rows import Row
from enchanted.ingest.worker import IngestWorker
from enchanted.ingest.writer import Writer, Written

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


class QuietBus(Bus):
    async def stream_info(self) -> StreamInfo:
        return StreamInfo(created=CREATED, first_seq=1, last_seq=1, messages=1, bytes=1)


class SilentWriter(Writer):
    """Answers nothing; the insert may come in late all the same."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.asked: list[list[int]] = []
        self.entered = asyncio.Event()
        self.released = asyncio.Event()

    async def highest(self, stream_created: datetime) -> int:
        return 0

    begin = highest

    async def write(self, rows: Sequence[Row], stream_created: datetime, *, again: bool) -> Written:
        self.asked.append([row.seq for row in rows])
        self.entered.set()
        await self.released.wait()
        raise TableUnavailable("no answer")


async def test_after_a_batch_it_gave_up_a_worker_writes_no_later_one() -> None:
    writer, bus = SilentWriter(), QuietBus("nats://127.0.0.1:1", name="quiet")
    worker = IngestWorker(nats_url="", clickhouse_url="http://127.0.0.1:1", writer=writer, bus=bus)
    turns: list[list[Delivery]] = []

    async def next_batch(max_messages: int, max_bytes: int, timeout: float) -> list[Delivery]:
        await asyncio.sleep(0.001)
        return turns.pop(0) if turns else []

    worker._consumer.next_batch = next_batch  # type: ignore[method-assign]
    worker._writing = asyncio.create_task(worker._flush([_delivery(bus, 1)]))
    await writer.entered.wait()
    turns.append([_delivery(bus, 2)])
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.05)
    worker._stop.set()
    writer.released.set()
    await running
    assert not turns
    assert writer.asked == [[1]]


class TakingWriter(SilentWriter):
    """Confirms everything."""

    async def write(self, rows: Sequence[Row], stream_created: datetime, *, again: bool) -> Written:
        self.asked.append([row.seq for row in rows])
        return Written(inserted=len(rows))


async def test_close_writes_and_acknowledges_a_batch_that_is_not_due() -> None:
    writer, bus = TakingWriter(), QuietBus("nats://127.0.0.1:1", name="quiet")
    limits = BatchLimits(seconds=3_600)
    worker = IngestWorker(nats_url="", clickhouse_url="http://127.0.0.1:1", writer=writer, bus=bus, limits=limits)
    turns = [[_delivery(bus, 1), _delivery(bus, 2)], [_delivery(bus, 3)]]
    collected = asyncio.Event()
    acknowledged: list[int] = []

    async def next_batch(max_messages: int, max_bytes: int, timeout: float) -> list[Delivery]:
        if not turns:
            collected.set()
        await asyncio.sleep(0.001)
        return turns.pop(0) if turns else []

    async def ack_all(deliveries: Sequence[Delivery]) -> None:
        assert writer.asked, "nothing is acknowledged before it is written"
        acknowledged.extend(delivery.seq for delivery in deliveries)

    worker._consumer.next_batch = next_batch  # type: ignore[method-assign]
    worker._consumer.ack_all = ack_all  # type: ignore[method-assign]
    running = asyncio.create_task(worker.run())
    await collected.wait()
    assert (writer.asked, acknowledged) == ([], [])
    await worker.close()
    assert (writer.asked, acknowledged) == ([[1, 2, 3]], [1, 2, 3])
    await running


def _delivery(bus: Bus, seq: int) -> Delivery:
    reply = b"$JS.ACK.ENCHANTED_SWARM.ingest.1.%d.%d.%d.0" % (seq, seq, seq)
    return Delivery("swarm.events.coder.decision", reply, b"", b"", bus.link)
