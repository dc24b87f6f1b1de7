"""Files that are not as they were written, and a stream and a table to try it on.

For tests; see tests/chaos/test_corruption.py.

Both go through the page cache, so whoever reads the file next sees them; what a process keeps in its own memory it has
to let go first.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.reader import consumer_state
from enchanted.bus.streams import EVENTS_STREAM, stream_configs
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, nats_server
from enchanted.cluster.store.testing import StoreProcess
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.reconciler import Reconciler
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import DURABLE, IngestWorker
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import SwarmEvent

EVENTS = 1_200
# A server that starts while the duplicate window still holds a message
# that it cannot read does not come to an end with it (2.15.1, GetSeqFromTime), so the window is short here.
LIMITS = replace(SMALL_LIMITS, events_max_bytes=12 * 1024**2, duplicate_window=timedelta(milliseconds=200))
SUBJECT = "swarm.events.coder.decision.rot"


def flip(path: Path, at: int, bit: int) -> None:
    """One bit of a file the other way round."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def flip_somewhere(path: Path, chance: random.Random) -> None:
    """Any one bit."""
    flip(path, chance.randrange(path.stat().st_size), chance.randrange(8))


def cut_short(path: Path, chance: random.Random) -> None:
    """The file ends early, anywhere."""
    os.truncate(path, chance.randrange(path.stat().st_size))


@dataclass
class World:
    """A stream and a table whose files can be damaged, and what was promised about them."""

    server: NatsServer
    store: StoreProcess
    chance: random.Random
    size: int = 1_000
    """Bytes of thought in an event at most, before they are spelled in hex."""
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Event id -> SHA-256 of the published bytes."""

    async def publish(self, count: int) -> None:
        messages: list[Outgoing] = []
        for _ in range(count):
            event = SwarmEvent(event_id=new_id(), run_id="rot", agent_id=f"agent-{self.chance.randrange(3)}")
            event.decision.rationale = self.chance.randbytes(self.chance.randrange(200, self.size)).hex()
            messages.append(Outgoing(subject=SUBJECT, payload=event.SerializeToString(), event_id=event.event_id))
        async with Bus.connect(self.server.url, name="load") as bus:
            await bus.publisher.publish_many(messages)
        self.acknowledged |= {one.event_id: sha256_hex(one.payload) for one in messages}

    async def ingest(self) -> None:
        """Run a worker until everything in the stream is acknowledged."""
        limits = BatchLimits(rows=1_000, seconds=0.1)
        async with (
            Bus.connect(self.server.url, name="looking") as bus,
            IngestWorker(nats_url=self.server.url, clickhouse_url=self.store.url, limits=limits) as worker,
        ):
            running = asyncio.create_task(worker.run())
            last = (await bus.stream_info()).last_seq
            async with asyncio.timeout(30):
                while True:
                    state = await consumer_state(bus.link, EVENTS_STREAM, DURABLE)
                    if state is not None and state.acknowledged >= last:
                        break
            await worker.close()
            await running

    @asynccontextmanager
    async def table(self) -> AsyncIterator[AsyncClient]:
        client = await connect(self.store.url)
        try:
            await apply_ddl(client)
            yield client
        finally:
            await client.close()

    async def rows(self) -> list[tuple[str, str]]:
        """Every event of the table with the hash of the bytes it gives back."""
        async with self.table() as table:
            found = await table.query("SELECT event_id, raw FROM events FINAL", column_formats={"raw": "bytes"})
            return [(str(event_id), sha256_hex(raw)) for event_id, raw in found.result_rows]

    async def parts(self) -> list[Path]:
        async with self.table() as table:
            sql = "SELECT path FROM system.parts WHERE active AND table = 'events' ORDER BY rows DESC, name"
            return [Path(path) for (path,) in (await table.query(sql)).result_rows]

    async def part_of(self, seq: int) -> tuple[Path, list[int]]:
        """The part a row is in, and all sequences in it."""
        async with self.table() as table:
            ((name,),) = (await table.query(f"SELECT _part FROM events WHERE stream_seq = {seq}")).result_rows
            rows = (await table.query(f"SELECT stream_seq FROM events WHERE _part = '{name}' ORDER BY 1")).result_rows
        (part,) = [path for path in await self.parts() if path.name == name]
        return part, [int(one) for (one,) in rows]

    async def ids(self, seqs: Collection[int]) -> list[str]:
        """Event ids of rows."""
        async with self.table() as table:
            sql = f"SELECT event_id FROM events WHERE stream_seq IN ({','.join(map(str, seqs))})"
            return [str(event_id) for (event_id,) in (await table.query(sql)).result_rows]

    def blocks(self) -> list[Path]:
        return sorted(self.server.folder.glob(f"store/**/streams/{EVENTS_STREAM}/msgs/*.blk"))

    def reconciler(self) -> Reconciler:
        return Reconciler(nats_url=self.server.url, clickhouse_url=self.store.url)


@asynccontextmanager
async def world_of(
    tmp_path: Path, store: StoreProcess, seed: int, *, wide: bool = False, block: int = 0, size: int = 1_000
) -> AsyncIterator[World]:
    """Everything published is acknowledged and in the table.

    In ``wide`` parts every column has files of its own. ``block``: bytes that are compressed together; 0 is a megabyte.
    A block of the stream is full at four megabytes: events of ``size`` 4,000 fill one and begin another.
    """
    async with nats_server(tmp_path / "nats", limits=None) as server:
        await _make_streams(server)
        world = World(server, store, random.Random(seed), size)
        async with world.table() as table:
            await table.command("TRUNCATE TABLE events")
            smallest = 0 if wide else 10 * 1024**2
            settings = f"min_bytes_for_wide_part = {smallest}, max_compress_block_size = {block}"
            await table.command(f"ALTER TABLE events MODIFY SETTING {settings}")
            # A part that has just been merged into another could be damaged without any harm.
            await table.command("SYSTEM STOP MERGES events")
        await world.publish(EVENTS)
        await world.ingest()
        yield world


async def _make_streams(server: NatsServer) -> None:
    # Ours may not be purged; one whose messages have grown old looks the same.
    async with Bus.connect(server.url, name="setup") as bus:
        for config in stream_configs(LIMITS):
            await bus.link.api(f"STREAM.CREATE.{config['name']}", {**config, "deny_purge": False})
