"""Which batch size, flush time and number of ingest workers suit this machine? A grid, and a recommendation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from enchanted.benchmarks.case import Benchmark, Result, Row, told
from enchanted.benchmarks.rig import Ingestor, fresh, p50_p99, sustained

QUESTION = "rate, CPU and freshness over ingest.batch_rows x ingest.batch_seconds x ingest.workers"
P99 = 1_500.0
"""Milliseconds of freshness a setting has to keep."""
NEARLY = 0.9
"""Share of the best rate a setting has to reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One setting and what it did."""

    ingestor: Ingestor
    rate: float
    """Events/s, publish and ingest at once."""
    cpu: float
    """Microseconds an event, workers and store."""
    p50: float
    p99: float
    """Milliseconds from acknowledged to queryable at 1,000 events/s."""

    @property
    def name(self) -> str:
        """The setting in words."""
        one = self.ingestor
        return f"rows {one.rows}, {one.seconds:g} s, workers {one.workers}"


def recommended(points: Sequence[Point]) -> Point:
    """The cheapest that is nearly as fast as the fastest and fresh enough; without such a one, the freshest."""
    fastest = max(point.rate for point in points)
    fit = [point for point in points if point.p99 <= P99 and point.rate >= NEARLY * fastest]
    return min(fit, key=lambda point: point.cpu) if fit else min(points, key=lambda point: point.p99)


async def run(smoke: bool) -> Result:
    """Every point of the grid once: a burst for rate and CPU, then offered load for freshness."""
    grid = [(1_000, 1.0, 1), (10_000, 0.25, 1)] if smoke else GRID
    burst, offered = (1_000, 500) if smoke else (20_000, 10_000)
    points = [await measure(Ingestor(rows=r, seconds=s, workers=w), burst, offered) for r, s, w in grid]
    return result(points, smoke)


GRID = list(itertools.product((1_000, 3_000, 10_000), (0.25, 1.0), (1, 2)))


async def measure(ingestor: Ingestor, burst: int, offered: int) -> Point:
    """One point."""
    told(f"{ingestor.rows} rows, {ingestor.seconds:g} s, {ingestor.workers} worker(s)")
    ran = await sustained(ingestor, burst)
    p50, p99 = p50_p99(await fresh(ingestor, offered, 1_000))
    return Point(ingestor=ingestor, rate=ran.rate, cpu=ran.cpu["ingestor"] + ran.cpu["store"], p50=p50, p99=p99)


def result(points: Sequence[Point], smoke: bool) -> Result:
    """The table and the advice."""
    rows = [
        Row(name=f"{point.name}: {what}", unit=unit, samples=[figure])
        for point in points
        for what, unit, figure in (
            ("rate", "events/s", point.rate),
            ("CPU", "µs/event", point.cpu),
            ("freshness p50", "ms", point.p50),
            ("freshness p99", "ms", point.p99),
        )
    ]
    best = recommended(points).ingestor
    notes = (
        f"recommended here: ingest.batch_rows = {best.rows}, ingest.batch_seconds = {best.seconds:g}, "
        f"ingest.workers = {best.workers}",
        f"the cheapest by CPU among those with p99 <= {P99:g} ms and at least {NEARLY:.0%} of the best rate",
        "one sample a point: differences of a tenth are noise",
    )
    return Result(benchmark="sweep", question=QUESTION, rows=tuple(rows), notes=notes, smoke=smoke)


BENCHMARK = Benchmark(name="sweep", question=QUESTION, run=run)
