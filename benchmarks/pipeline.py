"""Every budget of the data plane in one document: publish, ingest, freshness, the whole line at once, and growth."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from enchanted.benchmarks import growth, ingest, publish
from enchanted.benchmarks.case import Benchmark, Budget, Result, Row, told
from enchanted.benchmarks.rig import Ingestor, Load, fresh, p50_p99, sustained

QUESTION = "does the data plane keep its budgets: publish, ingest, freshness, both at once, and growth"
RATE = 1_000.0
OURS, NAIVE, BARE = "ingest worker", "fetch(1000) + row insert", "bare insert a second"
INGESTORS = {BARE: Ingestor(role="bare"), NAIVE: Ingestor(role="fetch"), OURS: Ingestor()}
BUDGETS = {
    "group commit 64": Budget(limit=0.7, least=True, of_ratio=True),
    "group commit 64 over single 64": Budget(limit=10.0, least=True, of_ratio=True),
    "Publisher p50": Budget(limit=1.3, of_ratio=True),
    "ingest worker: CPU over the obvious": Budget(limit=0.2, of_ratio=True),
    "ingest worker: CPU over the floor": Budget(limit=1.5, of_ratio=True),
}
"""Of the rows that `publish` and `ingest` measure."""
NOTES = (
    f"freshness: {RATE:.0f} events/s in an open loop from one process; from Publisher.publish having returned until a "
    "reader that asks for count() every 20 ms had the new sequences in its hands; the first 2 s left out",
    "freshness of others: the obvious ingestor as in `ingest`; 'bare' inserts what came each second and checks nothing",
    "nats-py's fetch(1000) hands over what is there at once: the obvious ingestor inserts some hundred rows, often in "
    "a second, so it is fresher than a flush each second, at several times the CPU an event",
    "end to end: 500 publishers on one connection and one ingestor at once, until every row is in the table",
    "growth: CPU of worker and store over events that wait in the stream, least squares over all points; of publish: "
    "CPU of the publisher and of nats-server, 500 publishers on one connection with events of so many agents",
)


async def run(smoke: bool) -> Result:
    """Every part in turn; at small scale without what `publish` and `ingest` show by themselves."""
    rows: list[Row] = []
    for name, part in PARTS.items():
        if not smoke or name not in ("publish", "ingest"):
            told(name)
            rows += await part(smoke)
    return result(rows, smoke)


def result(rows: Sequence[Row], smoke: bool) -> Result:
    """The document."""
    load = f"load average {os.getloadavg()[0]:.1f} at the end"
    return Result(benchmark="pipeline", question=QUESTION, rows=tuple(rows), notes=(*NOTES, load), smoke=smoke)


def budgeted(rows: Sequence[Row]) -> list[Row]:
    """The rows with the budgets of CONTRACT section 7."""
    return [replace(row, budget=BUDGETS.get(row.name)) for row in rows]


async def publishing(smoke: bool) -> list[Row]:
    """What `publish` measures."""
    return budgeted((await publish.run(smoke)).rows)


async def ingesting(smoke: bool) -> list[Row]:
    """What `ingest` measures."""
    return budgeted((await ingest.run(smoke)).rows)


async def freshness(smoke: bool) -> list[Row]:
    """Publish returned until queryable, ours beside the obvious and the bare."""
    count, repeats = (1_000, 1) if smoke else (20_000, 5)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in INGESTORS}
    for _ in range(repeats):
        for name, ingestor in INGESTORS.items():
            taken[name].append(p50_p99((await fresh(ingestor, count, RATE)).milliseconds))
    return freshness_rows(taken)


def freshness_rows(taken: dict[str, list[tuple[float, float]]]) -> list[Row]:
    """p50 and p99 of each."""
    rows = []
    for at, (word, limit) in enumerate((("p50", 700.0), ("p99", 1_500.0))):
        for name, samples in taken.items():
            ours = name == OURS
            figures = [sample[at] for sample in samples]
            for over in (BARE, NAIVE) if ours else ("",):
                suffix = f" over {over}" if over else ""
                floor = f"freshness {word}: {over}" if over else ""
                budget = Budget(limit=limit) if ours else None
                line = Row(
                    name=f"freshness {word}: {name}{suffix}", unit="ms", samples=figures, floor=floor, budget=budget
                )
                rows.append(line)
    return rows


async def end_to_end(smoke: bool) -> list[Row]:
    """Publish and ingest at once."""
    count, repeats = (1_000, 1) if smoke else (30_000, 5)
    taken: dict[str, list[Load]] = {NAIVE: [], OURS: []}
    for _ in range(repeats):
        for name, samples in taken.items():
            samples.append(
                await sustained(INGESTORS[name], count // 3 // 1_000 * 1_000 or 1_000 if name == NAIVE else count)
            )
    return end_to_end_rows(taken)


def end_to_end_rows(taken: dict[str, list[Load]]) -> list[Row]:
    """Rate, and CPU by process."""
    rows = []
    for name, samples in taken.items():
        over = NAIVE if name == OURS else ""
        rows.append(_row(f"end to end, {name}: rate", "events/s", [one.rate for one in samples], over, name))
        total = [sum(one.cpu.values()) for one in samples]
        rows.append(_row(f"end to end, {name}: CPU", "µs/event", total, over, name))
        rows += [
            Row(name=f"end to end, {name}: {part}", unit="µs/event", samples=[one.cpu[part] for one in samples])
            for part in ("publisher", "nats-server", "ingestor", "store")
        ]
    return rows


def _row(name: str, unit: str, samples: list[float], over: str, own: str) -> Row:
    return Row(name=name, unit=unit, samples=samples, floor=name.replace(own, over) if over else "")


async def growing(smoke: bool) -> list[Row]:
    """Fitted slopes."""
    return await growth.measure(growth.SMOKE if smoke else growth.FULL)


PARTS: dict[str, Callable[[bool], Awaitable[list[Row]]]] = {
    "publish": publishing,
    "ingest": ingesting,
    "freshness": freshness,
    "end to end": end_to_end,
    "growth": growing,
}

BENCHMARK = Benchmark(name="pipeline", question=QUESTION, run=run)
