"""Bits flip and files end early, in the stream's blocks and in the table's parts: found, named by range, and healed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from enchanted.bus.connection import Bus
from enchanted.bus.ordered import read_all
from enchanted.bus.reader import holes, read_range
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.cluster.chaos.rot import EVENTS, World, cut_short, flip, flip_somewhere, world_of
from enchanted.cluster.commands.data_damage import scrub_rows
from enchanted.cluster.ingest_actor import MEASURED_EVERY, SCRUB_SECONDS
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest.ranges import Ranges, Span, pieces, spans_of, without
from enchanted.ingest.reconcile_report import Report
from enchanted.ingest.reconciler import Reconciler
from enchanted.schemas.canonical import sha256_hex
from enchanted.serve.errors import StoreUnavailable
from enchanted.serve.queries.events import row_document
from enchanted.serve.sources.store import Store

pytestmark = pytest.mark.timeout(300)

DETECTED_WITHIN = 60.0


@pytest.fixture(scope="module")
async def store(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreProcess]:
    async with store_process(tmp_path_factory.mktemp("store")) as running:
        yield running


Damage = Callable[[Path, random.Random], None]
DAMAGES: dict[str, Damage] = {"flipped": flip_somewhere, "cut short": cut_short}


@dataclass(frozen=True)
class Found:
    """What the reconciler of ingest said first, and how long it took."""

    report: Report
    seconds: float


async def as_ingest_does(reconciler: Reconciler, faulty: Callable[[Report], bool]) -> Found:
    """Scrub and check in the rhythm of the ingest actor, until a report says that something is wrong."""
    begun = time.monotonic()
    async with asyncio.timeout(2 * DETECTED_WITHIN):
        while True:
            if await reconciler.scrub(SCRUB_SECONDS):
                report = await reconciler.check()
                if faulty(report):
                    return Found(report, time.monotonic() - begun)
            await asyncio.sleep(MEASURED_EVERY)


async def readable(world: World, last: int) -> list[int]:
    """Which messages the stream gives back, asked for one range at a time."""
    async with Bus.connect(world.server.url, name="reading") as bus:
        seqs: list[int] = []
        for first, end in pieces(1, last, 500):
            seqs += [raw.seq async for raw in read_range(bus.link, EVENTS_STREAM, first, end)]
        return seqs


def named(report: Report) -> list[Span]:
    """All sequences the report says are lost to the stream."""
    scrub = report.scrub
    spans = [*report.stream_gaps.spans, *report.beyond.spans, *scrub.unreadable.spans]
    return spans_of(sorted({seq for first, last in spans for seq in range(first, last + 1)}))


STREAM_CASES = [("flipped", True, 1), ("flipped", False, 2), ("cut short", False, 4)]
MORE_STREAM_CASES = [*STREAM_CASES, ("cut short", True, 3)]


def more(cases: Sequence[tuple[Any, ...]], slow: Sequence[tuple[Any, ...]], seeds: range) -> list[Any]:
    """The cases, and as slow ones others with other seeds."""
    others = [(*case[:-1], seed * 100 + case[-1]) for seed in seeds for case in slow]
    return [*(pytest.param(*case) for case in cases), *(pytest.param(*case, marks=pytest.mark.slow) for case in others)]


@pytest.mark.parametrize(("damage", "index", "seed"), more(STREAM_CASES, MORE_STREAM_CASES, range(1, 11)))
async def test_messages_that_a_damaged_block_lost_are_named_by_exact_range_and_the_table_keeps_them(
    tmp_path: Path, store: StoreProcess, damage: str, index: bool, seed: int
) -> None:
    async with world_of(tmp_path, store, seed, size=4_000) as world:
        await world.server.stop()
        DAMAGES[damage](world.chance.choice(world.blocks()), world.chance)
        if not index:
            (world.blocks()[0].parent / "index.db").unlink()
        await world.server.start()
        begun = time.monotonic()
        async with world.reconciler() as reconciler:
            report = await reconciler.check()
            seconds = time.monotonic() - begun
            lost = without([(1, EVENTS)], spans_of(await readable(world, EVENTS)))
            print(f"{damage}, index {'kept' if index else 'gone'}: {Ranges().plus(lost)} named after {seconds:.2f} s")
            assert lost, "the damage did no harm; choose another seed"
            assert named(report) == lost
            assert not report.sound
            assert seconds < DETECTED_WITHIN
            kept = report.scrub.kept.spans
            assert list(kept) == list(report.scrub.unreadable.spans), "the table has the bytes"
        assert dict(await world.rows()) == world.acknowledged


async def test_without_the_scrub_a_flipped_bit_in_a_block_goes_unnoticed(tmp_path: Path, store: StoreProcess) -> None:
    async with world_of(tmp_path, store, 5) as world:
        await world.server.stop()
        block = world.blocks()[0]
        flip(block, block.stat().st_size // 2, 3)
        await world.server.start()
        async with Bus.connect(world.server.url, name="looking") as bus:
            info = await bus.stream_info()
            assert (info.messages, info.first_seq, info.last_seq) == (EVENTS, 1, EVENTS), "it claims to have them all"
            assert await holes(bus.link, EVENTS_STREAM) == []
            whole = await read_all(bus.link, EVENTS_STREAM, ["swarm.events.>"])
        assert len(await readable(world, EVENTS)) == len(whole) == EVENTS - 1
        log = (world.server.folder / "nats.log").read_text()
        assert "corrupt" not in log.lower()


async def test_reading_ends_where_the_last_message_is_damaged(tmp_path: Path, store: StoreProcess) -> None:
    async with world_of(tmp_path, store, 7) as world:
        await world.server.stop()
        block = world.blocks()[-1]
        flip(block, block.stat().st_size - 20, 3)
        await world.server.start()
        async with Bus.connect(world.server.url, name="reading") as bus, asyncio.timeout(15):
            assert (await bus.stream_info()).messages == EVENTS
            assert len(await read_all(bus.link, EVENTS_STREAM, ["swarm.events.>"])) == EVENTS - 1


async def test_a_stream_that_lost_its_end_and_went_on_is_told_from_one_that_is_whole(
    tmp_path: Path, store: StoreProcess
) -> None:
    async with world_of(tmp_path, store, 6) as world:
        await world.server.stop()
        last = world.blocks()[-1]
        os.truncate(last, last.stat().st_size // 2)
        (last.parent / "index.db").unlink()
        await world.server.start()
        async with Bus.connect(world.server.url, name="looking") as bus:
            end = (await bus.stream_info()).last_seq
        assert 0 < end < EVENTS
        async with world.reconciler() as reconciler:
            assert (await reconciler.check()).beyond == Ranges(EVENTS - end, ((end + 1, EVENTS),))
        await world.publish(EVENTS)
        await world.ingest()
        async with world.reconciler() as reconciler:
            report = await reconciler.check()
        assert not report.beyond
        assert report.scrub.replaced == Ranges(EVENTS - end, ((end + 1, EVENTS),))
        assert not report.sound


TABLE_CASES: list[tuple[str, bool, int]] = [("flipped", False, 11), ("cut short", True, 14)]
MORE_TABLE_CASES = [*TABLE_CASES, ("flipped", True, 12), ("cut short", False, 13)]


@pytest.mark.parametrize(("damage", "restarted", "seed"), more(TABLE_CASES, MORE_TABLE_CASES, range(1, 11)))
async def test_a_damaged_part_of_the_table_is_found_and_written_again_from_the_stream(
    tmp_path: Path, store: StoreProcess, damage: str, restarted: bool, seed: int
) -> None:
    async with world_of(tmp_path, store, seed, wide=seed % 2 == 0) as world:
        part = (await world.parts())[0]
        file = world.chance.choice(weighty(part))
        await hurt(world, file, damage, restarted)
        begun = time.monotonic()
        async with world.reconciler() as reconciler:
            report = await reconciler.check()
            while not names(report, part) and time.monotonic() - begun < DETECTED_WITHIN:
                report = await reconciler.check()
            seconds = time.monotonic() - begun
            print(f"{file.name} {damage}, restarted {restarted}: healed after {seconds:.2f} s")
            assert seconds < DETECTED_WITHIN
            assert names(report, part), report.scrub
            assert all(one.healed for one in report.scrub.damaged_parts)
            assert report.healed == report.missing.count > 0
            told = [name for name, _ in scrub_rows(report)]
            assert "part healed" in told or "beside the table" in told
            assert (await reconciler.check()).sound
        assert sorted(await world.rows()) == sorted(world.acknowledged.items())


async def test_without_the_reconciler_a_part_that_was_cut_short_stays_lost(tmp_path: Path, store: StoreProcess) -> None:
    async with world_of(tmp_path, store, 16) as world:
        part, held = await world.part_of(1)
        gone = set(await world.ids(held))
        await hurt(world, part / "data.bin", "cut short", restarted=True)
        await world.publish(10)
        await world.ingest()
        assert gone
        assert dict(await world.rows()).keys() == world.acknowledged.keys() - gone


def names(report: Report, part: Path) -> bool:
    """Whether it says that the part is damaged, or was set aside."""
    found = [one.name for one in report.scrub.damaged_parts] + [one.name for one in report.scrub.detached]
    return any(part.name in name for name in found)


async def test_damage_whose_reason_is_no_text_is_healed_like_any_other(tmp_path: Path, store: StoreProcess) -> None:
    async with world_of(tmp_path, store, 15) as world:
        part = (await world.parts())[0]
        (part / "checksums.txt").write_bytes(b"\xc1\xfe\x00\n" * 40)
        async with world.reconciler() as reconciler:
            report = await reconciler.check(deep=True)
            assert names(report, part), report.scrub
            assert report.healed == report.missing.count > 0
            assert (await reconciler.check()).sound
        assert sorted(await world.rows()) == sorted(world.acknowledged.items())


async def test_a_row_that_somebody_deleted_is_no_damage_of_its_part_and_comes_again(
    tmp_path: Path, store: StoreProcess
) -> None:
    async with world_of(tmp_path, store, 17) as world:
        async with world.table() as table:
            # What marks a row as deleted is done as merges are.
            await table.command("SYSTEM START MERGES events")
            await table.command("DELETE FROM events WHERE stream_seq = 7")
        async with world.reconciler() as reconciler:
            report = await reconciler.check(deep=True)
            assert list(report.scrub.damaged_parts) == []
            assert (report.missing.spans, report.healed) == (((7, 7),), 1)
            assert (await reconciler.check(deep=True)).sound
        assert sorted(await world.rows()) == sorted(world.acknowledged.items())


def weighty(part: Path) -> list[Path]:
    """Files of a part in which damage does harm, the larger ones more often."""
    files = [file for file in sorted(part.iterdir()) if file.suffix == ".bin" and file.stat().st_size > 100]
    return [*files, *[max(files, key=lambda file: file.stat().st_size)] * len(files), part / "checksums.txt"]


async def hurt(world: World, file: Path, damage: str, restarted: bool) -> None:
    if restarted:
        await world.store.stop()
    DAMAGES[damage](file, world.chance)
    if restarted:
        await world.store.start()


@pytest.mark.parametrize(("damage", "seed"), more([("flipped", 21)], [("flipped", 21), ("cut short", 22)], range(1, 6)))
async def test_what_neither_stream_nor_table_has_is_named_and_its_part_is_left_alone(
    tmp_path: Path, store: StoreProcess, damage: str, seed: int
) -> None:
    async with world_of(tmp_path, store, seed, wide=True) as world:
        await world.server.stop()
        block = world.blocks()[0]
        flip(block, block.stat().st_size // 2, 1)
        await world.server.start()
        (lost,) = without([(1, EVENTS)], spans_of(await readable(world, EVENTS)))
        part, held = await world.part_of(lost[0])
        DAMAGES[damage](max(part.iterdir(), key=lambda file: file.stat().st_size), world.chance)
        async with world.reconciler() as reconciler:
            report = await reconciler.check()
            assert not report.sound
            assert report.scrub.unreadable == Ranges(1, (lost,))
            (kept,) = report.scrub.left
            assert (kept.name, kept.rows, kept.holds) == (part.name, len(held), Ranges().plus(spans_of(held)))
            assert kept.kept_because == f"the stream cannot give back {lost[0]}"
            assert not without(kept.damaged.spans, kept.holds.spans)
            assert (report.missing, report.unhealed) == (Ranges(), Ranges()), "what cannot be said is not guessed"
            print(f"{damage}: {kept.why}; damaged {kept.damaged} of {kept.holds}")
            assert (await reconciler.check()).scrub.left == (kept,)
        assert {"PART DAMAGED", "stream cannot give"} <= {name for name, _ in scrub_rows(report)}
        assert json.loads(json.dumps(report.as_dict()))["scrub"]["damaged_parts"][0]["name"] == part.name


@pytest.mark.parametrize("seed", more([(31,)], [(31,)], range(1, 6)))
async def test_while_a_part_is_damaged_readers_get_right_bytes_a_mark_or_an_error(
    tmp_path: Path, store: StoreProcess, seed: int
) -> None:
    async with world_of(tmp_path, store, seed, wide=True, block=32 * 1024) as world:
        part = (await world.parts())[0]
        flip_somewhere(max(part.iterdir(), key=lambda file: file.stat().st_size), world.chance)
        async with world.reconciler() as reconciler:
            (seen,) = (await reconciler.check(repair=False)).scrub.left
        hurt = {seq for first, last in seen.damaged.spans for seq in range(first, last + 1)}
        # Many: of the same thousand rows, those behind the damage cannot be read either.
        others = world.chance.sample(sorted(set(range(1, EVENTS + 1)) - hurt), 40)
        async with Store(world.store.reader_url) as reads:
            damaged = {await outcome(reads, world, event_id) for event_id in await world.ids(hurt)}
            neighbours = {await outcome(reads, world, event_id) for event_id in await world.ids(others)}
        print(f"damaged {len(hurt)}: {damaged}; others: {neighbours}")
        assert hurt
        assert damaged <= {"marked", "error"}
        assert "right" in neighbours
        assert neighbours <= {"right", "error"}


async def outcome(reads: Store, world: World, event_id: str) -> Literal["right", "marked", "error", "WRONG"]:
    try:
        (row,) = await reads.events("event_by_id", event_id=event_id)
    except StoreUnavailable:
        return "error"
    if row_document(row).get("corrupted"):
        return "marked"
    return "right" if sha256_hex(row.raw) == world.acknowledged[event_id] else "WRONG"


async def test_rows_older_than_the_stream_are_named_when_their_part_is_lost(
    tmp_path: Path, store: StoreProcess
) -> None:
    async with world_of(tmp_path, store, 51) as world:
        part, held = await world.part_of(1)
        middle = held[len(held) // 2]
        await age(world, middle)
        await hurt(world, part / "data.bin", "cut short", restarted=True)
        async with world.reconciler() as reconciler:
            report = await reconciler.check()
        assert report.scrub.lost == Ranges().plus(spans_of(seq for seq in held if seq < middle))
        assert report.missing == Ranges().plus(spans_of(seq for seq in held if seq >= middle))
        assert report.healed == report.missing.count
        assert not report.sound


async def age(world: World, first: int) -> None:
    """The stream has what comes before gone for its age."""
    async with Bus.connect(world.server.url, name="ageing") as bus:
        await bus.link.api(f"STREAM.PURGE.{EVENTS_STREAM}", {"seq": first})


async def set_aside(world: World, part: Path) -> None:
    """As the scrub does, so ClickHouse gives no reason."""
    async with world.table() as table:
        await table.command(f"ALTER TABLE events DETACH PART '{part.name}'")


@pytest.mark.parametrize("other", ["damaged too", "set aside before"])
async def test_a_part_with_the_only_copy_of_old_rows_is_kept_although_its_sequences_cannot_be_read(
    tmp_path: Path, store: StoreProcess, other: str
) -> None:
    async with world_of(tmp_path, store, 52, wide=True) as world:
        part, held = await world.part_of(1)
        # Their times are told apart by the second.
        await asyncio.sleep(1.1)
        await world.publish(EVENTS)
        await world.ingest()
        old = held[len(held) // 3] if other == "damaged too" else EVENTS + 1
        await age(world, old)
        beside = [await world.part_of(seq) for seq in (EVENTS + 1, 2 * EVENTS)]
        assert sum(len(rows) for _, rows in beside) > len(held) / 3, "enough to be taken for the old ones"
        cut_in_half(part / "stream_seq.bin")
        for one in {path for path, _ in beside}:
            if other == "damaged too":
                cut_in_half(one / "stream_seq.bin")
            else:
                await set_aside(world, one)
        async with world.reconciler() as reconciler:
            report = await reconciler.check(deep=True)
        kept = {one.name: one.kept_because for one in report.scrub.left}
        assert kept[part.name] == "some of its rows are older than the stream, and which they are cannot be read"
        assert part in await world.parts()
        assert not report.sound


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["stream", "table"])
async def test_what_breaks_right_after_it_was_read_is_found_within_a_minute(
    tmp_path: Path, store: StoreProcess, where: str
) -> None:
    async with world_of(tmp_path, store, 41) as world, world.reconciler() as reconciler:
        assert (await reconciler.check(deep=True)).sound
        if where == "stream":
            await world.server.stop()
            block = world.blocks()[0]
            flip(block, block.stat().st_size // 2, 1)
            await world.server.start()
            found = await as_ingest_does(reconciler, lambda report: bool(report.scrub.unreadable))
        else:
            part = (await world.parts())[0]
            flip_somewhere(max(part.iterdir(), key=lambda file: file.stat().st_size), world.chance)
            found = await as_ingest_does(reconciler, lambda report: bool(report.scrub.damaged_parts))
        print(f"{where}: found after {found.seconds:.1f} s")
        assert found.seconds < DETECTED_WITHIN
