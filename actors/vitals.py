"""System signals: every actor says every few seconds how it is."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import psutil

from enchanted.actors import spans
from enchanted.actors.config import SIGNAL_SECONDS
from enchanted.actors.ray_metrics import PublisherMetrics
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusError
from enchanted.schemas import events
from enchanted.schemas.events import Status, SwarmEvent


def vital_signs(process: psutil.Process, status: Status) -> SwarmEvent:
    """CPU (per cent of one core, since the last call) and resident memory of a process."""
    return events.system_signal(
        status=status,
        cpu_load_percent=round(process.cpu_percent()),
        memory_usage_mb=process.memory_info().rss >> 20,
        pid=process.pid,
        node=socket.gethostname(),
    )


@asynccontextmanager
async def vital(
    log: AgentLog,
    every_seconds: float,
    status: Callable[[], Status] = lambda: "HEALTHY",
    *,
    metrics: PublisherMetrics,
) -> AsyncIterator[None]:
    """STARTING now, the status every few seconds inside, STOPPING at the end; ``metrics`` are recorded as often."""
    process = psutil.Process(os.getpid())
    await log.emit(vital_signs(process, "STARTING"))
    beating = asyncio.create_task(_beat(log, process, every_seconds, status, metrics))
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        with suppress(BusError):
            await log.emit(vital_signs(process, "STOPPING"))


async def signal_for_ever(
    nats_url: str, name: str, every_seconds: float = SIGNAL_SECONDS, status: Callable[[], Status] = lambda: "HEALTHY"
) -> None:
    """The signals of an actor that belongs to no run, until cancelled; a bus that is away costs signals, no more."""
    with spans.actor_span(name):
        while True:
            with suppress(BusError):
                async with Bus.connect(nats_url, name=name) as bus:
                    log = AgentLog(bus, run_id="", role="unspecified", agent_name=name)
                    metrics = PublisherMetrics("unspecified", bus.publisher.statistics)
                    async with vital(log, every_seconds, status, metrics=metrics):
                        await asyncio.Event().wait()
            await asyncio.sleep(every_seconds)


async def _beat(
    log: AgentLog,
    process: psutil.Process,
    every_seconds: float,
    status: Callable[[], Status],
    metrics: PublisherMetrics,
) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        # A bus that is away for longer than the publisher retries costs a signal, not the actor.
        with suppress(BusError):
            await log.emit(vital_signs(process, status()))
        metrics.record()
