"""How does the cost of an event grow with events stored, agents and event size? Fitted slopes.

Ingest by all three; publish by agents and size: what is stored in the table is nothing to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from enchanted.benchmarks.case import Row
from enchanted.benchmarks.figures import residual, slope
from enchanted.benchmarks.fill import Spread, fill, settle, take_sample
from enchanted.benchmarks.load import AGENTS, load
from enchanted.benchmarks.players import player, publish_all
from enchanted.benchmarks.rig import Plane, plane

HOUR = 3_600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """What is varied, and how many events are ingested at each point."""

    events: int
    """A whole batch, so that what a batch costs is shared by as many everywhere."""
    stored: tuple[int, ...]
    agents: tuple[int, ...]
    """Events are spread over so many at random; the line is drawn over those that had one."""
    texts: tuple[int, ...]
    """Bytes of text in every event: 50, 600, 3,600 and 7,600 make some 0.4, 1, 4 and 8 KiB."""
    repeats: int


FULL = Points(
    events=10_000, stored=(0, 200_000, 1_000_000), agents=(10, 3_000, 30_000), texts=(50, 600, 3_600, 7_600), repeats=5
)
SMOKE = Points(events=1_000, stored=(0, 20_000), agents=(10, 1_000), texts=(50, 3_600), repeats=1)
Sample = tuple[float, float]
"""What was varied, and microseconds of CPU an event cost."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of events that were published and then ingested."""

    kib: float
    """Of one event on average."""
    agents: int
    """That had an event among them."""
    publish: float
    """Microseconds of CPU of publisher and nats-server for an event."""
    ingest: float
    """Of worker and store."""


async def measure(points: Points) -> list[Row]:
    """Every slope, each with the scatter around it."""
    by_stored = list[Sample]()
    by_agents, by_size = list[tuple[float, Cost]](), list[tuple[float, Cost]]()
    for repeat in range(points.repeats):
        async with plane() as servers:
            by_stored += await _stored(servers, points, repeat)
            for agents in points.agents:
                cost = await _alone(servers, points.events, 10 * repeat + 1, agents)
                by_agents.append((cost.agents / 1_000, cost))
            for text in points.texts:
                cost = await _alone(servers, points.events, 10 * repeat + 2, AGENTS, text)
                by_size.append((cost.kib, cost))
    return [
        *rows("growth", "million events stored", by_stored),
        *slopes("thousand agents", by_agents),
        *slopes("KiB of event", by_size),
    ]


def slopes(unit: str, points: list[tuple[float, Cost]]) -> list[Row]:
    """Of ingest and of publish."""
    return [
        *rows("growth", unit, [(at, cost.ingest) for at, cost in points]),
        *rows("growth of publish", unit, [(at, cost.publish) for at, cost in points]),
    ]


def rows(name: str, unit: str, points: list[Sample]) -> list[Row]:
    """The slope, the cost where the line begins, and the scatter."""
    rise, base = slope(points)
    return [
        Row(name=f"{name}: slope per {unit}", unit=f"µs/event per {unit}", samples=[rise]),
        Row(name=f"{name}: cost at no {unit}", unit="µs/event", samples=[base]),
        Row(name=f"{name}: scatter about the line, {unit}", unit="µs/event", samples=[residual(points)]),
    ]


async def _stored(servers: Plane, points: Points, repeat: int) -> list[Sample]:
    """A table that is filled step by step."""
    found = list[Sample]()
    before = 0
    for step, stored in enumerate(points.stored):
        if stored:
            sample = await take_sample(servers.table, 20_000)
            await fill(servers.table, Spread.of(stored, HOUR), sample, first=points.stored[step - 1])
            await settle(servers.table, 30.0)
            before = await servers.rows()
        events = load(points.events, 1_000 + 10 * repeat + step)
        await publish_all(servers.nats.url, events)
        found.append((stored / 1e6, await _drained(servers, len(events), before)))
    return found


async def _alone(servers: Plane, count: int, *arguments: int) -> Cost:
    """Publish by loops that share a connection, then ingest into an empty table; ``arguments`` as of the player."""
    await servers.table.command("TRUNCATE TABLE events")
    async with player("publish", servers.nats.url, servers.store.url, count, *arguments) as publisher:
        meter = servers.meter(publisher=publisher)
        publisher.begin()
        size, agents = await publisher.found()
        spent = meter.spent()
        await publisher.end()
    publish = (spent["publisher"] + spent["nats-server"]) / count * 1e6
    return Cost(kib=size / 1_024, agents=agents, publish=publish, ingest=await _drained(servers, count, 0))


async def _drained(servers: Plane, count: int, before: int) -> float:
    """Microseconds of CPU of worker and store for each of ``count`` events, all of which wait in the stream."""
    async with player("work", servers.nats.url, servers.store.url, 10_000, 1.0) as worker:
        meter = servers.meter(worker=worker)
        worker.begin()
        await servers.until(before + count)
        spent = meter.spent()
        await worker.end()
    return (spent["worker"] + spent["store"]) / count * 1e6
