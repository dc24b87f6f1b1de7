"""How fast does the API answer among millions of events, and how does that grow? Over HTTP, beside the bare query.

``ENCHANTED_BENCH_EVENTS`` sets another size than the full ten million.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp
import orjson

from enchanted.benchmarks import ingest
from enchanted.benchmarks.asked import FORMATS, QUESTIONS, Key, Question, Request, word
from enchanted.benchmarks.case import Benchmark, Budget, Result, Row, timed, told
from enchanted.benchmarks.figures import percentile, residual, slope
from enchanted.benchmarks.fill import AT_ONCE, OF_A_RUN, Spread, fill, settle, take_sample
from enchanted.benchmarks.listeners import TOKEN
from enchanted.benchmarks.load import load
from enchanted.benchmarks.players import player, publish_all
from enchanted.benchmarks.reverted import EVENTS as REVERTED
from enchanted.benchmarks.reverted import RUNS, publish_reverted, run_name
from enchanted.benchmarks.rig import Plane, plane
from enchanted.benchmarks.storage import MONTH, described, keys_of
from enchanted.bus.testing import free_port
from enchanted.cluster import probes, ray_head
from enchanted.cluster.home import new_secret, write_once
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import served

QUESTION = "milliseconds until the API answers among millions of events, beside the bare query, and how that grows"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SIMPLE = {name: question for name, question in QUESTIONS.items() if question.simple}
SERVED = "through Ray Serve"
PATIENCE = aiohttp.ClientTimeout(total=600.0)
DEPLOYED = 300.0
"""Seconds until Ray Serve answers."""
ABOVE = Budget(limit=10.0)
NOTES = (
    "each question over HTTP on loopback by one client, the API a uvicorn in this process, so that 'above the query' "
    "holds the client's own work too; keys drawn at random, files in the page cache, merges at rest",
    "API and store are asked by the same HTTP client, aiohttp; httpx, which `enchanted.serve.client` is made on, takes "
    "1.5 to 2 ms more of its own for each answer",
    "through Ray Serve: the simple reads at the largest size once more, of the API as it is deployed, a replica behind "
    "Serve's proxy on a Ray of its own, again in turns with the bare query: the budget is for this way",
    "'bare': the same named query, or the same SQL, by the store's own client, its rows decoded; asked in turns with "
    "the API's, each with keys of its own; the first of each kind left out",
    "the millions are the copies of `storage`, spread over 30 days, the first of the days at smaller sizes; the ledger "
    f"has {RUNS} runs published beside them ({REVERTED} events): no other has a change that was taken back",
    "growth: p50 at each size by least squares; text is looked for by reading, there is no index of words",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    events: int
    """Published and ingested for real: what the copies are made of."""
    sizes: tuple[int, ...]
    """Events stored when the questions are asked, the largest last."""
    questions: int
    repeats: int


def full(most: int) -> Scale:
    """A tenth of ``most``, three tenths, all of it."""
    return Scale(events=min(60_000, most // 50), sizes=(most // 10, most * 3 // 10, most), questions=50, repeats=3)


SMOKE = Scale(events=2_000, sizes=(10_000, 30_000), questions=3, repeats=1)


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds of one kind of question at one size."""

    asked: list[list[float]] = field(default_factory=list)
    """Of each repeat."""
    bare: list[list[float]] = field(default_factory=list)

    def share(self, share: float, *, bare: bool = False) -> list[float]:
        """That percentile of each repeat."""
        return [percentile(one, share) for one in (self.bare if bare else self.asked)]

    def above(self) -> list[float]:
        """What asking the API takes longer than the bare query at p50, of each repeat."""
        return [ours - theirs for ours, theirs in zip(self.share(0.5), self.share(0.5, bare=True), strict=True)]


Sizes = dict[int, dict[str, Taken]]


async def run(smoke: bool) -> Result:
    """Fill step by step and ask at every step; export at the last."""
    scale = SMOKE if smoke else full(int(os.environ.get("ENCHANTED_BENCH_EVENTS", 10_000_000)))
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(plane())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enchanted-bench-")))
        sample = await _prepared(servers, scale)
        spread, begun = Spread.of(scale.sizes[-1], MONTH), time.perf_counter()
        store, http = await _client(stack, servers, folder)
        taken: Sizes = {}
        refused: dict[str, str] = {}
        for before, size in zip((0, *scale.sizes), scale.sizes, strict=False):
            told(f"filling up to {size} rows")
            await fill(servers.table, spread, sample, first=before, until=size)
            await settle(servers.table, 30.0)
            taken[size] = await _asked(servers, store, http, scale, size, refused)
        through = await _through_serve(servers, store, scale, refused)
        exports = await _exports(servers, store, http, scale)
        filled = await described(servers.table, scale.sizes[-1] + REVERTED, time.perf_counter() - begun)
    notes = (*NOTES, *(f"{name}: refused, {why}" for name, why in refused.items()), filled)
    found = (*rows(taken), *serve_rows(through), *exports)
    return Result(benchmark="query", question=QUESTION, rows=found, notes=notes, smoke=smoke)


async def _prepared(servers: Plane, scale: Scale) -> int:
    """The sample that copies are made of, and the ledger's runs in the table; returns the sample's rows."""
    await publish_all(servers.nats.url, load(scale.events))
    await ingest.ours(servers.nats.url, servers.store.url, scale.events, lambda: None)
    sample = await take_sample(servers.table, 50_000)
    await servers.table.command("TRUNCATE TABLE events")
    await publish_reverted(servers.nats.url)
    await ingest.ours(servers.nats.url, servers.store.url, REVERTED, lambda: None)
    return sample


async def _client(stack: AsyncExitStack, servers: Plane, folder: Path) -> tuple[Store, aiohttp.ClientSession]:
    """The store's own client, and one of the API."""
    deps = Dependencies(
        store=Store(servers.store.url),
        reader=Store(servers.store.reader_url),
        bus=BusLink(servers.nats.url),
        access=Access(token=TOKEN),
        cache=folder,
        settled=timedelta(0),
    )
    url = await stack.enter_async_context(served(deps))
    http = await stack.enter_async_context(aiohttp.ClientSession(url, headers=HEADERS, timeout=PATIENCE))
    return await stack.enter_async_context(Store(servers.store.url)), http


@asynccontextmanager
async def deployed(*urls: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the API behind Ray Serve, which ends with the block; of the bus, the store and its readers."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="enchanted-bench-") as folder:
        token = Path(folder) / "ray_token"
        write_once(token, new_secret())
        async with player("api", *urls, port, module="ray_serve", environment=ray_head.environment(token)) as served_by:
            served_by.begin()
            url = f"http://127.0.0.1:{port}"
            await probes.until_ready(partial(_healthy, url), deadline=DEPLOYED)
            async with aiohttp.ClientSession(url, headers=HEADERS, timeout=PATIENCE) as http:
                yield http
            await served_by.end()


async def _healthy(url: str) -> None:
    await probes.http(f"{url}/healthz")


async def _through_serve(servers: Plane, store: Store, scale: Scale, refused: dict[str, str]) -> dict[str, Taken]:
    told("starting Ray Serve")
    async with deployed(servers.nats.url, servers.store.url, servers.store.reader_url) as http:
        return await _asked(servers, store, http, scale, scale.sizes[-1], refused, SIMPLE)


async def _asked(
    servers: Plane, store: Store, http: aiohttp.ClientSession, scale: Scale, size: int, refused: dict[str, str],
    questions: Mapping[str, Question] = QUESTIONS,
) -> dict[str, Taken]:  # fmt: skip
    """Every kind of question at this size, the API's and the bare query's in turns."""
    dice = random.Random(size)
    taken: dict[str, Taken] = {}
    for name, question in questions.items():
        told(f"{size}: {name}")
        one = taken[name] = Taken()
        count = max(2, int(scale.questions * question.times))
        for _ in range(scale.repeats):
            first, *keys = await _keys(servers, dice, scale, size, 2 * count + 1)
            ask = partial(_answered, http, refused=refused, name=name, searches=question.searches)
            await ask(question.request(first))
            await question.bare(store, first)
            asked, bare = list[float](), list[float]()
            for mine, other in zip(keys[:count], keys[count:], strict=True):
                asked.append(await timed(partial(ask, question.request(mine))))
                bare.append(await timed(partial(question.bare, store, other)))
            one.asked.append(asked)
            one.bare.append(bare)
    return taken


async def _keys(servers: Plane, dice: random.Random, scale: Scale, size: int, count: int) -> list[Key]:
    # The ledger's events have low sequences of their own.
    seqs = dice.sample(range(scale.events + REVERTED + 1, size), count)
    month = datetime.now(UTC) - timedelta(seconds=MONTH)
    return [
        {**key, "word": word(dice), "ledger": run_name(dice.randrange(RUNS)), "month": month}
        for key in await keys_of(servers.table, seqs)
    ]


async def _answered(
    http: aiohttp.ClientSession, request: Request, *, refused: dict[str, str], name: str, searches: bool
) -> None:
    async with http.request(request.method, f"/api/v1/{request.resource}", **request.more) as answer:
        body = await answer.read()
    if not answer.ok and not searches:
        raise RuntimeError(f"{name}: the API refused with {answer.status}: {body[:300]!r}; see its log")
    document = orjson.loads(body)
    if not answer.ok:  # a limit that is reached is an answer too
        refused[name] = document["detail"]
    elif not searches and document.get("data") == []:
        raise RuntimeError(f"{name}: the API found nothing; nothing found says nothing of how long finding takes")


async def _exports(servers: Plane, store: Store, http: aiohttp.ClientSession, scale: Scale) -> list[Row]:
    """A run as a file of each format, beside the same columns of the store in one answer."""
    found = list[Row]()
    dice = random.Random(5)
    for form in FORMATS:
        told(f"export: {form}")
        ours, floor = list[float](), list[float]()
        for _ in range(max(2, scale.repeats)):
            mine, other = await _keys(servers, dice, scale, scale.sizes[-1], 2)
            ours.append(await _rate(servers, mine["run"], partial(_exported, http, form)))
            floor.append(await _rate(servers, other["run"], partial(_bare_export, store, form)))
        name = f"export of a run, {form}: bare"
        found += [
            Row(name=name, unit="events/s", samples=floor),
            Row(name=f"export of a run, {form}", unit="events/s", samples=ours, floor=name),
        ]
    return found


async def _rate(servers: Plane, run: str, export: Callable[[str], Awaitable[None]]) -> float:
    count = await servers.table.query("SELECT count() FROM events WHERE run = {run:String}", parameters={"run": run})
    return float(count.result_rows[0][0]) / (await timed(partial(export, run)) / 1000)


async def _exported(http: aiohttp.ClientSession, form: str, run: str) -> None:
    async with http.get("/api/v1/export", params={"run": run, "format": form}) as answer:
        answer.raise_for_status()
        async for _ in answer.content.iter_any():
            pass


async def _bare_export(store: Store, form: str, run: str) -> None:
    if form == "ndjson":
        async for _ in store.run_events(run):
            pass
        return
    bounds = {"run": run, "since": 0, "until": 0, "after": 0, "before": 2**63 - 1, "limit": 2 * AT_ONCE * OF_A_RUN}
    await store.whole("events_columns", form.capitalize() if form == "parquet" else "ArrowStream", **bounds)


def rows(taken: Sizes) -> list[Row]:
    """At the largest size each question beside its floor, and how it grew up to there."""
    largest = max(taken)
    found = list[Row]()
    for name, question in QUESTIONS.items():
        last = taken[largest][name]
        bare = f"{name}: bare, p50"
        found += [
            Row(name=bare, unit="ms", samples=last.share(0.5, bare=True)),
            Row(name=f"{name}: p50", unit="ms", samples=last.share(0.5), floor=bare),
            Row(name=f"{name}: p95", unit="ms", samples=last.share(0.95), budget=question.p95),
        ]
        if question.simple:
            found.append(Row(name=f"{name}: above the query, p50", unit="ms", samples=last.above()))
        found += _growth(name, [(size / 1e6, ms) for size, at in taken.items() for ms in at[name].share(0.5)])
    return found


def serve_rows(through: dict[str, Taken]) -> list[Row]:
    """What the deployed way takes above the bare query, which is what the budget is for."""
    found = list[Row]()
    for name, one in through.items():
        bare = f"{name}, {SERVED}: bare, p50"
        found += [
            Row(name=bare, unit="ms", samples=one.share(0.5, bare=True)),
            Row(name=f"{name}, {SERVED}: p50", unit="ms", samples=one.share(0.5), floor=bare),
            Row(name=f"{name}, {SERVED}: p95", unit="ms", samples=one.share(0.95)),
            Row(name=f"{name}, {SERVED}: above the query, p50", unit="ms", samples=one.above(), budget=ABOVE),
        ]
    return found


def _growth(name: str, points: list[tuple[float, float]]) -> list[Row]:
    rise, _ = slope(points)
    return [
        Row(name=f"{name}: growth", unit="ms per million events", samples=[rise]),
        Row(name=f"{name}: scatter about that line", unit="ms", samples=[residual(points)]),
    ]


BENCHMARK = Benchmark(name="query", question=QUESTION, run=run)
