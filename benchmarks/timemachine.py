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
from typing import Any

import httpx

from enchanted.actors.fork import fork_repository
from enchanted.actors.work import RunRequest
from enchanted.benchmarks import ingest
from enchanted.benchmarks.case import Benchmark, Budget, Result, Row, timed, told
from enchanted.benchmarks.figures import percentile, residual, slope
from enchanted.benchmarks.forking import EARLY, forks_begun
from enchanted.benchmarks.long_run import FILES, LongRun, content_of, long_run, path_of
from enchanted.benchmarks.rig import Plane, plane
from enchanted.benchmarks.timemachine_floors import BareGit, hashing_rate
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
    "beside a state: the named query alone, for the events since the checkpoint, which the API does not ask; beside "
    "content, restore and fork: git alone on the files that the run begins with, without fsync and without a log",
    "a fork's first step: the orchestrator runs in this process and has stored what it begins with when it asks for "
    "the first check; the actors of a cluster, and their models, come on top",
    "LangGraph on SQLite, chat state only: 6.7 ms by step number, a fork 2-6 ms (measured elsewhere, on 2 such cores)",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    changes: int
    shorter: tuple[int, ...]
    """Changes of the runs that the longest is held beside, to see how a seek grows."""
    seeks: int
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of the runs, and where it begins in the stream."""

    run: str
    changes: int
    before: int
    """Sequences before its first."""

    @property
    def end(self) -> int:
        """The sequence of its last change; its first event is the request, the second the base."""
        return self.before + self.changes + 2


FULL = Scale(changes=100_000, shorter=(1_000, 10_000), seeks=100, repeats=5)
SMOKE = Scale(changes=2_000, shorter=(200,), seeks=20, repeats=1)


async def run(smoke: bool) -> Result:
    """Make the runs, then go everywhere in them."""
    scale = SMOKE if smoke else FULL
    told(f"making runs of {', '.join(map(str, (scale.changes, *scale.shorter)))} changes")
    made = [await asyncio.to_thread(long_run, RUN, scale.changes)]
    made += [await asyncio.to_thread(long_run, f"{RUN}-{changes}", changes) for changes in scale.shorter]
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(plane())
        await _ingested(servers, made)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enchanted-bench-")))
        bare = await asyncio.to_thread(BareGit, folder / "bare", made[0].bundle)
        rows = _verified(made[0], scale)
        rows += await _asked(servers, folder, bare, _parts(made, scale), scale)
        rows += await _forks(servers, folder, bare, scale)
        rows += await _begun_forks(servers, folder, scale)
    return Result(benchmark="timemachine", question=QUESTION, rows=tuple(rows), notes=NOTES, smoke=smoke)


def _parts(made: list[LongRun], scale: Scale) -> list[Part]:
    before, parts = 0, list[Part]()
    for one, changes in zip(made, (scale.changes, *scale.shorter), strict=True):
        parts.append(Part(run=one.run, changes=changes, before=before))
        before += len(one.messages)
    return parts


async def _ingested(servers: Plane, made: list[LongRun]) -> None:
    async with Bus.connect(servers.nats.url) as bus:
        for one in made:
            await bus.blobs.put(one.bundle)
            await bus.publisher.publish_many(one.messages)
    await ingest.ours(servers.nats.url, servers.store.url, sum(len(one.messages) for one in made), lambda: None)


def _verified(made: LongRun, scale: Scale) -> list[Row]:
    """The chain alone, over parsed events."""
    now = time.time()
    events = [
        StoredEvent(seq=seq, time=now, subject="", raw=raw, event=parse_event(raw))  # type: ignore[arg-type]
        for seq, raw in enumerate(made.raws, start=1)
    ]
    rates, hashed = list[float](), list[float]()
    for _ in range(scale.repeats):
        hashed.append(hashing_rate(made.raws))
        begun = time.perf_counter()
        verdict = verify(events)
        rates.append(len(events) / (time.perf_counter() - begun))
        if not (verdict.intact and verdict.complete and verdict.closed):
            raise RuntimeError(f"an untouched run is said to be broken: {verdict}")
    budget, bare = Budget(limit=100_000, least=True), "SHA-256 of the same bytes"
    return [
        Row(name=bare, unit="events/s", samples=hashed),
        Row(name="verify, the chain", unit="events/s", samples=rates, floor=bare, budget=budget),
    ]


async def _asked(servers: Plane, folder: Path, bare: BareGit, parts: list[Part], scale: Scale) -> list[Row]:
    """What goes through the API."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(servers.store.url))
        deps = Dependencies(
            store=store, bus=BusLink(servers.nats.url), access=Access(token=TOKEN), cache=folder, settled=timedelta(0)
        )
        url = await stack.enter_async_context(served(deps))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=600))
        rows = await _seeks(http, store, bare, parts[0], scale)
        rows += await _restores(http, folder, bare, parts[0], scale)
        told("patches against trees")
        deep = [await _deep(http, parts[0]) for _ in range(scale.repeats)]
        rows.append(Row(name="verify --deep, patches against trees", unit="changes/s", samples=deep))
        rows += await _deep_to_the_end(http, parts[-1])
        return rows + await _growth(http, parts, scale)


async def _seeks(http: httpx.AsyncClient, store: Store, bare: BareGit, part: Part, scale: Scale) -> list[Row]:
    told("the first seek to the end")
    first = await timed(partial(_state, http, part, None))
    told("the first content at the end")
    built = await timed(partial(_content, http, part, part.end))
    state, floor, content, git = list[list[float]](), list[list[float]](), list[list[float]](), list[list[float]]()
    dice = random.Random(1)
    for number in range(scale.repeats):
        told(f"seeks {number + 1}/{scale.repeats}")
        seqs = _drawn(dice, part, scale)
        few = seqs[: scale.seeks // 4]
        state.append([await timed(partial(_state, http, part, seq)) for seq in seqs])
        floor.append([await timed(partial(_bare, store, part, seq)) for seq in seqs])
        content.append([await timed(partial(_content, http, part, seq)) for seq in few])
        git.append([await timed(partial(asyncio.to_thread, bare.content, path_of(seq))) for seq in few])
    query, cat = "events since the checkpoint, p50", "git cat-file of one path, p50"
    return [
        Row(name=query, unit="ms", samples=_shares(floor, 0.5)),
        Row(name="state, p50", unit="ms", samples=_shares(state, 0.5), floor=query, budget=Budget(limit=10)),
        Row(name="state, p99", unit="ms", samples=_shares(state, 0.99), budget=Budget(limit=100)),
        Row(name=cat, unit="ms", samples=_shares(git, 0.5)),
        Row(
            name="content of one path, p50",
            unit="ms",
            samples=_shares(content, 0.5),
            floor=cat,
            budget=Budget(limit=300),
        ),
        Row(name="content of one path, p99", unit="ms", samples=_shares(content, 0.99)),
        Row(name="first seek to the end, without checkpoints", unit="ms", samples=[first]),
        Row(name="first content at the end, every patch applied", unit="ms", samples=[built]),
    ]


async def _restores(http: httpx.AsyncClient, folder: Path, bare: BareGit, part: Part, scale: Scale) -> list[Row]:
    taken, git = list[float](), list[float]()
    for number in range(scale.repeats):
        told(f"restores {number + 1}/{scale.repeats}")
        git.append(await timed(partial(asyncio.to_thread, bare.checkout, folder / f"checkout-{number}")))
        taken.append(await timed(partial(_restored, http, folder / f"into-{number}", part)))
    name, budget = f"restore {FILES} files into a new folder", Budget(limit=500)
    return [
        Row(name="git checkout of as many", unit="ms", samples=git),
        Row(name=name, unit="ms", samples=taken, floor="git checkout of as many", budget=budget),
    ]


async def _growth(http: httpx.AsyncClient, parts: list[Part], scale: Scale) -> list[Row]:
    """Does a seek in a long run take longer than in a short one? A line through their medians."""
    dice, points, rows = random.Random(2), list[tuple[float, float]](), list[Row]()
    for part in sorted(parts, key=lambda one: one.changes):
        told(f"seeks in a run of {part.changes} changes")
        await _state(http, part, None)
        taken = [
            [await timed(partial(_state, http, part, seq)) for seq in _drawn(dice, part, scale)]
            for _ in range(scale.repeats)
        ]
        middles = _shares(taken, 0.5)
        rows.append(Row(name=f"state in a run of {part.changes} changes, p50", unit="ms", samples=middles))
        points += [(part.changes / 10_000, middle) for middle in middles]
    rise, base = slope(points)
    return [
        *rows,
        Row(name="state: growth", unit="ms per 10,000 changes", samples=[rise]),
        Row(name="state: where that line begins", unit="ms", samples=[base]),
        Row(name="state: scatter about that line", unit="ms", samples=[residual(points)]),
    ]


async def _forks(servers: Plane, folder: Path, bare: BareGit, scale: Scale) -> list[Row]:
    """The repository of a fork near the run's beginning, from the bus alone, in a clean folder."""
    taken, git = list[float](), list[float]()
    async with Bus.connect(servers.nats.url) as bus:
        for number in range(scale.repeats):
            request = RunRequest(
                run_id=f"fork-{number}", task="t", repo="/nowhere", checks=(), forked_from=RUN, forked_at=52
            )
            git.append(await timed(partial(asyncio.to_thread, bare.unpack, folder / f"unpacked-{number}.git")))
            place = folder / f"fork-{number}.git"
            taken.append(await timed(partial(fork_repository, place, bus, request)))
    floor = f"git init and unbundle of {FILES} files"
    return [
        Row(name=floor, unit="ms", samples=git),
        Row(name=REPOSITORY, unit="ms", samples=taken, floor=floor, budget=Budget(limit=500)),
    ]


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


def _drawn(dice: random.Random, part: Part, scale: Scale) -> list[int]:
    """Sequences of its changes."""
    return [dice.randrange(part.before + 3, part.end + 1) for _ in range(scale.seeks)]


async def _state(http: httpx.AsyncClient, part: Part, seq: int | None) -> None:
    answer = await http.get(f"/api/v1/runs/{part.run}/state", params={} if seq is None else {"at": seq})
    answer.raise_for_status()
    document = answer.json()
    if seq is not None and (document["at"] != seq or len(document["workspaces"]["main"]["files"]) != FILES):
        raise RuntimeError(f"the state at {seq} is another one")


async def _bare(store: Store, part: Part, seq: int) -> None:
    await store.rows("run_events", run=part.run, after=seq // EVERY * EVERY, until=seq, limit=1_000)


async def _content(http: httpx.AsyncClient, part: Part, seq: int) -> None:
    number = seq - part.before - 3 + FILES
    answer = await http.get(f"/api/v1/runs/{part.run}/state", params={"at": seq, "path": path_of(number)})
    answer.raise_for_status()
    if answer.json()["content"].encode() != content_of(number):
        raise RuntimeError(f"the content at {seq} is another one")


async def _deep(http: httpx.AsyncClient, part: Part) -> float:
    """Changes a second, from the run's beginning, over one piece of some seconds."""
    found = await _piece(http, part, 0)
    return float(found["changes"] / found["seconds"])


async def _deep_to_the_end(http: httpx.AsyncClient, part: Part) -> list[Row]:
    """Does a piece late in a run come as far as an early one?"""
    found = [await _piece(http, part, 0)]
    while not found[-1]["whole"]:
        told(f"patches against trees, {found[-1]['until'] - part.before} of {part.changes}")
        found.append(await _piece(http, part, found[-1]["until"]))
    changes, seconds = (sum(one[name] for one in found) for name in ("changes", "seconds"))
    rates = [one["changes"] / one["seconds"] for one in found if one["changes"]]
    name = f"verify --deep, {part.changes} changes"
    return [
        Row(name=f"{name}, all of them", unit="changes/s", samples=[changes / seconds]),
        Row(name=f"{name}, the last three pieces", unit="changes/s", samples=rates[-3:]),
    ]


async def _piece(http: httpx.AsyncClient, part: Part, after: int) -> dict[str, Any]:
    answer = await http.get(f"/api/v1/runs/{part.run}/verify/patches", params={"after": after})
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    if found["why"] or found["first_bad"]:
        raise RuntimeError(f"an untouched run is said to have a false patch: {found}")
    return found


async def _restored(http: httpx.AsyncClient, into: Path, part: Part) -> None:
    body = {"at": part.end, "into": str(into)}
    answer = await http.post(f"/api/v1/runs/{part.run}/restores", json=body)
    answer.raise_for_status()
    if len(answer.json()["write"]) != FILES:
        raise RuntimeError("not every file was restored")


def _shares(samples: list[list[float]], share: float) -> list[float]:
    return [percentile(one, share) for one in samples]


BENCHMARK = Benchmark(name="timemachine", question=QUESTION, run=run)
