"""Events through the pipeline while its processes are killed: published and visible are the same set, at any moment."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from enchanted.cluster.chaos.load import NONE, Ledger, Mix, publish
from enchanted.cluster.chaos.pipeline import Pipeline, kill_every, pipeline
from enchanted.cluster.chaos.watch import Watch, stored, visible, watching

SEED = 11


async def struck(made: Pipeline, ledger: Ledger, count: int, *, rate: float, pace: float) -> Watch:
    """Publish while the worker is killed every 5 ``pace`` seconds and the store every 20, until all is in the table."""
    over = asyncio.Event()
    begun = time.monotonic()
    async with watching(made, every=0.2, whole_every=max(2.0, count / 30_000)) as seen:
        killers = [
            asyncio.create_task(kill_every(made, victim, seconds * pace, over))
            for victim, seconds in (("worker", 5), ("store", 20))
        ]
        try:
            mix = Mix(copies=0.01)
            await publish([made.nats.url] * 4, ledger, count, seed=SEED, mix=mix, rate=rate)
            published = time.monotonic() - begun
            await made.until_acknowledged()
        finally:
            over.set()
            await asyncio.gather(*killers)
        await made.until_acknowledged()
        polls = seen.whole
        async with asyncio.timeout(120):
            while seen.whole <= polls + 1:  # noqa: ASYNC110 - the last poll may have begun before the last row
                await asyncio.sleep(0.1)
    total = time.monotonic() - begun
    print(f"\n{count} events published in {published:.1f} s, all in the table after {total:.1f} s; {seen.summary()}")
    print(*made.faults, sep="\n")
    return seen


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("count", "rate", "pace"),
    [
        pytest.param(30_000, 2_000.0, 0.6, id="short"),
        pytest.param(1_000_000, 0.0, 1.0, id="a million", marks=pytest.mark.slow),
    ],
)
async def test_events_are_visible_once_and_whole_whatever_worker_and_store_are_killed(
    tmp_path: Path, count: int, rate: float, pace: float
) -> None:
    ledger = Ledger()
    async with pipeline(tmp_path) as made:
        seen = await struck(made, ledger, count, rate=rate, pace=pace)
        rows = await visible(made)
        total, copies = await stored(made)
        kills = {victim: [one for one in made.faults if one.victim == victim] for victim in ("worker", "store")}
    assert ledger.compare(rows) == NONE
    assert len(ledger.ok) == count
    assert (total, copies) == (count + ledger.copies, ledger.copies)
    assert seen.twice == []
    assert len(kills["worker"]) >= 2
    assert kills["store"]
    assert all(one.back not in (0, one.killed) for one in made.faults)
