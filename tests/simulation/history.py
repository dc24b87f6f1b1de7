"""One seed from its beginning to its verdict."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from enchanted.bus.errors import BusError
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.errors import IngestError
from tests.simulation.checker import check, unsettled
from tests.simulation.faults import Faults
from tests.simulation.feeder import Feeder
from tests.simulation.loop import Process
from tests.simulation.parts import STORE, URL, Parts
from tests.simulation.producer import Workload
from tests.simulation.stream import BEGINNING
from tests.simulation.table import SimulatedCounts, SimulatedScrubber
from tests.simulation.world import Broken, Main, World

SETTLED_WITHIN = 300.0
"""Seconds after the last fault: retries end, what is not acknowledged comes again, the reconciler has looked."""
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one seed."""

    seed: int
    error: str
    """Empty: all promises held."""
    digest: str
    trace: str
    seconds: float
    """Of simulated time."""
    killed: int
    stored: int


def simulate(seed: int, parts: Parts | None = None) -> Verdict:
    """Run one history; equal seeds give equal ones."""
    world = World(seed, parts or Parts())
    error = ""
    with _quiet(world):
        try:
            world.loop.run_until_complete(_history(world))
        except AssertionError as broken:
            error = f"{type(broken).__name__}: {broken}"
        finally:
            digest, trace = world.digest(), list(world.trace)
            elapsed = world.loop.time() - 1000.0
            world.end()
    lines = [f"{at:11.6f}  {what} {' '.join(map(str, details))}" for at, what, details in trace[-_SHOWN:]]
    killed = sum(what == "killed" for _, what, _ in trace)
    return Verdict(seed, error, digest, "\n".join(lines), elapsed, killed, world.server.events.visible)


@contextmanager
def _quiet(world: World) -> Iterator[None]:
    """The product's clocks are the simulation's, its log is silent."""
    collecting = gc.isenabled()
    gc.disable()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with mock.patch.object(time, "monotonic", world.loop.time), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            asyncio.set_event_loop(None)
            logging.disable(before)
            if collecting:
                gc.enable()


async def _history(world: World) -> None:
    chance = world.random("plan")
    lasting, steps = chance.uniform(3.0, 25.0), chance.randint(2, 6)
    faults = Faults(world)
    faults.begin()
    workers = world.parts.workers or (2 if chance.random() < 0.3 else 1)
    copies = workers == 1 or world.parts.copies_among_workers
    world.start("producer", Workload(world, pace=lasting / steps / 1.5, steps=steps, copies=copies).main)
    if chance.random() < 0.4:
        feeder = Feeder(world, pace=lasting / steps / 1.5, steps=steps)
        world.start("feeder", lambda process: _until_connected(world, process, feeder.main))
    for number in range(workers):
        world.start(f"ingest-{number}", lambda process: _ingest(world, process))
    world.start("reconciler", lambda process: _reconcile(world, process))
    await _pass(world, lasting)
    faults.stop()
    began, wait = world.loop.time(), 0.25
    while left := unsettled(world, began):
        if world.loop.time() - began > SETTLED_WITHIN:
            raise Broken(f"not settled {SETTLED_WITHIN:.0f} s after the last fault: {left}")
        await _pass(world, wait)
        wait = min(2.0, wait * 1.3)
    check(world)


async def _pass(world: World, seconds: float) -> None:
    await asyncio.sleep(seconds)
    if world.broken is not None:
        raise Broken(f"{type(world.broken).__name__}: {world.broken}") from world.broken


async def _until_connected(world: World, process: Process, main: Main) -> None:
    while True:
        try:
            await main(process)
        except BusError as error:
            world.note("failed", process.name, type(error).__name__)
            await asyncio.sleep(0.5)
        else:
            return


async def _ingest(world: World, process: Process) -> None:
    chance = world.random(f"{process.name} {world.loop.time()}")
    while True:
        limits = BatchLimits(rows=chance.choice([3, 8, 100]), seconds=chance.choice([0.1, 1.0]))
        worker = world.parts.worker(
            nats_url=URL,
            clickhouse_url=STORE,
            limits=limits,
            now=world.loop.time,
            bus=world.bus(process.name),
            writer=world.parts.writer(world.table),
        )
        try:
            async with worker:
                running = asyncio.create_task(worker.run())
                # Most run until they are killed; some are asked to stop.
                await asyncio.wait({running}, timeout=chance.choice([None, None, 10 * chance.random()]))
                await worker.close()
                await running
        except (BusError, IngestError) as error:
            world.note("failed", process.name, type(error).__name__)
        await asyncio.sleep(1.0)


async def _reconcile(world: World, process: Process) -> None:
    chance = world.random(f"{process.name} {world.loop.time()}")
    while True:
        reconciler = world.parts.reconciler(
            nats_url=URL,
            clickhouse_url=STORE,
            now=lambda: BEGINNING,
            bus=(bus := world.bus(process.name)),
            writer=world.parts.writer(world.table),
            table=SimulatedCounts(world.table),
            scrubber=SimulatedScrubber(bus),
        )
        try:
            async with reconciler:
                while True:
                    await asyncio.sleep(chance.uniform(1.0, 10.0))
                    began = world.loop.time()
                    report = await reconciler.check()
                    world.reports.append((began, report))
                    world.note("reconciled", report.acknowledged, str(report.missing), report.sound)
        except (BusError, IngestError) as error:
            world.note("failed", process.name, type(error).__name__)
        await asyncio.sleep(1.0)
