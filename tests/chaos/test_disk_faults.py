"""A disk is full, or read-only as the kernel makes it after an error, while events flow: the bus's, the table's."""

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
from enchanted.bus.errors import PublishOutcomeUnknown, StreamFull
from enchanted.cluster.chaos.disks import BALLAST, LoopDisk, fill
from enchanted.cluster.chaos.killed import Victim
from enchanted.cluster.chaos.load import NONE, Differences, Hopeful, Ledger, Producer, publish
from enchanted.cluster.chaos.pipeline import Pipeline, pipeline
from enchanted.cluster.chaos.watch import visible
from enchanted.cluster.store.testing import store_process

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]

SEED, RATE, BATCH = 37, 500.0, 100
EVENTS = 1_500
"""Acknowledged before the disk fails, and again after it was repaired."""


Part = Literal["nats", "store"]
Fault = Literal["read-only", "full"]


@dataclass
class World:
    """A pipeline of which one part has its files on a disk that can fail, and producers at work."""

    made: Pipeline
    disk: LoopDisk
    victim: Part
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

    def harm(self, fault: Fault) -> None:
        """From now on nothing can be written."""
        if fault == "full":
            fill(self.disk.path)
        else:
            self.disk.fail()

    async def repair(self, fault: Fault) -> None:
        """What an operator and the keeper do: room and a restart of the bus, or a check when nobody has the disk."""
        part, victim = self.made.nats if self.victim == "nats" else self.made.store, Victim(self.made.pid(self.victim))
        if fault == "full":
            (self.disk.path / BALLAST).unlink()
            if self.victim == "store":
                return
        if self.victim == "nats":
            await self.made.nats.kill()
        else:
            await self.made.store.stop(signal.SIGKILL)
        if fault == "read-only":
            self.disk.repair()
        await part.start()
        victim.assert_replaced_by(part.pid)


@asynccontextmanager
async def world_on(
    folder: Path, victim: Part, *, way: str = "safe", kind: type[Producer] = Producer
) -> AsyncIterator[World]:
    """Producers at work, a first ``EVENTS`` events being acknowledged."""
    with LoopDisk(folder / "loop", mebibytes=128) as disk:
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


async def refused(bus: Bus) -> str:
    """What a producer is told whose event cannot be written."""
    async with asyncio.timeout(60):
        while True:
            # A message may still fit into what the file system gave the file before.
            message = Outgoing(subject="swarm.events.coder.decision", payload=bytes(4096), event_id=new_id())
            try:
                await bus.publisher.publish(message)
            except (PublishOutcomeUnknown, StreamFull) as error:
                return str(error)


@pytest.mark.parametrize("fault", ["read-only", "full"])
async def test_while_the_disk_of_the_bus_takes_no_writes_nothing_is_acknowledged_and_later_nothing_is_missing(
    tmp_path: Path, fault: Fault
) -> None:
    async with world_on(tmp_path, "nats") as world:
        world.harm(fault)
        async with Bus.connect(world.made.nats.url, name="told", ack_timeout=0.5, retry_for=1.0) as bus:
            assert "disk" in await refused(bus)
            end, acknowledged = (await bus.stream_info()).last_seq, len(world.ledger.ok)
            assert acknowledged <= end, "more was acknowledged than there is"
            await refused(bus)
            assert len(world.ledger.ok) == acknowledged, "acknowledged although nothing can be written"
            assert (await bus.stream_info()).last_seq == end
        await world.repair(fault)
        await world.until_acknowledged()
        # A message without answer may have got in after all: it is no event, so no row.
        assert await world.differences() == NONE


@pytest.mark.parametrize(("fault", "said"), [("read-only", "Read-only file system"), ("full", "NOT_ENOUGH_SPACE")])
async def test_while_the_disk_of_the_table_takes_no_writes_events_wait_in_the_stream_and_reads_go_on(
    tmp_path: Path, fault: Fault, said: str
) -> None:
    async with world_on(tmp_path, "store") as world:
        before = len(await visible(world.made))
        world.harm(fault)
        async with asyncio.timeout(60):
            while said not in world.log.read_text():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.1)
        reached = await world.made.acknowledged()
        await world.until_acknowledged()
        assert await world.made.acknowledged() == reached, "acknowledged although nothing can be written"
        assert len(await visible(world.made)) >= before, "what is there can be read"
        await world.repair(fault)
        await world.until_acknowledged()
        assert await world.differences() == NONE


async def test_a_store_on_a_read_only_disk_does_not_start_and_says_why(tmp_path: Path) -> None:
    with LoopDisk(tmp_path) as disk:
        async with store_process(disk.path / "store") as store:
            await store.stop()
            disk.fail()
            with pytest.raises(RuntimeError, match="Read-only file system"):
                await store.start()


UNSAFE: dict[str, tuple[Part, Fault, str, type[Producer]]] = {
    "an insert tried once, read-only": ("store", "read-only", "brief", Producer),
    "an insert tried once, full": ("store", "full", "brief", Producer),
    "sent is taken for stored, read-only": ("nats", "read-only", "safe", Hopeful),
    "sent is taken for stored, full": ("nats", "full", "safe", Hopeful),
}
SHORT = "an insert tried once, full"


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one != SHORT)) for one in UNSAFE])
async def test_a_disk_without_writes_is_noticed_where_the_pipeline_is_unsafe(tmp_path: Path, name: str) -> None:
    victim, fault, way, kind = UNSAFE[name]
    async with world_on(tmp_path, victim, way=way, kind=kind) as world:
        world.harm(fault)
        await world.until_acknowledged(2 * EVENTS)
        await world.repair(fault)
        assert (await world.differences()).lost
