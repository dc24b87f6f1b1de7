"""The power goes while events are published and stored: what was acknowledged is on the disk."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusError
from enchanted.bus.server_config import Sync
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.chaos.disks import LoopDisk
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest import tables
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.worker import IngestWorker
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import SwarmEvent

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]

PUBLISHERS = 16
ENOUGH = 200
"""Events acknowledged before the cut; it comes at a random moment after that."""
SUBJECT = "swarm.events.coder.decision.cut"


@dataclass
class Load:
    """What publishers were told: acknowledged, or no answer."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """Event id -> hash of the published bytes."""
    unknown: dict[str, str] = field(default_factory=dict)

    async def publish_for_ever(self, bus: Bus, chance: random.Random) -> None:
        while True:
            event = SwarmEvent(event_id=new_id(), run_id="cut", agent_id="load")
            event.decision.rationale = "x" * chance.randrange(100, 2_000)
            raw = event.SerializeToString()
            self.unknown[event.event_id] = sha256_hex(raw)
            await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=raw, event_id=event.event_id))
            self.acknowledged[event.event_id] = self.unknown.pop(event.event_id)


async def cut_under_load(tmp_path: Path, sync: Sync, seed: int) -> tuple[Load, dict[str, str]]:
    """Publish, cut the power at a random moment; returns what was promised, and what the stream has afterwards."""
    chance, load = random.Random(seed), Load()
    with LoopDisk(tmp_path / "before") as disk:
        async with nats_server(disk.path / "nats", sync=sync) as server:
            bus = Bus.connect(server.url, name="load")
            async with bus:
                tasks = [asyncio.create_task(load.publish_for_ever(bus, chance)) for _ in range(PUBLISHERS)]
                while len(load.acknowledged) < ENOUGH:  # noqa: ASYNC110 - a count has no event
                    await asyncio.sleep(0.02)
                await asyncio.sleep(chance.uniform(0.0, 0.9))
                copy = disk.cut([server.pid], tmp_path / "after")
                await server.kill()
                await end(tasks, bus)
    with copy as disk:
        async with nats_server(disk.path / "nats", limits=None) as server:
            return load, await stored_hashes(server)


async def end(tasks: list[asyncio.Task[None]], bus: Bus) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await bus.publisher.close(timeout=0.0)


async def stored_hashes(server: NatsServer) -> dict[str, str]:
    async with Bus.connect(server.url, name="after") as bus:
        try:
            return {one.event.event_id: sha256_hex(one.raw) for one in await bus.read_run("cut")}
        except BusError:
            return {}


def lost(load: Load, stored: dict[str, str]) -> set[str]:
    return {event_id for event_id, digest in load.acknowledged.items() if stored.get(event_id) != digest}


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 21))])
async def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    load, stored = await cut_under_load(tmp_path, "always", seed)
    print(f"{len(load.acknowledged)} acknowledged, {len(stored)} stored, {len(load.unknown)} without answer")
    assert len(load.acknowledged) >= ENOUGH
    assert not lost(load, stored)
    assert set(stored) <= set(load.acknowledged) | set(load.unknown)


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 21))])
async def test_after_a_power_cut_of_bus_and_table_every_acknowledged_event_is_in_the_table_once(
    tmp_path: Path, seed: int
) -> None:
    chance, load = random.Random(seed), Load()
    with LoopDisk(tmp_path / "before") as disk:
        async with (
            nats_server(disk.path / "nats") as server,
            store_process(disk.path / "store") as store,
            Bus.connect(server.url, name="load") as bus,
            ingest(server, store) as worker,
        ):
            tasks = [asyncio.create_task(load.publish_for_ever(bus, chance)) for _ in range(PUBLISHERS)]
            while worker.statistics().batches < 3:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0.05)
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            copy = disk.cut([server.pid, store.pid], tmp_path / "after")
            await server.kill()
            await store.stop(signal.SIGKILL)
            await end(tasks, bus)
    with copy as disk:
        async with nats_server(disk.path / "nats", limits=None) as server, store_process(disk.path / "store") as store:
            stored = await stored_hashes(server)
            async with ingest(server, store):
                rows = await rows_once_all_are_there(store, len(stored))
    assert not lost(load, stored)
    assert sorted(rows) == sorted(stored.items())


@asynccontextmanager
async def ingest(server: NatsServer, store: StoreProcess) -> AsyncIterator[IngestWorker]:
    limits = BatchLimits(rows=10_000, seconds=0.2)
    async with IngestWorker(nats_url=server.url, clickhouse_url=store.url, limits=limits) as worker:
        running = asyncio.create_task(worker.run())
        yield worker
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def rows_once_all_are_there(store: StoreProcess, count: int) -> list[tuple[str, str]]:
    client = await tables.connect(store.url)
    try:
        async with asyncio.timeout(30):
            while True:
                found = await client.query("SELECT event_id, payload_sha256 FROM events FINAL")
                if len(found.result_rows) >= count:
                    return [(str(event_id), str(digest)) for event_id, digest in found.result_rows]
                await asyncio.sleep(0.1)
    finally:
        await client.close()


async def test_without_sync_always_the_same_power_cut_does_lose_events(tmp_path: Path) -> None:
    load, stored = await cut_under_load(tmp_path, "default", 1)
    assert len(lost(load, stored)) > len(load.acknowledged) / 2
