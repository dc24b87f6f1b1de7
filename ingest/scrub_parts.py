"""Parts of the table, read again in turn; a damaged one is set aside where the stream has all of its rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from enchanted.bus.connection import Bus
from enchanted.bus.reader import message_at, read_range
from enchanted.bus.sweep import sweep
from enchanted.ingest.ranges import Ranges, Span, contains, joined, size_of, spans_of, without
from enchanted.ingest.scrub_report import DamagedPart
from enchanted.ingest.scrub_table import CHUNK, DamagedRow, Part, PartBroken, PartGone, ScrubTable
from enchanted.schemas.canonical import sha256_hex

AGAIN_AFTER = 30.0
"""Seconds after which a part is read again, if there is time."""
_CHECKED_UP_TO = 4 * 1024**3
"""Bytes of a part whose files are compared with their checksums; a larger one's rows are read all the same."""
_CHECK_SECONDS = 10.0
_CHECK_RATE = 200 * 1024**2
_SLACK = 64
_COMPARED = 1_000
_EXAMINED_EVERY = 600.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """What is known of a part."""

    part: Part
    digest: int | None = None
    """Of its columns when it was read whole and found good."""
    read_at: float = 0.0
    chunk: int = 0
    """The next one to read."""
    damaged: int = 0
    summed: int = 0


@dataclass(slots=True)
class _Broken:
    part: Part
    why: str
    finding: DamagedPart | None = None
    examined_at: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """What is compared now: the stream of this time, and its sequences that are dealt with."""

    created: datetime
    first: int
    last: int
    dead: Sequence[Span] = field(default=())
    """Of them, those that are dead letters."""


class PartScrub:
    """Reads the parts of one table, the longest unread first, as far as the time reaches."""

    def __init__(self, table: ScrubTable, bus: Bus, stream: str) -> None:
        self._table = table
        self._bus = bus
        self._stream = stream
        self._known: dict[str, _Progress] = {}
        self._broken: dict[str, _Broken] = {}

    @property
    def parts(self) -> int:
        """How many there are, as of the last look."""
        return len(self._known) + len(self._broken)

    @property
    def parts_read(self) -> int:
        """Of them, read whole and good."""
        return sum(one.digest is not None for one in self._known.values())

    @property
    def broken(self) -> list[str]:
        """Names of those found damaged and still there."""
        return sorted(self._broken)

    async def step(self, until: float, *, all_now: bool = False) -> None:
        """Read what is due until then (`time.monotonic`), a piece at least, or a busy machine would never come to it.

        ``all_now``: everything, whenever it was read last.

        Raises:
            TableUnavailable: ClickHouse cannot be used now; what was read stays known.
        """
        await self._look()
        begun, pieces = time.monotonic(), 0
        before = begun if all_now else begun - AGAIN_AFTER
        for progress in sorted(self._known.values(), key=lambda one: one.read_at):
            while progress.read_at <= before or progress.digest is None:
                if pieces and time.monotonic() >= until:
                    return
                pieces += 1
                if not await self._advance(progress):
                    break

    async def _look(self) -> None:
        there = {part.name: part for part in await self._table.parts()}
        self._broken = {name: one for name, one in self._broken.items() if there.get(name) == one.part}
        known: dict[str, _Progress] = {}
        for name, part in there.items():
            if name not in self._broken:
                before = self._known.get(name)
                known[name] = before if before is not None and before.part == part else _Progress(part)
        self._known = known

    async def _advance(self, progress: _Progress) -> bool:
        """Read one piece more; False when there is no more to read of it."""
        part = progress.part
        try:
            if progress.chunk * CHUNK < part.rows:
                reading = await self._table.read(part, progress.chunk)
                expected = min(CHUNK, part.rows - progress.chunk * CHUNK)
                if reading.rows != expected:
                    await self._gone_or_broken(part, f"{reading.rows} rows where {expected} should be")
                progress.damaged += reading.damaged
                progress.summed = (progress.summed + reading.digest) % 2**64
                progress.chunk += 1
                return True
            await self._judge(progress)
        except PartGone:
            self._known.pop(part.name, None)
        except PartBroken as broken:
            log.warning("part %s of the table is damaged: %s", part.name, broken)
            self._known.pop(part.name, None)
            self._broken[part.name] = _Broken(part, str(broken))
        return False

    async def _judge(self, progress: _Progress) -> None:
        """What the whole part amounts to, when all of it has been read."""
        part = progress.part
        if progress.damaged:
            raise PartBroken(f"the bytes of {progress.damaged} rows do not have the SHA-256 recorded with them")
        if progress.digest not in (None, progress.summed):
            raise PartBroken("its columns are not what they were when it was read before")
        if part.bytes <= _CHECKED_UP_TO:
            await self._table.check(part, _CHECK_SECONDS + part.bytes / _CHECK_RATE)
        progress.digest, progress.read_at = progress.summed, time.monotonic()
        progress.chunk = progress.damaged = progress.summed = 0

    async def _gone_or_broken(self, part: Part, why: str) -> None:
        if all(one != part for one in await self._table.parts()):
            raise PartGone(part.name)
        raise PartBroken(why)

    async def deal(self, extent: Extent, *, repair: bool) -> list[DamagedPart]:
        """Say what each damaged part holds; with ``repair`` set aside those the stream has all rows of.

        What was set aside is missing in the table then, for the reconciler to write again.
        """
        # All before the first is set aside: its rows would count as another's, whose own cannot be read.
        for broken in self._broken.values():
            if broken.finding is None or time.monotonic() >= broken.examined_at + _EXAMINED_EVERY:
                broken.finding, broken.examined_at = await self._examine(broken, extent), time.monotonic()
        found: list[DamagedPart] = []
        for broken in list(self._broken.values()):
            if broken.finding is None:
                continue
            if repair and not broken.finding.kept_because:
                broken.finding = await self._set_aside(broken, broken.finding)
            found.append(broken.finding)
        return found

    async def _examine(self, broken: _Broken, extent: Extent) -> DamagedPart:
        part = broken.part
        rows = await self._damaged_rows(part)
        holds, whose = await self._holds(part, extent)
        finding = DamagedPart(
            name=part.name,
            why=broken.why,
            rows=part.rows,
            holds=Ranges().plus(holds),
            damaged=Ranges().plus(spans_of(row.seq for row in rows)),
        )
        return _but(finding, whose or await self._elsewhere(holds, rows))

    async def _damaged_rows(self, part: Part) -> list[DamagedRow]:
        try:
            return await self._table.damaged(part)
        except PartBroken:
            return []

    async def _holds(self, part: Part, extent: Extent) -> tuple[list[Span], str]:
        """A damaged part's sequences, and why the stream cannot have all of its rows."""
        try:
            former = await self._table.former(part, extent.created)
            holds = await self._table.held(part, extent.created)
            return holds, f"{former} of its rows are of a former stream" if former else ""
        except PartBroken:
            # Its own sequences cannot be read: what no other part and no dead letter has.
            others = await self._table.held_without(self.broken, extent.created, extent.first, extent.last)
            holds = without(without([(extent.first, extent.last)], others), extent.dead)
            old = await self._may_be_older(part, holds, extent)
            return holds, "some of its rows are older than the stream, and which they are cannot be read" if old else ""

    async def _may_be_older(self, part: Part, holds: Sequence[Span], extent: Extent) -> bool:
        """Whether rows may be older than the stream, of a part whose sequences cannot be read.

        ``holds``: what no sound part has. Those are the rows of all broken parts, and those that are in no part now.
        """
        if size_of(holds) < sum(one.part.rows for one in self._broken.values()):
            return True
        # Rows that are in no part hide as many old ones from the count, but not from the part's own times.
        oldest = await message_at(self._bus.link, self._stream, {"seq": extent.first, "next_by_subj": ">"})
        return oldest is None or await self._table.begins(part) < int(oldest.time.timestamp())

    async def _elsewhere(self, holds: Sequence[Span], rows: Sequence[DamagedRow]) -> str:
        """Why the stream cannot replace these rows; empty when it can."""
        there: list[int] = []
        for first, last in joined(holds, _SLACK):
            async with aclosing(sweep(self._bus.link, self._stream, first, last)) as pages:
                async for page in pages:
                    there += [seq for seq, _ in page if contains(holds, seq)]
        absent = without(holds, spans_of(there))
        if absent:
            return f"the stream cannot give back {Ranges().plus(absent)}"
        for row in [row for row in rows if row.recorded][:_COMPARED]:
            async with aclosing(read_range(self._bus.link, self._stream, row.seq, row.seq)) as messages:
                async for raw in messages:
                    if sha256_hex(raw.payload) not in (row.recorded, row.actual):
                        return f"the stream's bytes of {row.seq} do not have the recorded SHA-256 either"
        return ""

    async def _set_aside(self, broken: _Broken, finding: DamagedPart) -> DamagedPart:
        try:
            await self._table.detach(broken.part)
        except PartGone:
            self._broken.pop(finding.name, None)
            return _but(finding, "it was merged meanwhile")
        self._broken.pop(finding.name, None)
        log.warning("damaged part %s is set aside; its rows %s come again from the stream", finding.name, finding.holds)
        return DamagedPart(
            name=finding.name, why=finding.why, rows=finding.rows, holds=finding.holds, damaged=finding.damaged,
            healed=True,
        )  # fmt: skip


def _but(finding: DamagedPart, why_kept: str) -> DamagedPart:
    if not why_kept:
        return finding
    return DamagedPart(
        name=finding.name, why=finding.why, rows=finding.rows, holds=finding.holds, damaged=finding.damaged,
        kept_because=why_kept,
    )  # fmt: skip
