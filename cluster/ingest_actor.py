"""The Ray actor around an IngestWorker: runs it, and runs it again when it fails.

The first of the pool does what one is enough for: it reconciles, and it stores spans.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import Any

from enchanted.actors.vitals import signal_for_ever
from enchanted.bus.errors import BusError
from enchanted.cluster.ingest_metrics import IngestMetrics, SpanMetrics
from enchanted.cluster.settings import IngestSettings
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.errors import IngestError
from enchanted.ingest.reconciler import Reconciler
from enchanted.ingest.retention import keep
from enchanted.ingest.spans import SpanWorker
from enchanted.ingest.worker import IngestWorker, collect_seldom
from enchanted.schemas.events import Status

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
MEASURED_EVERY = 5.0
RECONCILED_EVERY = 60.0
DRAIN_SECONDS = 5.0
"""How long `drain` waits for what is under way."""
DRAINED_SECONDS = 10.0
"""From `drain` on nothing is taken for so long; if nobody has ended the process by then, it goes on."""
SCRUB_SECONDS = 1.0
"""Of every MEASURED_EVERY, spent on reading stream and table again."""
RECONCILING = "ingest-0"
"""One of the pool is enough, and Ray starts it again. `serve.deployment` asks it for its report, all for statistics."""

log = logging.getLogger("enchanted.ingest")


class IngestActor:
    """One worker of the pool. Ray restarts the process; this restarts the worker inside it."""

    def __init__(self, name: str, nats_url: str, clickhouse_url: str, settings: IngestSettings) -> None:
        self._name = name
        self._nats_url = nats_url
        self._clickhouse_url = clickhouse_url
        self._limits = BatchLimits(rows=settings.batch_rows, seconds=settings.batch_seconds)
        self._retention_days = settings.retention_days
        self._failures = 0
        self._status: Status = "STARTING"
        self._worker: IngestWorker | None = None
        self._spans: SpanWorker | None = None
        self._reconciliation: dict[str, Any] | None = None
        self._running: asyncio.AbstractEventLoop | None = None
        self._drained_until = 0.0
        self._metrics = IngestMetrics(name)
        self._span_metrics = SpanMetrics(name)
        # A thread of its own: when Ray has restarted the actor it calls only this constructor again.
        threading.Thread(target=self._run_for_ever, name=name, daemon=True).start()

    def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()

    def failures(self) -> int:
        """How often the worker failed and was started again in this process."""
        return self._failures

    def reconciliation(self) -> dict[str, Any] | None:
        """The last report (`Report.as_dict`); None before the first, and in an actor that does not reconcile."""
        return self._reconciliation

    def statistics(self) -> dict[str, Any]:
        """What the workers for events and for spans have done since they were started; None for one there is not."""
        return {
            "name": self._name,
            "events": self._worker.statistics().as_dict() if self._worker else None,
            "spans": self._spans.statistics().as_dict() if self._spans else None,
        }

    def drain(self) -> bool:
        """Write and acknowledge what was taken, and take no more, for the process is about to be ended.

        A worker that is being made does not begin either, until `DRAINED_SECONDS` are over.
        Returns within `DRAIN_SECONDS`, whatever bus and table do; False if something was left by then, which is
        delivered again to whoever ingests next.
        """
        self._drained_until = time.monotonic() + DRAINED_SECONDS
        if self._running is None:
            return True
        drained = asyncio.run_coroutine_threadsafe(self._drain(), self._running)
        try:
            return drained.result(DRAIN_SECONDS + 1)
        except TimeoutError:
            return False

    async def _drain(self) -> bool:
        self._status = "STOPPING"
        closing = {asyncio.create_task(worker.close()) for worker in (self._worker, self._spans) if worker is not None}
        if not closing:
            return True
        done, late = await asyncio.wait(closing, timeout=DRAIN_SECONDS)
        return not late and all(task.exception() is None for task in done)

    def _drained(self) -> bool:
        return time.monotonic() < self._drained_until

    async def _while_drained(self) -> None:
        await asyncio.sleep(max(0.0, self._drained_until - time.monotonic()))

    def _run_for_ever(self) -> None:
        collect_seldom()
        try:
            asyncio.run(self._with_signals())
        except BaseException:  # whatever it is: without this thread the process ingests nothing, and Ray starts it anew
            log.exception("%s ends", self._name)
            logging.shutdown()
            os._exit(1)

    async def _with_signals(self) -> None:
        self._running = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(signal_for_ever(self._nats_url, self._name, status=lambda: self._status))
            group.create_task(self._loop())
            group.create_task(self._measure())
            if self._name == RECONCILING:
                group.create_task(self._reconcile())
                group.create_task(self._store_spans())

    async def _loop(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._while_drained()
            try:
                async with IngestWorker(
                    nats_url=self._nats_url, clickhouse_url=self._clickhouse_url, name=self._name, limits=self._limits
                ) as worker:
                    if not self._drained():
                        self._worker, pause, self._status = worker, FIRST_PAUSE, "HEALTHY"
                        await worker.run()
                continue
            except Exception:  # the process boundary: bus and store may be away for any length of time
                log.exception("%s failed; starting again in %.1f s", self._name, pause)
                self._status = "STOPPING" if self._drained() else "DEGRADED"
                self._failures += 1
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _store_spans(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._while_drained()
            try:
                async with SpanWorker(
                    nats_url=self._nats_url, clickhouse_url=self._clickhouse_url, name=f"{self._name}-spans"
                ) as worker:
                    if not self._drained():
                        self._spans, pause = worker, FIRST_PAUSE
                        await worker.run()
                continue
            except Exception:  # the process boundary: events must go on whatever spans meet
                log.exception("spans are not stored; starting again in %.1f s", pause)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(MEASURED_EVERY)
            try:
                if self._worker is not None:
                    self._metrics.add(self._worker.statistics())
                if self._spans is not None:
                    self._span_metrics.add(self._spans.statistics())
            except Exception:  # the process boundary: ingest must go on whatever its figures meet
                log.exception("not measured, trying again in %.0f s", MEASURED_EVERY)

    async def _reconcile(self) -> None:
        while True:
            try:
                async with Reconciler(
                    nats_url=self._nats_url, clickhouse_url=self._clickhouse_url, name=f"{self._name}-reconciler"
                ) as reconciler:
                    await self._keep_reconciling(reconciler)
            except (BusError, IngestError) as error:
                log.warning("not reconciled, trying again in %.0f s: %s", LONGEST_PAUSE, error)
            except Exception:  # the process boundary: ingest must go on whatever the reconciler meets
                log.exception("not reconciled, trying again in %.0f s", LONGEST_PAUSE)
            await asyncio.sleep(LONGEST_PAUSE)

    async def _keep_reconciling(self, reconciler: Reconciler) -> None:
        for table in await keep(self._clickhouse_url, self._retention_days):
            log.warning("%s now keeps its rows for %s", table, f"{self._retention_days or 'unlimited'} days")
        due = time.monotonic()
        while True:
            damaged = await reconciler.scrub(SCRUB_SECONDS)
            if damaged or time.monotonic() >= due:
                report = await reconciler.check()
                self._reconciliation = report.as_dict()
                self._metrics.reconciled(report)
                due = time.monotonic() + RECONCILED_EVERY
            self._metrics.behind(await reconciler.lag())
            await asyncio.sleep(MEASURED_EVERY)
