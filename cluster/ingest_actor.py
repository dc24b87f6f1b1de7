"""The Ray actor around an IngestWorker: runs it, and runs it again when it fails."""

from __future__ import annotations

import asyncio
import logging
import os
import threading

from enchanted.actors.vitals import signal_for_ever
from enchanted.cluster.settings import IngestSettings
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.worker import IngestWorker
from enchanted.schemas.events import Status

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0

log = logging.getLogger("enchanted.ingest")


class IngestActor:
    """One worker of the pool. Ray restarts the process; this restarts the worker inside it."""

    def __init__(self, name: str, nats_url: str, clickhouse_url: str, settings: IngestSettings) -> None:
        self._name = name
        self._nats_url = nats_url
        self._clickhouse_url = clickhouse_url
        self._limits = BatchLimits(rows=settings.batch_rows, seconds=settings.batch_seconds)
        self._failures = 0
        self._status: Status = "STARTING"
        # A thread of its own: when Ray has restarted the actor it calls only this constructor again.
        threading.Thread(target=self._run_for_ever, name=name, daemon=True).start()

    def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()

    def failures(self) -> int:
        """How often the worker ended and was started again in this process."""
        return self._failures

    def _run_for_ever(self) -> None:
        asyncio.run(self._with_signals())

    async def _with_signals(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(signal_for_ever(self._nats_url, self._name, status=lambda: self._status))
            group.create_task(self._loop())

    async def _loop(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with IngestWorker(
                    nats_url=self._nats_url, clickhouse_url=self._clickhouse_url, name=self._name, limits=self._limits
                ) as worker:
                    pause, self._status = FIRST_PAUSE, "HEALTHY"
                    await worker.run()
            except Exception:  # the process boundary: bus and store may be away for any length of time
                log.exception("%s failed; starting again in %.1f s", self._name, pause)
                self._status = "DEGRADED"
            self._failures += 1
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)
