"""A disk turns read-only while events flow, as the kernel makes it after an error: below the bus, below the table."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import PublishOutcomeUnknown
from enchanted.cluster.chaos.disks import LoopDisk
from enchanted.cluster.chaos.load import NONE, Differences, Hopeful, Ledger, Producer, publish
from enchanted.cluster.chaos.pipeline import Pipeline, pipeline
from enchanted.cluster.chaos.watch import visible

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]

SEED, RATE, BATCH = 37, 500.0, 100
EVENTS = 1_500
"""Acknowledged before the disk fails, and again after it was repaired."""


Victim = Literal["nats", "store"]


@dataclass
class World:
    """A pipeline of which one part has its files on a disk that can fail, and producers at work."""

    made: Pipeline
    disk: LoopDisk
    victim: Victim
    log: Path
    """Of the worker."""
    ledger: Ledger = field(default_factory=Ledger)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    produced: asyncio.Event = field(default_factory=asyncio.Event)

    async def produce(self, kind: type[Producer]) -> None:
        """Publish until it is over."""
        urls = [self.made.nats.url] * 2
        await publish(urls, self.ledger, 10**9, seed=SEED, rate=RATE, batch=BATCH, stop=self.over, kind=kind)
        self.produced.set()

    async def until_acknowledged(self, more: int = EVENTS) -> None:
        """Wait until the producers have that many more acknowledgements."""
        wanted = len(self.ledger.ok) + more
        async with asyncio.timeout(120):
            while len(self.ledger.ok) < wanted:  # noqa: ASYNC110 - the ledger has no event for it
                await asyncio.sleep(0.05)

    async def differences(self) -> Differences:
        """End the load; what is wrong with the table once the worker has acknowledged everything."""
        self.over.set()
        await self.produced.wait()
        await self.made.until_acknowledged()
        return self.ledger.compare(await visible(self.made))

    async def repair(self) -> None:
        """Kill what holds the disk, check and mount it again, start what was killed."""
        killed = self.made.pid(self.victim)
        if self.victim == "nats":
            await self.made.nats.kill()
        else:
            await self.made.store.stop(signal.SIGKILL)
        self.disk.repair()
        await (self.made.nats if self.victim == "nats" else self.made.store).start()
        assert self.made.pid(self.victim) not in (0, killed)


@asynccontextmanager
async def world_on(
    folder: Path, victim: Victim, *, way: str = "safe", kind: type[Producer] = Producer
) -> AsyncIterator[World]:
    """Producers at work, a first ``EVENTS`` events being acknowledged."""
    with LoopDisk(folder / "loop") as disk:
        (disk.path / victim).mkdir()
        (folder / victim).symlink_to(disk.path / victim)
        async with pipeline(folder, way=way) as made:
            world = World(made, disk, victim, folder / "worker.log")
            producing = asyncio.create_task(world.produce(kind))
            try:
                await world.until_acknowledged()
                yield world
            finally:
                world.over.set()
                await producing


async def test_while_the_disk_of_the_bus_is_read_only_nothing_is_acknowledged_and_later_nothing_is_missing(
    tmp_path: Path,
) -> None:
    async with world_on(tmp_path, "nats") as world:
        world.disk.fail()
        told = Outgoing(subject="swarm.events.coder.decision", payload=b"", event_id=new_id())
        async with Bus.connect(world.made.nats.url, name="told", ack_timeout=0.5, retry_for=1.0) as bus:
            with pytest.raises(PublishOutcomeUnknown, match="check the disk"):
                await bus.publisher.publish(told)
            end = (await bus.stream_info()).last_seq
            acknowledged = len(world.ledger.ok)
            assert acknowledged <= end, "more was acknowledged than there is"
            with pytest.raises(PublishOutcomeUnknown):
                await bus.publisher.publish(told)
            assert len(world.ledger.ok) == acknowledged, "acknowledged although nothing can be written"
            assert (await bus.stream_info()).last_seq == end
        await world.repair()
        await world.until_acknowledged()
        # The message without answer may have got in after all: it is no event, so no row.
        assert await world.differences() == NONE


async def test_while_the_disk_of_the_table_is_read_only_events_wait_in_the_stream_and_reads_go_on(
    tmp_path: Path,
) -> None:
    async with world_on(tmp_path, "store") as world:
        before = len(await visible(world.made))
        world.disk.fail()
        async with asyncio.timeout(60):
            while "Read-only file system" not in world.log.read_text():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.1)
        reached = await world.made.acknowledged()
        await world.until_acknowledged()
        assert await world.made.acknowledged() == reached, "acknowledged although nothing can be written"
        assert len(await visible(world.made)) >= before, "what is there can be read"
        await world.made.store.stop(signal.SIGKILL)
        with pytest.raises(RuntimeError, match="Read-only file system"):
            await world.made.store.start()
        await world.repair()
        await world.until_acknowledged()
        assert await world.differences() == NONE


UNSAFE: dict[str, tuple[Victim, str, type[Producer]]] = {
    "an insert tried once": ("store", "brief", Producer),
    "sent is taken for stored": ("nats", "safe", Hopeful),
}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one != "an insert tried once")) for one in UNSAFE]
)
async def test_a_read_only_disk_is_noticed_where_the_pipeline_is_unsafe(tmp_path: Path, name: str) -> None:
    victim, way, kind = UNSAFE[name]
    async with world_on(tmp_path, victim, way=way, kind=kind) as world:
        world.disk.fail()
        await world.until_acknowledged(2 * EVENTS)
        await world.repair()
        assert (await world.differences()).lost
