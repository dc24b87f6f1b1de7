"""Which sequences of a stretch have no row and no dead letter: counts first, sequences where a count is off."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from enchanted.ingest.ranges import Span, joined, pieces, size_of, spans_of, without
from enchanted.ingest.reconcile_report import Agents, FormerStream
from enchanted.ingest.reconcile_table import Block

BLOCK = 1024
"""Sequences counted together."""
_EXACT = 64 * BLOCK


class Counts(Protocol):
    """What is asked of the table: `reconcile_table.Table`, or a stand-in."""

    async def blocks(self, created: datetime, first: int, last: int, size: int) -> dict[int, Block]: ...
    async def sequences(self, created: datetime, first: int, last: int) -> list[int]: ...
    async def among(self, created: datetime, seqs: Sequence[int]) -> list[int]: ...
    async def above(self, created: datetime, last: int) -> list[int]: ...
    async def former_streams(self, created: datetime) -> tuple[FormerStream, ...]: ...
    async def agents(self, created: datetime, last: int) -> Agents: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One stretch: who is there, and who should be."""

    rows: int = 0
    duplicates: int = 0
    dead: int = 0
    missing: list[Span] = field(default_factory=list)
    twofold: list[Span] = field(default_factory=list)


async def compare(
    table: Counts, created: datetime, stretch: Span, dead: Sequence[int], gaps: Sequence[Span]
) -> Comparison:
    """Which sequences of a stretch are neither row nor dead letter.

    ``dead``: ascending sequences of the dead letters in the stretch. ``gaps``: what the stream itself does not have;
    nothing is missing there.
    """
    both = await table.among(created, dead) if dead else []
    only_dead = without(spans_of(dead), spans_of(both))
    blocks = await table.blocks(created, *stretch, BLOCK)
    doubtful = [
        part
        for part in pieces(*stretch, BLOCK)
        if blocks.get(part[0] // BLOCK, Block()).rows + within(only_dead, part) != part[1] - part[0] + 1
    ]
    missing: list[Span] = []
    for part in _exact(doubtful, blocks):
        there = await table.sequences(created, *part) if part[0] // BLOCK in blocks else []
        missing += without(without(without([part], spans_of(there)), only_dead), gaps)
    return Comparison(
        rows=sum(block.rows for block in blocks.values()),
        duplicates=sum(block.duplicates for block in blocks.values()),
        dead=size_of(only_dead),
        missing=joined(missing, 0),
        twofold=spans_of(both),
    )


def _exact(doubtful: Sequence[Span], blocks: dict[int, Block]) -> list[Span]:
    """Neighbouring blocks together, empty ones apart: about those there is nothing to ask."""
    together: list[Span] = []
    for first, last in doubtful:
        before = together[-1] if together else (0, 0)
        fits = before[1] == first - 1 and last - before[0] < _EXACT
        if together and fits and (first // BLOCK in blocks) == (before[0] // BLOCK in blocks):
            together[-1] = (before[0], last)
        else:
            together.append((first, last))
    return together


def within(spans: Sequence[Span], part: Span) -> int:
    """How many sequences of the ascending ranges are in ``part``."""
    place = max(0, bisect_right(spans, part[0], key=lambda span: span[0]) - 1)
    count = 0
    while place < len(spans) and spans[place][0] <= part[1]:
        count += max(0, min(part[1], spans[place][1]) - max(part[0], spans[place][0]) + 1)
        place += 1
    return count
