"""How long does it take to go to any moment: state, content, verify, restore, fork? In a run of very many changes."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx

from enchanted.actors.fork import fork_repository
from enchanted.actors.work import RunRequest
from enchanted.benchmarks import ingest
from enchanted.benchmarks.case import Benchmark, Budget, Result, Row, timed, told
from enchanted.benchmarks.figures import percentile
from enchanted.benchmarks.forking import EARLY, forks_begun
from enchanted.benchmarks.long_run import FILES, LongRun, content_of, long_run, path_of
from enchanted.benchmarks.rig import Plane, plane
from enchanted.bus.connection import Bus
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent, parse_event
from enchanted.serve.guard.auth import Access
from enchanted.serve.moments.checkpoints import EVERY
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import served

QUESTION = "milliseconds until a run is seen, restored or forked as it was at any of its sequences"
RUN = "run-bench"
TOKEN = "bench-token"
REPOSITORY = f"fork after 50 changes, {FILES} files in a new repository"
NOTES = (
    f"one run of one agent, {FILES} files, each change one line of one file; one client on loopback, the API a uvicorn "
    "in this process without Ray Serve; sequences drawn at random; checkpoints made by one seek to the end before",
    "beside a state: the named query alone, for the events since the checkpoint, which the API does not ask",
    "a fork's first step: the orchestrator runs in this process and has stored what it begins with when it asks for "
    "the first check; the actors of a cluster, and their models, come on top",
    "LangGraph on SQLite, chat state only: 6.7 ms by step number, a fork 2-6 ms (measured elsewhere, on 2 such cores)",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    changes: int
    seeks: int
    repeats: int


FULL = Scale(changes=100_000, seeks=100, repeats=5)
SMOKE = Scale(changes=2_000, seeks=20, repeats=1)


async def run(smoke: bool) -> Result:
    """Make the run, then go everywhere in it."""
    scale = SMOKE if smoke else FULL
    told(f"making a run of {scale.changes} changes")
    made = await asyncio.to_thread(long_run, RUN, scale.changes)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(plane())
        await _ingested(servers, made)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enchanted-bench-")))
        rows = [_verified(made, scale)]
        rows += await _seeks(servers, folder, scale)
        rows += await _forks(servers, folder, scale)
        rows += await _begun_forks(servers, folder, scale)
    return Result(benchmark="timemachine", question=QUESTION, rows=tuple(rows), notes=NOTES, smoke=smoke)


async def _ingested(servers: Plane, made: LongRun) -> None:
    async with Bus.connect(servers.nats.url) as bus:
        await bus.blobs.put(made.bundle)
        await bus.publisher.publish_many(made.messages)
    await ingest.ours(servers.nats.url, servers.store.url, len(made.messages), lambda: None)


def _verified(made: LongRun, scale: Scale) -> Row:
    """The chain alone, over parsed events."""
    now = time.time()
    events = [
        StoredEvent(seq=seq, time=now, subject="", raw=raw, event=parse_event(raw))  # type: ignore[arg-type]
        for seq, raw in enumerate(made.raws, start=1)
    ]
    rates = []
    for _ in range(scale.repeats):
        begun = time.perf_counter()
        verdict = verify(events)
        rates.append(len(events) / (time.perf_counter() - begun))
        if not (verdict.intact and verdict.complete and verdict.closed):
            raise RuntimeError(f"an untouched run is said to be broken: {verdict}")
    return Row(name="verify, the chain", unit="events/s", samples=rates, budget=Budget(limit=100_000, least=True))


async def _seeks(servers: Plane, folder: Path, scale: Scale) -> list[Row]:
    dice, store = random.Random(1), Store(servers.store.url)
    deps = Dependencies(
        store=store, bus=BusLink(servers.nats.url), access=Access(token=TOKEN), cache=folder, settled=timedelta(0)
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with served(deps) as url, httpx.AsyncClient(base_url=url, headers=headers, timeout=600) as http:
        told("the first seek to the end")
        first = await timed(partial(_state, http, None))
        told("the first content at the end")
        built = await timed(partial(_content, http, scale.changes + 2))
        state, floor, content = list[list[float]](), list[list[float]](), list[list[float]]()
        for number in range(scale.repeats):
            told(f"seeks {number + 1}/{scale.repeats}")
            seqs = [dice.randrange(3, scale.changes + 3) for _ in range(scale.seeks)]
            state.append([await timed(partial(_state, http, seq)) for seq in seqs])
            floor.append([await timed(partial(_bare, store, seq)) for seq in seqs])
            content.append([await timed(partial(_content, http, seq)) for seq in seqs[: scale.seeks // 4]])
        places = [folder / f"into-{number}" for number in range(scale.repeats)]
        restored = [await timed(partial(_restored, http, place, scale)) for place in places]
    await store.close()
    bare = "events since the checkpoint, p50"
    return [
        Row(name=bare, unit="ms", samples=_shares(floor, 0.5)),
        Row(name="state, p50", unit="ms", samples=_shares(state, 0.5), floor=bare, budget=Budget(limit=10)),
        Row(name="state, p99", unit="ms", samples=_shares(state, 0.99), budget=Budget(limit=100)),
        Row(name="content of one path, p50", unit="ms", samples=_shares(content, 0.5), budget=Budget(limit=300)),
        Row(name="content of one path, p99", unit="ms", samples=_shares(content, 0.99)),
        Row(name="first seek to the end, without checkpoints", unit="ms", samples=[first]),
        Row(name="first content at the end, every patch applied", unit="ms", samples=[built]),
        Row(name=f"restore {FILES} files into a new folder", unit="ms", samples=restored, budget=Budget(limit=500)),
    ]


async def _forks(servers: Plane, folder: Path, scale: Scale) -> list[Row]:
    """The repository of a fork near the run's beginning, from the bus alone, in a clean folder."""
    taken = []
    async with Bus.connect(servers.nats.url) as bus:
        for number in range(scale.repeats):
            request = RunRequest(
                run_id=f"fork-{number}", task="t", repo="/nowhere", checks=(), forked_from=RUN, forked_at=52
            )
            place = folder / f"fork-{number}.git"
            taken.append(await timed(partial(fork_repository, place, bus, request)))
    return [Row(name=REPOSITORY, unit="ms", samples=taken)]


async def _begun_forks(servers: Plane, folder: Path, scale: Scale) -> list[Row]:
    """The same from the request until the new run can work, near the beginning and at the end."""
    told("forks until their first step")
    early = await forks_begun(servers, folder / "early", RUN, EARLY, scale.repeats)
    late = await forks_begun(servers, folder / "late", RUN, scale.changes + 2, min(2, scale.repeats))
    name = "fork after {} changes, from the request until its first step can start"
    return [
        Row(name=name.format(50), unit="ms", samples=early, floor=REPOSITORY, budget=Budget(limit=500)),
        Row(name=name.format(scale.changes), unit="ms", samples=late),
    ]


async def _state(http: httpx.AsyncClient, seq: int | None) -> None:
    answer = await http.get(f"/api/v1/runs/{RUN}/state", params={} if seq is None else {"at": seq})
    answer.raise_for_status()
    document = answer.json()
    if seq is not None and (document["at"] != seq or len(document["workspaces"]["main"]["files"]) != FILES):
        raise RuntimeError(f"the state at {seq} is another one")


async def _bare(store: Store, seq: int) -> None:
    await store.rows("run_events", run=RUN, after=seq // EVERY * EVERY, until=seq, limit=1_000)


async def _content(http: httpx.AsyncClient, seq: int) -> None:
    number = seq - 3 + FILES  # sequence 1 is the request, 2 the base
    answer = await http.get(f"/api/v1/runs/{RUN}/state", params={"at": seq, "path": path_of(number)})
    answer.raise_for_status()
    if answer.json()["content"].encode() != content_of(number):
        raise RuntimeError(f"the content at {seq} is another one")


async def _restored(http: httpx.AsyncClient, into: Path, scale: Scale) -> None:
    body = {"at": scale.changes + 2, "into": str(into)}
    answer = await http.post(f"/api/v1/runs/{RUN}/restores", json=body)
    answer.raise_for_status()
    if len(answer.json()["write"]) != FILES:
        raise RuntimeError("not every file was restored")


def _shares(samples: list[list[float]], share: float) -> list[float]:
    return [percentile(one, share) for one in samples]


BENCHMARK = Benchmark(name="timemachine", question=QUESTION, run=run)
