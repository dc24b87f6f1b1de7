"""Which batch size, flush time and number of ingest workers suit this machine? A grid, and a recommendation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from enchanted.benchmarks.case import Benchmark, Result, Row, told
from enchanted.benchmarks.rig import Ingestor, fresh, p50_p99, sustained
from enchanted.ingest.batch import BatchLimits

QUESTION = "rate, CPU and freshness over ingest.batch_rows x ingest.batch_seconds x ingest.workers"
P99 = 1_500.0
"""Milliseconds of freshness a setting has to keep."""
NEARLY = 0.9
"""Share of the best rate a setting has to reach."""

WHY = (
    f"the default is ingest.batch_seconds = {BatchLimits().seconds:g}, whatever is recommended: the time of so short a "
    "burst holds the wait for its last flush, which favours a short one, while events that trickle in are inserted in "
    "as many more parts as the flush is shorter, and parts cost CPU and have to be merged (compare 'at 1,000 "
    f"events/s'); a second keeps the budget of freshness, p99 <= {P99:g} ms; set less where a reader cannot wait"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What a setting did once."""

    rate: float
    """Events/s, publish and ingest at once."""
    cpu: float
    """Microseconds an event, workers and store, meanwhile."""
    p50: float
    p99: float
    """Milliseconds from acknowledged to queryable at 1,000 events/s."""
    offered_cpu: float
    """Microseconds an event, workers and store, at 1,000 events/s."""
    parts: float
    """A second at 1,000 events/s, as inserts made them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One setting and what it did, each time it was tried."""

    ingestor: Ingestor
    samples: Sequence[Figures]

    @property
    def name(self) -> str:
        """The setting in words."""
        one = self.ingestor
        return f"rows {one.rows}, {one.seconds:g} s, workers {one.workers}"

    @property
    def rate(self) -> float:
        """Median."""
        return median(one.rate for one in self.samples)

    @property
    def cpu(self) -> float:
        """Median."""
        return median(one.cpu for one in self.samples)

    @property
    def p99(self) -> float:
        """Median."""
        return median(one.p99 for one in self.samples)


def recommended(points: Sequence[Point]) -> Point:
    """The cheapest that is nearly as fast as the fastest and fresh enough; without such a one, the freshest."""
    fastest = max(point.rate for point in points)
    fit = [point for point in points if point.p99 <= P99 and point.rate >= NEARLY * fastest]
    return min(fit, key=lambda point: point.cpu) if fit else min(points, key=lambda point: point.p99)


async def run(smoke: bool) -> Result:
    """Every point of the grid in turn, several times: a burst for rate and CPU, then offered load for freshness."""
    grid = [(1_000, 1.0, 1), (10_000, 0.25, 1)] if smoke else GRID
    burst, offered, repeats = (1_000, 500, 1) if smoke else (20_000, 10_000, 3)
    taken: dict[Ingestor, list[Figures]] = {Ingestor(rows=r, seconds=s, workers=w): [] for r, s, w in grid}
    for _ in range(repeats):
        for ingestor, samples in taken.items():
            samples.append(await measure(ingestor, burst, offered))
    return result([Point(ingestor=ingestor, samples=samples) for ingestor, samples in taken.items()], smoke)


GRID = list(itertools.product((1_000, 3_000, 10_000), (0.25, 1.0), (1, 2)))


async def measure(ingestor: Ingestor, burst: int, offered: int) -> Figures:
    """One point once."""
    told(f"{ingestor.rows} rows, {ingestor.seconds:g} s, {ingestor.workers} worker(s)")
    ran = await sustained(ingestor, burst)
    seen = await fresh(ingestor, offered, 1_000)
    p50, p99 = p50_p99(seen.milliseconds)
    return Figures(
        rate=ran.rate,
        cpu=ran.cpu["ingestor"] + ran.cpu["store"],
        p50=p50,
        p99=p99,
        offered_cpu=seen.cpu,
        parts=seen.parts,
    )


def result(points: Sequence[Point], smoke: bool) -> Result:
    """The table and the advice."""
    rows = [
        Row(name=f"{point.name}: {what}", unit=unit, samples=[getattr(one, field) for one in point.samples])
        for point in points
        for what, unit, field in (
            ("rate", "events/s", "rate"),
            ("CPU", "µs/event", "cpu"),
            ("freshness p50", "ms", "p50"),
            ("freshness p99", "ms", "p99"),
            ("CPU at 1,000 events/s", "µs/event", "offered_cpu"),
            ("parts at 1,000 events/s", "parts/s", "parts"),
        )
    ]
    best = recommended(points).ingestor
    notes = (
        f"recommended here: ingest.batch_rows = {best.rows}, ingest.batch_seconds = {best.seconds:g}, "
        f"ingest.workers = {best.workers}",
        f"the cheapest by CPU among those with p99 <= {P99:g} ms and at least {NEARLY:.0%} of the best rate",
        WHY,
        f"{len(points[0].samples)} sample(s) a point, the points in turns; figures are medians: what lies within "
        "another's range is no difference",
    )
    return Result(benchmark="sweep", question=QUESTION, rows=tuple(rows), notes=notes, smoke=smoke)


BENCHMARK = Benchmark(name="sweep", question=QUESTION, run=run)
