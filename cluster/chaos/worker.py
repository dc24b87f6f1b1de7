"""An ingest worker in a process of its own, to be killed; also workers with one fault each, that tests must notice.

`python -m enchanted.cluster.chaos.worker <way> <NATS URL> <ClickHouse URL>`; prints a line when it begins to work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from enchanted.bus.delivery import Delivery
from enchanted.bus.errors import BusError
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.errors import IngestError, TableUnavailable
from enchanted.ingest.pull_worker import Verdicts
from enchanted.ingest.rows import Row
from enchanted.ingest.worker import IngestWorker, collect_seldom
from enchanted.ingest.writer import Written

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""As `ingest_actor` has them; importing that would bring Ray with it."""

log = logging.getLogger("enchanted.ingest")


class Hasty(IngestWorker):
    """Acknowledges before the insert."""

    async def _flush(self, deliveries: Sequence[Delivery]) -> None:
        await self._acknowledge(deliveries)
        await asyncio.sleep(0.3)  # long enough to be killed in
        await super()._flush(deliveries)


class Blind(IngestWorker):
    """Never looks whether an event id is there already."""

    async def _persisted(self, rows: Sequence[Row]) -> Written | None:
        self._writer._is_single = lambda _: True  # type: ignore[assignment,method-assign]
        return await super()._persisted(rows)


class Brief(IngestWorker):
    """Tries an insert once, and drops what could not be written."""

    async def _persisted(self, rows: Sequence[Row]) -> Written | None:
        try:
            begun = await self._begun()
            return await self._writer.write(rows, begun.created, again=False)
        except (TableUnavailable, BusError):
            return Written()


class Rash(IngestWorker):
    """Drops a batch in which one message is no event."""

    async def _decoded(self, deliveries: Sequence[Delivery]) -> tuple[list[Row], Verdicts]:
        rows, dead = await super()._decoded(deliveries)
        return ([], {}) if dead else (rows, dead)


WAYS: dict[str, type[IngestWorker]] = {
    "safe": IngestWorker,
    "hasty": Hasty,
    "blind": Blind,
    "brief": Brief,
    "rash": Rash,
}


def _tell() -> None:
    """What every task waits for, into the log: for a test that finds the worker stuck."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


async def work(way: str, nats_url: str, clickhouse_url: str) -> None:
    """Ingest, and again when that fails, as the actor of `ingest_actor` does."""
    pause = FIRST_PAUSE
    limits = BatchLimits()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)
    print(os.getpid(), flush=True)
    while True:
        try:
            async with WAYS[way](nats_url=nats_url, clickhouse_url=clickhouse_url, limits=limits) as worker:
                pause = FIRST_PAUSE
                await worker.run()
        except (BusError, IngestError, OSError):
            log.exception("failed; starting again in %.1f s", pause)
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    collect_seldom()
    asyncio.run(work(*sys.argv[1:4]))
