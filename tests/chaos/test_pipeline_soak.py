"""A long run with a fault of every kind again and again: the same set on both sides, and nothing that grows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from enchanted.cluster.chaos.load import NONE, Hopeful, Insistent, Ledger, Mix, Producer, publish
from enchanted.cluster.chaos.pipeline import Pipeline, fault_every, kill_every, pipeline
from enchanted.cluster.chaos.watch import visible, watching

SEED, RATE = 43, 300.0
PARTS = 100
"""Active parts of the table; ClickHouse slows inserts down at 1,000 of a partition."""
FILES = 400


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("seconds", "every", "stopped"),
    [
        pytest.param(30, 4.0, 2.0, id="short"),
        pytest.param(1800, 30.0, 8.0, id="half an hour", marks=pytest.mark.slow),
    ],
)
async def test_a_long_run_with_faults_of_every_kind_keeps_the_set_and_grows_nothing(
    tmp_path: Path, seconds: int, every: float, stopped: float
) -> None:
    ledger, over = Ledger(), asyncio.Event()
    async with pipeline(tmp_path, proxied=True) as made, watching(made, whole_every=max(5.0, seconds / 60)) as seen:
        faults = asyncio.create_task(fault_every(made, every, over, seed=SEED, stopped=stopped))
        begun = time.monotonic()
        mix = Mix(copies=0.01)
        urls = [made.nats.url] * 2
        await publish(urls, ledger, int(seconds * RATE), seed=SEED, mix=mix, rate=RATE, batch=20)
        over.set()
        await faults
        settled = await made.until_acknowledged()
        rows = await visible(made)
    print(f"\n{len(rows)} events in {time.monotonic() - begun:.0f} s, settled in {settled:.1f} s; {seen.summary()}")
    print(*made.faults, sep="\n")
    growth = {part: seen.growth(part, "resident") for part in seen.vitals}
    print("growth of the last third over the second:", {part: f"{value:+.1%}" for part, value in growth.items()})
    assert ledger.compare(rows) == NONE
    assert not ledger.unknown
    assert seen.twice == []
    assert {fault.kind for fault in made.faults} == {"kill", "stop", "cut"}
    assert max(count for _, count in seen.parts) < PARTS
    assert all(one.files < FILES for part in seen.vitals.values() for one in part)
    if seconds >= 600:
        assert all(value < 0.15 for value in growth.values()), growth


@dataclass(frozen=True, kw_only=True)
class Unsafe:
    """Something that loses or doubles under one of the faults."""

    way: str = "safe"
    kind: type[Producer] = Producer
    fault: str = ""
    """What is done again and again: ``kill``, ``stop`` or ``cut``, and to whom; copies come where nothing is done."""
    doubles: bool = False


UNSAFE = {
    "acknowledged before the insert": Unsafe(way="hasty", fault="kill worker"),
    "copies not looked for": Unsafe(way="blind", doubles=True),
    "an insert tried once, the store killed": Unsafe(way="brief", fault="kill store"),
    "an insert tried once, the store cut off": Unsafe(way="brief", fault="cut store"),
    "sent is taken for stored, NATS killed": Unsafe(kind=Hopeful, fault="kill nats"),
    "sent again under no id, NATS stopped": Unsafe(way="blind", kind=Insistent, fault="stop nats", doubles=True),
}
LONG = {
    "sent again under no id, NATS stopped",
    "an insert tried once, the store cut off",
    "sent is taken for stored, NATS killed",
}


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in LONG)) for one in UNSAFE])
async def test_faults_that_the_pipeline_survives_are_noticed_where_it_is_unsafe(tmp_path: Path, name: str) -> None:
    """The controls: without them a fault that strikes nobody would pass for one that is survived."""
    unsafe, ledger, over = UNSAFE[name], Ledger(), asyncio.Event()
    async with pipeline(tmp_path, way=unsafe.way, proxied=True) as made, watching(made, whole_every=0.5) as seen:
        striking = asyncio.create_task(strike(made, unsafe.fault, over))
        mix = Mix(copies=0.0 if unsafe.fault else 0.02)
        await publish([made.nats.url], ledger, 12_000, seed=SEED, mix=mix, rate=1_500.0, batch=20, kind=unsafe.kind)
        over.set()
        await striking
        await made.until_acknowledged()
        rows = await visible(made)
        polls = seen.whole
        async with asyncio.timeout(60):
            while seen.whole <= polls + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    found = ledger.compare(rows)
    assert bool(found.lost) is not unsafe.doubles, found
    assert bool(found.twice and seen.twice) is unsafe.doubles, found


async def strike(made: Pipeline, fault: str, over: asyncio.Event) -> None:
    """The fault again and again."""
    what, _, whom = fault.partition(" ")
    if what == "kill":
        await kill_every(made, whom, 2.0, over)
    while what == "cut" and not over.is_set():
        await made.cut(whom)
        await asyncio.sleep(0.3)
    while what == "stop" and not over.is_set():
        await made.stop(whom, 2.5)
        await asyncio.sleep(1.0)
