"""The table is away for minutes: the worker's memory stays bounded, nothing is lost, and it catches up."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from enchanted.cluster.chaos.killed import Victim
from enchanted.cluster.chaos.load import NONE, Ledger, publish
from enchanted.cluster.chaos.pipeline import Pipeline, pipeline
from enchanted.cluster.chaos.watch import visible, watching
from enchanted.ingest.reconciler import Reconciler
from enchanted.ingest.tables import REQUEST_DEADLINE

SEED, RATE = 31, 1_000.0
GROWTH = 96 * 2**20
"""Bytes the worker may grow by: one batch being written (8 MiB), one being collected (8 MiB) and what it has asked for
besides (16 MiB), each three times over for the objects around the bytes."""


async def lag_below(made: Pipeline, seconds: float) -> float:
    """Wait until the oldest event that is not acknowledged is younger than that; how long it took."""
    begun = time.monotonic()
    async with (
        asyncio.timeout(300),
        Reconciler(nats_url=made.nats.url, clickhouse_url=made.store.url, name="lag") as reconciler,
    ):
        while (await reconciler.lag()).seconds >= seconds:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["safe", "brief"])
async def test_a_table_that_hangs_longer_than_an_insert_may_take_costs_time_and_an_event_only_if_tried_once(
    tmp_path: Path, way: str
) -> None:
    ledger, over = Ledger(), asyncio.Event()
    async with pipeline(tmp_path, way=way) as made:
        load = asyncio.create_task(publish([made.nats.url], ledger, 10**9, seed=SEED, rate=RATE, stop=over))
        while len(ledger.ok) < 2 * RATE:  # noqa: ASYNC110 - the ledger has no event for it
            await asyncio.sleep(0.05)
        await made.stop("store", REQUEST_DEADLINE + 10)
        over.set()
        await load
        await made.until_acknowledged()
        found = ledger.compare(await visible(made))
    # The control tries once and drops; what is stopped here would otherwise pass for something that is survived.
    assert bool(found.lost) is (way == "brief"), found
    assert replace(found, lost=[]) == NONE


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("away", [15, pytest.param(300, marks=pytest.mark.slow)])
async def test_memory_is_bounded_while_the_table_is_away_and_the_lag_goes(tmp_path: Path, away: int) -> None:
    ledger, over = Ledger(), asyncio.Event()
    async with pipeline(tmp_path) as made, watching(made) as seen:
        # The last events come when the lag is gone, so that it is measured under load.
        load = asyncio.create_task(publish([made.nats.url] * 2, ledger, 10**9, seed=SEED, rate=RATE, stop=over))
        while len(ledger.ok) < 5 * RATE:  # noqa: ASYNC110 - the ledger has no event for it
            await asyncio.sleep(0.05)
        before = seen.peak("worker")
        victim = Victim(made.store.pid)
        await made.store.stop(signal.SIGKILL)
        published = len(ledger.ok)
        await asyncio.sleep(away)
        published = len(ledger.ok) - published
        during = seen.peak("worker")
        await made.store.start()
        victim.assert_replaced_by(made.store.pid)
        caught_up = await lag_below(made, 2.0)
        after = seen.peak("worker")
        over.set()
        await load
        await made.until_acknowledged()
        rows = await visible(made)
    print(
        f"\n{published} events in {away} s without a table; worker {before / 2**20:.0f} MiB before, at most "
        f"{during / 2**20:.0f} during, {after / 2**20:.0f} until caught up {caught_up:.1f} s later; {seen.summary()}"
    )
    assert ledger.compare(rows) == NONE
    assert seen.twice == []
    # A machine that stands still for some seconds has no more time than these in the short version.
    assert published > (0.7 if away > 60 else 0.3) * RATE * away
    assert after - before < GROWTH
    assert caught_up < max(60, 10 + away / 2)
