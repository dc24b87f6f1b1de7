"""A long run with a fault of every kind again and again: the same set on both sides, and nothing that grows."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from enchanted.cluster.chaos_load import NONE, Ledger, Mix, publish
from enchanted.cluster.chaos_pipeline import fault_every, kill_every, pipeline
from enchanted.cluster.chaos_watch import visible, watching

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


@pytest.mark.parametrize("way", ["hasty", "blind"])
async def test_faults_that_the_pipeline_survives_are_noticed_with_an_unsafe_worker(tmp_path: Path, way: str) -> None:
    """The controls: one acknowledges before the insert and loses, one does not look for copies and doubles."""
    ledger, over = Ledger(), asyncio.Event()
    async with pipeline(tmp_path, way=way) as made, watching(made, whole_every=0.5) as seen:
        killing = asyncio.create_task(kill_every(made, "worker", 3.0, over)) if way == "hasty" else None
        await publish([made.nats.url], ledger, 12_000, seed=SEED, mix=Mix(copies=0.02), rate=1_500.0)
        over.set()
        if killing is not None:
            await killing
        await made.until_acknowledged()
        rows = await visible(made)
        polls = seen.whole
        async with asyncio.timeout(60):
            while seen.whole <= polls + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    found = ledger.compare(rows)
    assert bool(found.lost) is (way == "hasty"), found
    assert bool(found.twice and seen.twice) is (way == "blind"), found
