"""Messages that are no events, few and all: each is a dead letter with its bytes, the others are rows, nobody waits."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.streams import DEAD_LETTERS_STREAM
from enchanted.cluster.chaos.load import NONE, Ledger, Mix, publish
from enchanted.cluster.chaos.pipeline import LIMITS, Pipeline, pipeline
from enchanted.cluster.chaos.watch import stored, visible, watching

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


FLOOD, GOOD = 5_000, 500
SMALL, ROOM = 1024**2, 64 * 1024**2
"""Bytes of dead letters: fewer than the flood has, and more."""
GROWTH = 96 * 2**20
"""Bytes the worker may grow by; as in test_pipeline_outage."""


async def flood(bus: Bus, count: int) -> list[bytes]:
    """Publish messages none of which is an event; returns them."""
    dice = random.Random(SEED)
    poison = [b"\xff\xff\xff\xff" + dice.randbytes(500) for _ in range(count)]
    messages = [
        Outgoing(subject="swarm.events.coder.decision.flood", payload=one, event_id=f"flood-{number}")
        for number, one in enumerate(poison)
    ]
    await bus.publisher.publish_many(messages)
    return poison


async def until_visible(made: Pipeline, count: int) -> None:
    async with asyncio.timeout(120):
        while (await stored(made))[0] < count:  # noqa: ASYNC110 - a table has no event
            await asyncio.sleep(0.2)


async def until_told(log: Callable[[], str], words: str) -> str:
    """A log with ``words`` in it: a batch's letters are put after its rows, which are visible before."""
    async with asyncio.timeout(120):
        while words not in log():  # noqa: ASYNC110 - nor has a file of another process
            await asyncio.sleep(0.2)
    return log()


async def letters_of(bus: Bus) -> Counter[bytes]:
    return Counter(letter.payload for letter in await DeadLetters(bus).list(limit=10 * FLOOD))


@pytest.mark.timeout(400)
async def test_while_nothing_but_poison_comes_every_one_is_a_dead_letter_and_what_is_behind_it_gets_through(
    tmp_path: Path,
) -> None:
    ledger = Ledger()
    async with pipeline(tmp_path) as made, watching(made) as seen, Bus.connect(made.nats.url) as bus:
        await publish([made.nats.url], ledger, GOOD, seed=SEED)
        await made.until_acknowledged()
        before = seen.peak("worker")
        poison = await flood(bus, FLOOD)
        await publish([made.nats.url], ledger, GOOD, seed=SEED + 1)
        await made.until_acknowledged()
        assert made.worker.starts == 1, "poison ended the worker"
        assert await letters_of(bus) == Counter(poison)
        assert ledger.compare(await visible(made)) == NONE
        assert seen.peak("worker") - before < GROWTH


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_poison_that_finds_no_room_among_the_dead_letters_waits_for_it_and_holds_up_nobody(
    tmp_path: Path,
) -> None:
    ledger = Ledger()
    limits = replace(LIMITS, dead_letters_max_bytes=SMALL)
    async with pipeline(tmp_path, limits=limits) as made, watching(made) as seen, Bus.connect(made.nats.url) as bus:
        await publish([made.nats.url], ledger, GOOD, seed=SEED)
        await made.until_acknowledged()
        before = seen.peak("worker")
        poison = await flood(bus, FLOOD)
        await publish([made.nats.url], ledger, GOOD, seed=SEED + 1)
        await until_visible(made, 2 * GOOD)
        log = await until_told((tmp_path / "worker.log").read_text, "dead letters cannot be put now")
        assert 0 < log.count("raise its max_bytes") < 50, "told once for a batch"
        assert await made.acknowledged() < await made.last_seq(), "what is nowhere was acknowledged"
        put = await letters_of(bus)
        assert 0 < put.total() < FLOOD
        config = (await bus.link.api(f"STREAM.INFO.{DEAD_LETTERS_STREAM}"))["config"]
        await bus.link.api(f"STREAM.UPDATE.{DEAD_LETTERS_STREAM}", config | {"max_bytes": ROOM})
        took = await made.until_acknowledged()
        print(f"\n{put.total()} of {FLOOD} had room; {took:.0f} s after there was more all had")
        assert await letters_of(bus) == Counter(poison)
        assert ledger.compare(await visible(made)) == NONE
        assert seen.peak("worker") - before < GROWTH


async def test_poison_that_takes_its_batch_with_it_is_noticed(tmp_path: Path) -> None:
    ledger = Ledger()
    async with pipeline(tmp_path, way="rash") as made, Bus.connect(made.nats.url) as bus:
        await publish([made.nats.url], ledger, GOOD, seed=SEED)
        await made.until_acknowledged()
        assert ledger.compare(await visible(made)) == NONE
        await publish([made.nats.url], ledger, GOOD, seed=SEED + 1, mix=Mix(poison_count=GOOD // 100))
        await made.until_acknowledged()
        assert ledger.compare(await visible(made)).lost
        assert await letters_of(bus) != Counter(ledger.poison)
