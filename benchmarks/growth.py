"""How does the cost of an event grow with events stored, agents and event size? Fitted slopes."""

from __future__ import annotations

from dataclasses import dataclass

from enchanted.benchmarks.case import Row
from enchanted.benchmarks.figures import residual, slope
from enchanted.benchmarks.fill import Spread, fill, settle, take_sample
from enchanted.benchmarks.load import Published, load, mean_bytes
from enchanted.benchmarks.players import player, publish_all
from enchanted.benchmarks.rig import Plane, plane

HOUR = 3_600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """What is varied, and how many events are ingested at each point."""

    events: int
    stored: tuple[int, ...]
    agents: tuple[int, ...]
    texts: tuple[int, ...]
    """Bytes of text in every event: 50, 600, 3,600 and 7,600 make some 0.4, 1, 4 and 8 KiB."""
    repeats: int


FULL = Points(
    events=10_000, stored=(0, 200_000, 1_000_000), agents=(10, 3_000, 100_000), texts=(50, 600, 3_600, 7_600), repeats=5
)
SMOKE = Points(events=1_000, stored=(0, 20_000), agents=(10, 1_000), texts=(50, 3_600), repeats=1)
Sample = tuple[float, float]
"""What was varied, and microseconds of CPU (worker and store) an event cost."""


async def measure(points: Points) -> list[Row]:
    """Every slope, each with the scatter around it."""
    by_stored, by_agents, by_size = list[Sample](), list[Sample](), list[Sample]()
    for repeat in range(points.repeats):
        async with plane() as servers:
            by_stored += await _stored(servers, points, repeat)
            for agents in points.agents:
                events = load(points.events, 10 * repeat + 1, agents=agents)
                by_agents.append((agents / 1_000, await _alone(servers, events)))
            for text in points.texts:
                events = load(points.events // 4, 10 * repeat + 2, text=text)
                by_size.append((mean_bytes(events) / 1_024, await _alone(servers, events)))
    return [
        *rows("million events stored", by_stored),
        *rows("thousand agents", by_agents),
        *rows("KiB of event", by_size),
    ]


def rows(unit: str, points: list[Sample]) -> list[Row]:
    """The slope, the cost where the line begins, and the scatter."""
    rise, base = slope(points)
    return [
        Row(name=f"growth: slope per {unit}", unit=f"µs/event per {unit}", samples=[rise]),
        Row(name=f"growth: cost at no {unit}", unit="µs/event", samples=[base]),
        Row(name=f"growth: scatter about the line, {unit}", unit="µs/event", samples=[residual(points)]),
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
        found.append((stored / 1e6, await _drained(servers, events, before)))
    return found


async def _alone(servers: Plane, events: list[Published]) -> float:
    await servers.table.command("TRUNCATE TABLE events")
    return await _drained(servers, events, 0)


async def _drained(servers: Plane, events: list[Published], before: int) -> float:
    """Microseconds of CPU of worker and store for each of ``events``, all of which wait in the stream."""
    await publish_all(servers.nats.url, events)
    async with player("work", servers.nats.url, servers.store.url, 10_000, 1.0) as worker:
        meter = servers.meter(worker=worker)
        worker.begin()
        await servers.until(before + len(events))
        spent = meter.spent()
        await worker.end()
    return (spent["worker"] + spent["store"]) / len(events) * 1e6
