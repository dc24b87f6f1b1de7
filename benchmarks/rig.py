"""A whole data plane under measurement: nats-server, store, publisher and ingestors, each a process of its own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.benchmarks.figures import percentile
from enchanted.benchmarks.players import Meter, Player, player
from enchanted.bus.streams import StreamLimits
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest.tables import apply_ddl, connect

POLL = 0.02
"""Seconds between two looks at the table."""
LOOK = 0.1
"""The same where the look is not what is measured, so that it costs the store little."""
STUCK = 120.0
"""Seconds after which rows that do not come are given up."""
WARM_UP = 2.0
"""Seconds of offered load that are left out: clients import half of themselves at their first insert."""
_PARTS = """
SELECT sum(last) FROM (
    SELECT max(max_block_number) AS last FROM system.parts
    WHERE table = 'events' AND database = currentDatabase() GROUP BY partition_id
)
"""
"""Parts that inserts made, merged or not: each takes the next block number of its partition."""
_NEW = "SELECT stream_seq FROM events WHERE stream_seq > {above:UInt64}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """Servers with tables and streams made, and a reader's connection."""

    nats: NatsServer
    store: StoreProcess
    table: AsyncClient

    async def rows(self) -> int:
        """Rows in the table now."""
        return int((await self.table.query("SELECT count() FROM events")).result_rows[0][0])

    async def until(self, rows: int) -> None:
        """Wait until the table holds so many."""
        async with asyncio.timeout(STUCK):
            while await self.rows() < rows:  # noqa: ASYNC110 - a table has no event for it
                await asyncio.sleep(LOOK)

    def meter(self, **others: Player) -> Meter:
        """CPU of the servers and of other processes from now on."""
        pids = {name: one.pid for name, one in others.items()}
        return Meter(**{"nats-server": self.nats.pid, "store": self.store.pid, **pids})


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingestor:
    """Which ingestor, with which settings of `IngestSettings`."""

    role: str = "work"
    rows: int = 10_000
    seconds: float = 1.0
    workers: int = 1

    def arguments(self, count: int) -> tuple[object, ...]:
        """What its process is told; others than ours end after ``count`` events."""
        return (self.rows, self.seconds) if self.role == "work" else (count,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One run: rate in events/s, CPU in microseconds an event by process."""

    rate: float
    cpu: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """One run of offered load."""

    milliseconds: list[float]
    """From an acknowledged publish until a reader finds the row, events in order, the first ones left out."""
    cpu: float
    """Microseconds an event of ingestors and store, the reader's questions included."""
    parts: float
    """A second, as inserts made them."""


@asynccontextmanager
async def plane(limits: StreamLimits | None = None) -> AsyncIterator[Plane]:
    """Everything fresh in a folder that goes with the block; the stream is synced before each acknowledgement."""
    with tempfile.TemporaryDirectory(prefix="enchanted-bench-") as folder:
        async with (
            nats_server(Path(folder, "nats"), limits=limits or StreamLimits()) as server,
            store_process(Path(folder, "store")) as store,
        ):
            table = await connect(store.url)
            try:
                await apply_ddl(table)
                yield Plane(nats=server, store=store, table=table)
            finally:
                await table.close()


async def fresh(ingestor: Ingestor, count: int, rate: float) -> Offered:
    """So many events at an offered rate, and a reader that looks for them."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(plane())
        ingesting: list[Player] = []
        offering = await _players(stack, servers, ingestor, count, ("offer", count, rate), ingesting)
        names = {f"ingestor {number}": one for number, one in enumerate(ingesting)}
        meter = servers.meter(**names)
        offering.begin()
        seen = await _watch(servers, count)
        spent = meter.spent()
        acknowledged = await offering.end()
        parts = int((await servers.table.query(_PARTS)).result_rows[0][0])
    left_out = int(WARM_UP * rate)
    return Offered(
        milliseconds=[
            (seen[seq] - at) * 1000 for seq, at, _ in sorted(acknowledged)[left_out if left_out < count else 0 :]
        ],
        cpu=sum(spent[name] for name in ("store", *names)) / count * 1e6,
        parts=parts / (count / rate),
    )


async def sustained(ingestor: Ingestor, count: int) -> Load:
    """Publish and ingest at once, as fast as it goes."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(plane())
        ingesting: list[Player] = []
        publishing = await _players(stack, servers, ingestor, count, ("publish", count), ingesting)
        names = {f"ingestor {number}": one for number, one in enumerate(ingesting)}
        meter, begun = servers.meter(publisher=publishing, **names), time.perf_counter()
        publishing.begin()
        await servers.until(count)
        seconds, spent = time.perf_counter() - begun, meter.spent()
        await publishing.end()
    spent["ingestor"] = sum(spent.pop(name) for name in names)
    return Load(rate=count / seconds, cpu={name: each / count * 1e6 for name, each in spent.items()})


async def _players(
    stack: AsyncExitStack,
    servers: Plane,
    ingestor: Ingestor,
    count: int,
    load: tuple[object, ...],
    ingesting: list[Player],
) -> Player:
    """Ingestors that have begun, and who brings the load, ready; all end with the stack."""
    urls = (servers.nats.url, servers.store.url)
    role, *rest = load
    for _ in range(ingestor.workers):
        one = await stack.enter_async_context(player(ingestor.role, *urls, *ingestor.arguments(count)))
        one.begin()
        ingesting.append(one)
    return await stack.enter_async_context(player(str(role), *urls, *rest))


async def _watch(servers: Plane, count: int) -> dict[int, float]:
    """When a reader that asks every POLL first had each sequence in its hands."""
    seen: dict[int, float] = {}
    whole = 0
    async with asyncio.timeout(STUCK):
        while len(seen) < count:
            if await servers.rows() > len(seen):
                found = (await servers.table.query(_NEW, parameters={"above": whole})).result_rows
                now = time.perf_counter()
                for (seq,) in found:
                    seen.setdefault(seq, now)
                while whole + 1 in seen:
                    whole += 1
            await asyncio.sleep(POLL)
    return seen


def p50_p99(milliseconds: list[float]) -> tuple[float, float]:
    """Both percentiles."""
    return percentile(milliseconds, 0.5), percentile(milliseconds, 0.99)
