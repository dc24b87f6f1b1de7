"""The comparison of stream and table: exact ranges from counts of blocks, with as few questions as it takes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from enchanted.ingest.ranges import LISTED, Ranges, contains, joined, pieces, spans_of, without
from enchanted.ingest.reconcile_compare import BLOCK, compare
from enchanted.ingest.reconcile_report import AgentGap, Agents, FormerStream, Report
from enchanted.ingest.reconcile_table import Block

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
SEQS = st.frozensets(st.integers(1, 60))


class FakeTable:
    """Sequences in memory; remembers how many were asked for one by one."""

    def __init__(self, seqs: Iterable[int]) -> None:
        self.seqs = set(seqs)
        self.listed = 0

    async def blocks(self, created: datetime, first: int, last: int, size: int) -> dict[int, Block]:
        counts: dict[int, int] = {}
        for seq in self.seqs:
            if first <= seq <= last:
                counts[seq // size] = counts.get(seq // size, 0) + 1
        return {block: Block(rows) for block, rows in counts.items()}

    async def sequences(self, created: datetime, first: int, last: int) -> list[int]:
        self.listed += last - first + 1
        return sorted(seq for seq in self.seqs if first <= seq <= last)

    async def among(self, created: datetime, seqs: Sequence[int]) -> list[int]:
        return [seq for seq in seqs if seq in self.seqs]

    async def above(self, created: datetime, last: int) -> list[int]:
        return sorted(seq for seq in self.seqs if seq > last)

    async def former_streams(self, created: datetime) -> tuple[FormerStream, ...]:
        return ()

    async def agents(self, created: datetime, last: int) -> Agents:
        return Agents()


async def test_only_blocks_whose_count_is_off_are_looked_into() -> None:
    whole = set(range(1, 100 * BLOCK))
    table = FakeTable(whole - {5, 50 * BLOCK, 50 * BLOCK + 1})
    found = await compare(table, CREATED, (1, 100 * BLOCK - 1), [], [])
    assert found.missing == [(5, 5), (50 * BLOCK, 50 * BLOCK + 1)]
    assert table.listed <= 2 * BLOCK


async def test_nothing_is_asked_about_blocks_that_are_empty() -> None:
    table = FakeTable(range(1, BLOCK))
    found = await compare(table, CREATED, (1, 200 * BLOCK), [], [])
    assert found.missing == [(BLOCK, 200 * BLOCK)]
    assert table.listed == 0


async def test_a_row_that_is_a_dead_letter_too_does_not_hide_a_missing_one() -> None:
    # The counts alone are right: one is missing, and one is there twice.
    table = FakeTable(set(range(1, BLOCK)) - {7})
    found = await compare(table, CREATED, (1, BLOCK - 1), [9], [])
    assert (found.missing, found.twofold, found.dead) == ([(7, 7)], [(9, 9)], 0)


async def test_any_mixture_of_rows_dead_letters_and_gaps_is_told_apart() -> None:
    chance = random.Random(11)
    for _ in range(300):
        first = chance.randint(1, 3 * BLOCK)
        last = first + chance.randint(0, 4 * BLOCK)
        every = set(range(first, last + 1))
        gaps, dead = _some(chance, every, 5), _some(chance, every, 20)
        lost = _some(chance, every, chance.choice([0, 3, len(every)]))
        rows = (every - lost - gaps - dead) | _some(chance, dead, 2) | _some(chance, gaps, 2)
        found = await compare(FakeTable(rows), CREATED, (first, last), sorted(dead), spans_of(sorted(gaps)))
        assert found.missing == spans_of(sorted(every - rows - dead - gaps))
        assert found.twofold == spans_of(sorted(rows & dead))
        assert (found.rows, found.dead) == (len(rows), len(dead - rows))


def _some(chance: random.Random, seqs: set[int], most: int) -> set[int]:
    return set(chance.sample(sorted(seqs), min(len(seqs), chance.randint(0, most))))


@given(SEQS, SEQS)
@settings(max_examples=200)
def test_ranges_are_subtracted_and_joined_exactly(whole: frozenset[int], taken: frozenset[int]) -> None:
    spans = spans_of(sorted(whole))
    left = without(spans, spans_of(sorted(taken)))
    assert left == spans_of(sorted(whole - taken))
    assert {seq for seq in range(62) if contains(left, seq)} == whole - taken
    assert all(late[0] - early[1] - 1 > 4 for early, late in zip(joined(left, 4), joined(left, 4)[1:], strict=False))


def test_pieces_cover_a_range_and_end_at_multiples() -> None:
    assert list(pieces(1, 10, 4)) == [(1, 3), (4, 7), (8, 10)]
    assert list(pieces(5, 4, 4)) == []


def test_a_report_names_so_many_ranges_and_counts_the_rest() -> None:
    many = [(2 * n, 2 * n) for n in range(LISTED + 5)]
    ranges = Ranges().plus(many[:600]).plus(many[600:])
    assert (ranges.count, len(ranges.spans), str(ranges)[-3:]) == (LISTED + 5, LISTED, ", …")
    assert Ranges().plus([(1, 3)]).plus([(4, 6)]) == Ranges(6, ((1, 6),))


def test_a_report_with_any_fault_is_not_sound() -> None:
    report = Report(at=CREATED, seconds=0, stream_created=CREATED, first_seq=1, last_seq=9, acknowledged=9)
    assert report.sound
    assert report.as_dict()["at"] == "2026-01-01T00:00:00+00:00"
    one = Ranges(1, ((3, 3),))
    assert not replace(report, unhealed=one).sound
    assert not replace(report, stream_gaps=one).sound
    assert not replace(report, twofold=one).sound
    assert not replace(report, beyond=one).sound
    assert not replace(report, agents=Agents(1, 3, 2, (AgentGap("a", 2, 2),))).sound
    assert replace(report, missing=one, healed=1, former_streams=(FormerStream(CREATED, 1, 1, 1),)).sound


def test_ranges_that_are_only_counted_stay_counted_when_others_follow() -> None:
    many = Ranges().plus([(seq, seq) for seq in range(1, 4 * LISTED, 2)])
    both = many.then(Ranges(5, ((9_000, 9_001),)))
    assert (both.count, both.spans) == (2 * LISTED + 5, many.spans)
    assert Ranges(2, ((3, 4),)).then(Ranges(3, ((5, 5), (9, 10)))) == Ranges(5, ((3, 5), (9, 10)))
