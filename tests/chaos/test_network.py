"""A network that cuts, hangs, slows down and swallows answers between agents, bus, ingest and table."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
import nats.errors
import pytest

from enchanted.bus.agent_log import AgentLog, new_id
from enchanted.bus.connection import Bus
from enchanted.bus.testing import nats_server
from enchanted.cluster.chaos.proxy import TcpProxy
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest import tables
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.worker import IngestWorker
from enchanted.schemas import events
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import verify

pytestmark = pytest.mark.timeout(180)

AGENTS = 8
FAULTS = ("cut", "pause", "swallow", "delay", "refuse")

Rows = list[tuple[str, str]]


@dataclass
class Load:
    """Agents that write without pause, and what they were told."""

    bus: Bus
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Event id -> hash of the published bytes."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def agent(self, number: int) -> None:
        log = AgentLog(self.bus, run_id="net", role="coder", agent_name=f"coder-{number}")
        while not self.stop.is_set():
            drafts = [events.system_signal(status="HEALTHY", detail="x" * 300) for _ in range(3)]
            for stored in await log.emit(*drafts):
                self.acknowledged[stored.event.event_id] = sha256_hex(stored.raw)


async def misbehave(proxies: list[TcpProxy], chance: random.Random) -> None:
    """Every fault of every proxy, in random order."""
    faults = list(itertools.product(proxies, FAULTS))
    chance.shuffle(faults)
    for proxy, fault in faults:
        proxy.swallow_replies, proxy.refuse = fault == "swallow", fault == "refuse"
        proxy.delay = 0.03 if fault == "delay" else 0.0
        if fault == "pause":
            proxy.pause()
        elif fault in ("cut", "refuse"):
            proxy.cut()
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        if fault == "swallow":
            # As a switch that forgot half of a connection: only a new one works.
            proxy.cut()
        proxy.swallow_replies = proxy.refuse = False
        proxy.delay = 0.0
        proxy.resume()
        await asyncio.sleep(chance.uniform(0.1, 0.3))


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[TcpProxy, str]]:
    port = url.rpartition(":")[2].partition("/")[0]
    async with TcpProxy(int(port)) as proxy:
        yield proxy, url.replace(f":{port}", f":{proxy.port}")


@asynccontextmanager
async def ingest(nats_url: str, clickhouse_url: str) -> AsyncIterator[IngestWorker]:
    limits = BatchLimits(rows=500, seconds=0.2)
    async with IngestWorker(nats_url=nats_url, clickhouse_url=clickhouse_url, limits=limits) as worker:
        running = asyncio.create_task(worker.run())
        yield worker
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 21))])
async def test_whatever_the_network_does_each_acknowledged_event_is_in_the_table_once(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    async with (
        nats_server(tmp_path / "nats") as server,
        store_process(tmp_path / "store") as store,
        proxied(server.url) as (to_bus, bus_url),
        proxied(server.url) as (to_ingest, ingest_url),
        proxied(store.url) as (to_table, table_url),
        ingest(ingest_url, table_url) as worker,
        Bus.connect(bus_url, name="agents") as bus,
    ):
        load = Load(bus)
        agents = [asyncio.create_task(load.agent(number)) for number in range(AGENTS)]
        await misbehave([to_bus, to_ingest, to_table], chance)
        load.stop.set()
        await asyncio.gather(*agents)
        async with Bus.connect(server.url, name="after") as direct:
            log = await direct.read_run("net")
        stored = {one.event.event_id: sha256_hex(one.raw) for one in log}
        rows = await rows_once_there_are(store, len(stored))
        print(f"{len(load.acknowledged)} acknowledged, {len(stored)} stored, {worker.statistics()}")
    assert len(load.acknowledged) > 300
    assert stored == load.acknowledged, "every agent was told of all it wrote"
    assert len(log) == len(stored)
    assert sorted(rows) == sorted(stored.items())
    assert verify(log).intact


async def rows_once_there_are(store: StoreProcess, count: int) -> Rows:
    """Every visible row, once all events are there; asks a little longer for what must not come."""
    client = await tables.connect(store.url)
    query = "SELECT event_id, payload_sha256 FROM events FINAL WHERE duplicate_of = 0"
    try:
        async with asyncio.timeout(90):
            while len((await client.query(query)).result_rows) < count:  # noqa: ASYNC110 - a table has no event
                await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)
        return [(str(event_id), str(digest)) for event_id, digest in (await client.query(query)).result_rows]
    finally:
        await client.close()


async def test_without_an_id_a_publish_whose_answer_is_swallowed_is_stored_twice(tmp_path: Path) -> None:
    """The control: the proxy does what the other test survives."""
    async with nats_server(tmp_path / "nats") as server, proxied(server.url) as (proxy, url):
        client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05)  # type: ignore[arg-type]
        stream, payload = client.jetstream(), new_id().encode()
        proxy.swallow_replies = True
        with pytest.raises(nats.errors.TimeoutError):
            await stream.publish("swarm.events.coder.decision", payload, timeout=0.5)
        async with asyncio.timeout(60):
            while not proxy.swallowed:  # noqa: ASYNC110 - the proxy has no event for it
                await asyncio.sleep(0.02)
        proxy.swallow_replies = False
        await stream.publish("swarm.events.coder.decision", payload, timeout=60)
        assert (await stream.stream_info("ENCHANTED_SWARM")).state.messages == 2
        await client.close()
