"""What does an event take on disk, and how fast is it found among millions? Through the API's own SQL."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.benchmarks import ingest
from enchanted.benchmarks.case import Benchmark, Budget, Result, Row, told
from enchanted.benchmarks.figures import percentile
from enchanted.benchmarks.fill import CHUNK, Spread, fill, settle, take_sample
from enchanted.benchmarks.load import Published, load, mean_bytes
from enchanted.benchmarks.players import publish_all
from enchanted.benchmarks.rig import Plane, plane
from enchanted.serve.sources.store import Store

QUESTION = "bytes an event takes in the stream and in the table; milliseconds to find events among millions of them"
MONTH = 30 * 86_400.0
PAGE = 101
ERRORS = """
SELECT sum(errors) AS failed, sum(events) AS total FROM agent_hourly
WHERE agent_id = {agent:String} AND hour >= toStartOfHour(now() - INTERVAL 30 DAY)
"""
_SIZES = """
SELECT sum(bytes_on_disk), sum(rows), count() FROM system.parts
WHERE active AND table = 'events' AND database = currentDatabase()
"""
_COLUMNS = """
SELECT name, data_compressed_bytes FROM system.columns WHERE table = 'events' AND database = currentDatabase()
AND data_compressed_bytes > 0 ORDER BY data_compressed_bytes DESC LIMIT 8
"""
_UNSOUND = "SELECT countIf(SHA256(raw) != sha256) FROM events"
_KEYS = """
SELECT run, stream_seq, stream_time, trace_id, agent_id, event_id FROM events WHERE stream_seq IN {seqs:Array(UInt64)}
"""
NOTES = (
    "for comparison, from other systems' published tables of the same kind of event: 1,900 to 4,500 bytes an event",
    "queries: one client on loopback, keys drawn at random, in one sample never twice, files in the page cache, "
    "background merges come to rest; a sample is a percentile of 50 queries",
    "the millions are copies of a real sample made in the store: 30 days, runs of 10,000 events, 40 of them open at "
    "once, traces of 40 events, 3,000 agents of whom 30 are in each run, 2 % of the events failures",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    events: int
    """Published and ingested for real: the mix whose bytes are counted."""
    filled: int
    queries: int
    repeats: int
    seconds: float
    """What filling may take."""


FULL = Scale(events=60_000, filled=10_000_000, queries=50, repeats=5, seconds=720.0)
SMOKE = Scale(events=3_000, filled=50_000, queries=50, repeats=1, seconds=60.0)
Ask = Callable[[Store, AsyncClient, dict[str, Any]], Awaitable[int]]


async def run(smoke: bool) -> Result:
    """Ingest a mix and count its bytes, then fill the table and ask."""
    scale = SMOKE if smoke else FULL
    async with plane() as servers:
        rows, notes = await sizes(servers, load(scale.events))
        told(f"filling up to {scale.filled} rows, at most {scale.seconds:.0f} s")
        filled, took = await grow(servers.table, scale.filled, scale.seconds)
        rows += await queries(servers, replace(scale, filled=filled))
        notes += (await described(servers.table, scale.filled, took),)
    return Result(benchmark="storage", question=QUESTION, rows=tuple(rows), notes=NOTES + notes, smoke=smoke)


async def sizes(servers: Plane, events: list[Published]) -> tuple[list[Row], tuple[str, ...]]:
    """Bytes of the mix in the stream's files and in the table's parts, merged; every published byte is compared."""
    await publish_all(servers.nats.url, events)
    await ingest.ours(servers.nats.url, servers.store.url, len(events), lambda: None)
    table = servers.table
    await table.command("OPTIMIZE TABLE events FINAL")
    size, stored, parts = (await table.query(_SIZES)).result_rows[0]
    unsound = (await table.query(_UNSOUND)).result_rows[0][0]
    if stored != len(events) or unsound:
        raise RuntimeError(
            f"{stored} of {len(events)} events are in the table, {unsound} without their published bytes"
        )
    blocks = sum(path.stat().st_size for path in (servers.nats.folder / "store").rglob("*.blk"))
    published = Row(name="published bytes", unit="bytes/event", samples=[mean_bytes(events)])
    rows = [
        published,
        Row(name="stream", unit="bytes/event", samples=[blocks / stored], floor=published.name),
        Row(name="table", unit="bytes/event", samples=[size / stored], floor=published.name, budget=Budget(limit=450)),
    ]
    columns = (await table.query(_COLUMNS)).result_rows
    largest = ", ".join(f"{name} {spent / stored:.0f}" for name, spent in columns)
    notes: tuple[str, ...] = (
        f"{stored} events in {parts} part(s); SHA-256 of the bytes put together again from the table: all as published",
    )
    if largest:  # a compact part does not say
        notes += (f"largest columns of the table, bytes/event: {largest}",)
    return rows, notes


async def grow(table: AsyncClient, wanted: int, seconds: float) -> tuple[int, float]:
    """Put copies in the place of the mix, as many of ``wanted`` as fit in ``seconds``; how many, and the time taken."""
    begun = time.perf_counter()
    sample = await take_sample(table, 50_000)
    await table.command("TRUNCATE TABLE events")
    trial = min(wanted, CHUNK)
    await fill(table, Spread.of(trial, MONTH), sample)
    total = fitting(wanted, trial / (time.perf_counter() - begun), seconds)
    if total > trial:
        await table.command("TRUNCATE TABLE events")
        await fill(table, Spread.of(total, MONTH), sample)
    await settle(table, 30.0)
    return total, time.perf_counter() - begun


def fitting(wanted: int, pace: float, seconds: float) -> int:
    """Whole chunks that ``pace`` rows/s make in half of ``seconds`` (merges take the rest), at most ``wanted``."""
    return min(wanted, max(CHUNK, int(pace * seconds / 2) // CHUNK * CHUNK))


async def described(table: AsyncClient, filled: int, seconds: float) -> str:
    """The filled table in words."""
    size, rows, parts = (await table.query(_SIZES)).result_rows[0]
    disk = shutil.disk_usage(tempfile.gettempdir())
    return (
        f"{rows} of {filled} rows, {size / 1e9:.2f} GB in {parts} parts ({size / rows:.0f} bytes/event), made in "
        f"{seconds:.0f} s; {disk.free / 1e9:.0f} GB of disk left"
    )


async def queries(servers: Plane, scale: Scale) -> list[Row]:
    """Each kind of question with keys of its own, p50 and p95 in milliseconds."""
    rows: list[Row] = []
    dice = random.Random(3)
    async with Store(servers.store.reader_url) as store:
        for name, (ask, limit) in ASKED.items():
            told(name)
            middle, high = list[float](), list[float]()
            for _ in range(scale.repeats):
                keys = await keys_of(servers.table, dice.sample(range(scale.filled), scale.queries))
                taken = [await _timed(ask, store, servers.table, key) for key in keys]
                middle.append(percentile(taken, 0.5))
                high.append(percentile(taken, 0.95))
            rows += [
                Row(name=f"{name}: p50", unit="ms", samples=middle),
                Row(name=f"{name}: p95", unit="ms", samples=high, budget=Budget(limit=limit)),
            ]
    return rows


async def keys_of(table: AsyncClient, seqs: list[int]) -> list[dict[str, Any]]:
    """Run, sequence, trace, agent and id of the copies with these sequences."""
    return list((await table.query(_KEYS, parameters={"seqs": seqs})).named_results())


async def _timed(ask: Ask, store: Store, table: AsyncClient, key: dict[str, Any]) -> float:
    begun = time.perf_counter()
    found = await ask(store, table, key)
    taken = (time.perf_counter() - begun) * 1000
    if not found:
        raise RuntimeError(f"nothing was found for {key}")
    return taken


async def _trace(store: Store, _table: AsyncClient, key: dict[str, Any]) -> int:
    return len(await store.events("trace_events", trace=key["trace_id"], limit=10_000))


async def _page(store: Store, _table: AsyncClient, key: dict[str, Any]) -> int:
    # What `GET /events?run=…&before=…` binds: the page that ends before an event in the middle of the run.
    none = {"trace": "", "agent": "", "role": "", "kind": "", "since": 0, "until": 0, "q": ""}
    bounds = {"after": 0, "before": key["stream_seq"] + 1, "limit": PAGE, "descending": 1}
    return len(await store.events("events_page", run=key["run"], **none, **bounds))


async def _event(store: Store, _table: AsyncClient, key: dict[str, Any]) -> int:
    return len(await store.events("event_by_id", event_id=key["event_id"]))


async def _errors(_store: Store, table: AsyncClient, key: dict[str, Any]) -> int:
    ((_, total),) = (await table.query(ERRORS, parameters={"agent": key["agent_id"]})).result_rows
    return int(total)


ASKED: dict[str, tuple[Ask, float]] = {
    "by trace": (_trace, 50.0),
    "a run's page": (_page, 50.0),
    "event by id": (_event, 50.0),
    "an agent's error rate over 30 days": (_errors, 200.0),
}
"""How each is asked, and the milliseconds it may take."""

BENCHMARK = Benchmark(name="storage", question=QUESTION, run=run)
