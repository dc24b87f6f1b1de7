"""How fast can events be made durable? Group commit beside the same load published singly and hand-batched loops.

Every case publishes events of the same mix with their ids in the same header, and counts one once it is acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enchanted.benchmarks.case import Benchmark, Result, Row, Unavailable
from enchanted.benchmarks.figures import percentile
from enchanted.benchmarks.players import player
from enchanted.bus.testing import nats_server

QUESTION = "events per second, each acknowledged after fsync, with 1 to 500 publishers at once; one publisher's latency"
MANY, CROWD = "2 x 8 connections", "4 x 125 connections"
SPARE = 64
"""Open files a process has besides its connections."""

NOTES = (
    "events of `load`, 920 bytes on average, on their own subjects, made before the clock starts; sync_interval "
    "always, publishers are closed loops; 'hand N' is one bare nats-py loop of atomic batches of N; cases are "
    "interleaved, each in fresh processes whose connections have published before, figures are medians",
    "CPU is that of the publishing processes, nats-server's is not in it",
    f"{MANY}: processes and connections in each, 4 publishers on each connection; connecting is not in the time",
    f"{CROWD}: 500 agents that share no connection, so that group commit has one event to commit at a time",
)


class TooFewFiles(Unavailable):
    """Fewer open files are allowed than the connections need."""

    def __init__(self, connections: int, ours: int, servers: int, soft: int, hard: int) -> None:
        super().__init__(
            f"{connections} connections need {ours} open files in a process (allowed: {soft}) and {servers} in "
            f"nats-server (allowed: {hard}); raise both limits, for example with: ulimit -n {max(1024, servers)}"
        )


class PublishesFailed(Exception):
    """A case without a row for its errors had some, or nothing but errors: its figures would mean nothing."""

    def __init__(self, name: str, errors: Sequence[str]) -> None:
        super().__init__(f"{name}: {len(errors)} publishes failed, the first with {errors[0]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Who publishes, and how."""

    way: str
    """One of `publishers.WAYS`."""
    processes: int = 1
    connections: int = 1
    """Of each process."""
    publishers: int = 1
    """On each connection."""
    each: int
    """Units of each publisher."""
    size: int = 1
    """Events in a unit."""

    def scaled(self, scale: float) -> tuple[int, int, int, int]:
        """What its processes are told."""
        return self.connections, self.publishers, max(1, int(self.each * scale)), self.size


CASES = {
    "single 1": Case(way="single", each=100),
    "single 16": Case(way="single", publishers=16, each=16),
    "single 64": Case(way="single", publishers=64, each=4),
    "hand 16": Case(way="hand", size=16, each=60),
    "hand 64": Case(way="hand", size=64, each=50),
    "hand 500": Case(way="hand", size=500, each=10),
    "group commit 1": Case(way="group", each=100),
    "group commit 16": Case(way="group", publishers=16, each=60),
    "group commit 64": Case(way="group", publishers=64, each=50),
    "group commit 500": Case(way="group", publishers=500, each=10),
    f"single {MANY}": Case(way="single", processes=2, connections=8, publishers=4, each=4),
    f"group commit {MANY}": Case(way="group", processes=2, connections=8, publishers=4, each=40),
    f"single {CROWD}": Case(way="single", processes=4, connections=125, each=8),
    f"group commit {CROWD}": Case(way="group", processes=4, connections=125, each=8),
}
FLOORS = {
    "group commit 1": "single 1",
    **{f"group commit {n}": f"hand {n}" for n in (16, 64, 500)},
    **{f"group commit {many}": f"single {many}" for many in (MANY, CROWD)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One run of one case."""

    rate: float
    """Acknowledged events/s."""
    cpu: float
    """Microseconds for one event."""
    milliseconds: list[float]
    """From handing over to acknowledged, of each unit."""
    errors: list[str]

    @classmethod
    def of(cls, parts: Sequence[dict[str, Any]], size: int) -> Sample:
        """What the processes of a case found together."""
        milliseconds = [one for part in parts for one in part["milliseconds"]]
        events = max(1, len(milliseconds) * size)
        seconds = max(part["end"] for part in parts) - min(part["start"] for part in parts)
        return cls(
            rate=events / seconds,
            cpu=sum(part["cpu"] for part in parts) / events * 1e6,
            milliseconds=milliseconds,
            errors=[one for part in parts for one in part["errors"]],
        )


Samples = dict[str, list[Sample]]


async def run(smoke: bool) -> Result:
    """Measure every case against one server with ``sync_interval: always``."""
    check_files()
    scale, repeats = (0.1, 1) if smoke else (1.0, 5)
    samples: Samples = {name: [] for name in CASES}
    seeds = itertools.count(1)
    with tempfile.TemporaryDirectory() as folder:
        async with nats_server(Path(folder)) as server:
            for _ in range(repeats):
                for name, case in CASES.items():
                    sample = await measure(server.url, case, scale, seeds)
                    if sample.errors and (CROWD not in name or not sample.milliseconds):
                        raise PublishesFailed(name, sample.errors)
                    samples[name].append(sample)
    return Result(benchmark="publish", question=QUESTION, rows=rows(samples), notes=NOTES, smoke=smoke)


def check_files() -> None:
    """Whether processes here and nats-server, which raises its own limit, can have as many connections as `CASES`.

    Raises:
        TooFewFiles: they cannot.
    """
    most = max(case.processes * case.connections for case in CASES.values())
    ours, servers = max(case.connections for case in CASES.values()) + SPARE, most + SPARE
    soft, hard = (2**63 if one == resource.RLIM_INFINITY else one for one in resource.getrlimit(resource.RLIMIT_NOFILE))
    if soft < ours or hard < servers:
        raise TooFewFiles(most, ours, servers, soft, hard)


async def measure(url: str, case: Case, scale: float, seeds: Iterator[int]) -> Sample:
    """One run in fresh processes, which begin together."""
    async with AsyncExitStack() as stack:
        told = [(case.way, url, *case.scaled(scale), next(seeds)) for _ in range(case.processes)]
        ready = await asyncio.gather(
            *(stack.enter_async_context(player(*arguments, module="publishers")) for arguments in told)
        )
        for one in ready:
            one.begin()
        return Sample.of(await asyncio.gather(*(one.end() for one in ready)), case.size)


def rows(samples: Samples) -> tuple[Row, ...]:
    """Rates, CPU and latencies."""
    found = [
        Row(name=name, unit="events/s", samples=[one.rate for one in taken], floor=FLOORS.get(name, ""))
        for name, taken in samples.items()
    ]
    ours = [one.rate for one in samples["group commit 64"]]
    found += [
        Row(name="group commit 64 over single 64", unit="events/s", samples=ours, floor="single 64"),
        Row(name="group commit 64 over hand 500", unit="events/s", samples=ours, floor="hand 500"),
    ]
    found += [
        Row(name=f"{name} CPU", unit="us/event", samples=[one.cpu for one in taken]) for name, taken in samples.items()
    ]
    found += [
        _latency("js.publish p50", samples["single 1"], 0.5),
        _latency("Publisher p50", samples["group commit 1"], 0.5, floor="js.publish p50"),
    ]
    for word, share in (("p50", 0.5), ("p99", 0.99)):
        bare, grouped = f"single {CROWD}", f"group commit {CROWD}"
        found += [
            _latency(f"{bare} {word}", samples[bare], share),
            _latency(f"{grouped} {word}", samples[grouped], share, floor=f"{bare} {word}"),
        ]
    return (*found, *(_errors(name, taken) for name, taken in samples.items() if CROWD in name))


def _latency(name: str, taken: list[Sample], share: float, floor: str = "") -> Row:
    return Row(name=name, unit="ms", samples=[percentile(one.milliseconds, share) for one in taken], floor=floor)


def _errors(name: str, taken: list[Sample]) -> Row:
    return Row(name=f"{name} errors", unit="errors", samples=[float(len(one.errors)) for one in taken])


BENCHMARK = Benchmark(name="publish", question=QUESTION, run=run)
