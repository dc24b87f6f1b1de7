"""One message of a hundred is no event: the others are rows, it is a dead letter with its bytes, and nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.cluster.chaos.load import NONE, Ledger, Mix, publish
from enchanted.cluster.chaos.pipeline import pipeline
from enchanted.cluster.chaos.watch import visible

SEED = 23


async def ingested(folder: Path, count: int, *, poison: bool) -> float:
    """Messages a second from a stream that is full when the worker starts; checks every row and dead letter."""
    ledger = Ledger()
    bad = count // 100 if poison else 0
    async with pipeline(folder, working=False) as made:
        async with Bus.connect(made.nats.url) as bus:
            await publish([made.nats.url], ledger, count - bad, seed=SEED, mix=Mix(poison_count=bad))
            async with made.worker:
                while await made.acknowledged() < 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                begun, first = time.monotonic(), await made.acknowledged()
                await made.until_acknowledged()
                seconds = time.monotonic() - begun
            letters = await DeadLetters(bus).list(limit=2 * count)
        rows = await visible(made)
    assert ledger.compare(rows) == NONE
    assert (len(ledger.ok), len(ledger.poison)) == (count - bad, bad)
    assert Counter(letter.payload for letter in letters) == Counter(ledger.poison)
    assert {letter.reason for letter in letters} <= {"undecodable"}
    return (count - first) / seconds


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "rounds", "least"),
    [
        pytest.param(10_000, 1, 0.0, id="short"),
        pytest.param(100_000, 3, 0.8, id="a hundred thousand", marks=pytest.mark.slow),
    ],
)
async def test_poison_is_kept_apart_and_costs_its_neighbours_little(
    tmp_path: Path, count: int, rounds: int, least: float
) -> None:
    clean, poisoned = [], []
    for number in range(rounds):
        if least:
            clean.append(await ingested(tmp_path / f"clean-{number}", count, poison=False))
        poisoned.append(await ingested(tmp_path / f"poisoned-{number}", count, poison=True))
    print(f"\nmessages/s, clean {[round(one) for one in clean]}, poisoned {[round(one) for one in poisoned]}")
    assert not least or max(poisoned) >= least * max(clean)
