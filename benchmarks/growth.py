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
TEXTS = (50, 600, 3_600, 7_600)
"""Bytes of text that make events of some 0.4, 1, 4 and 8 KiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """What is varied, and how many events are ingested at each point."""

    events: int
    stored: tuple[int, ...]
    agents: tuple[int, ...]
    repeats: int


FULL = Points(events=10_000, stored=(0, 200_000, 1_000_000), agents=(10, 3_000, 100_000), repeats=5)
SMOKE = Points(events=1_000, stored=(0, 20_000), agents=(10, 1_000), repeats=1)
Sample = tuple[float, float]
"""What was varied, and microseconds of CPU (worker and store) an event cost."""


async def measure(points: Points) -> list[Row]:
    """Every slope, each with the scatter around it."""
    by_stored, by_agents, by_size = list[Sample](), list[Sample](), list[Sample]()
    for repeat in range(points.repeats):
        by_stored += await _stored(points, repeat)
        for agents in points.agents:
            events = load(points.events, repeat, agents=agents)
            by_agents.append((agents / 1_000, await _alone(events)))
        for text in TEXTS:
            events = load(points.events // 4, repeat, text=text)
            by_size.append((mean_bytes(events) / 1_024, await _alone(events)))
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


async def _stored(points: Points, repeat: int) -> list[Sample]:
    """One table that is filled step by step; the same stream and store throughout."""
    found = list[Sample]()
    async with plane() as servers:
        for step, stored in enumerate(points.stored):
            before = await servers.rows()
            if stored:
                sample = await take_sample(servers.table, 20_000)
                await fill(servers.table, Spread.of(stored, HOUR), sample, first=points.stored[step - 1])
                await settle(servers.table, 30.0)
                before = await servers.rows()
            events = load(points.events, 100 * repeat + step)
            found.append((stored / 1e6, await _drained(servers, events, before)))
    return found


async def _alone(events: list[Published]) -> float:
    async with plane() as servers:
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
