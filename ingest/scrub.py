"""Everything is read again in turn, so that damage is found before someone needs what is damaged."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from enchanted.bus.connection import Bus
from enchanted.bus.streams import StreamInfo
from enchanted.ingest.ranges import Ranges, Span, joined, without
from enchanted.ingest.scrub_parts import Extent, PartScrub
from enchanted.ingest.scrub_report import DamagedPart, DetachedPart, Scrub
from enchanted.ingest.scrub_stream import StreamScrub
from enchanted.ingest.scrub_table import PartBroken, ScrubTable

_STREAM_SHARE, _PARTS_SHARE, _BYTES_SHARE = 0.5, 0.4, 0.1
_SMALL = 200_000
"""Messages of a stream that is read whole every minute, even where that takes more than its share."""
_SMALL_STREAM_SHARE = 1.2
_KEPT_QUESTIONS = 100
_SLACK = 1_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What is scrubbed: the stream as it is, and how far its messages are dealt with."""

    info: StreamInfo
    dealt: int


class Scrubber:
    """Reads stream and table in turn, a share of the time each; remembers what it found.

    Every method raises BusError or TableUnavailable when one of them cannot be used now; what was read stays known.
    """

    def __init__(self, clickhouse_url: str, bus: Bus, stream: str) -> None:
        self._table = ScrubTable(clickhouse_url)
        self._parts = PartScrub(self._table, bus, stream)
        self._stream = StreamScrub(self._table, bus, stream)
        self._detached: tuple[DetachedPart, ...] = ()
        self._told: object = None

    async def close(self) -> None:
        """Give the connections back. Idempotent."""
        await self._table.close()

    @property
    def broken(self) -> list[str]:
        """Names of the parts that are damaged and still in the table."""
        return self._parts.broken

    async def step(self, look: Look, seconds: float) -> bool:
        """Read for so long; whether damage came to light that was not known before."""
        before = self._known()
        self._detached = await self._table.detached()
        await self._parts.step(time.monotonic() + seconds * _PARTS_SHARE)
        share = _SMALL_STREAM_SHARE if look.info.messages <= _SMALL else _STREAM_SHARE
        await self._stream.step(look.info, look.dealt, self.broken, time.monotonic() + seconds * share)
        until = time.monotonic() + seconds * _BYTES_SHARE
        await self._stream.compare_bytes(look.info, look.dealt, self.broken, until)
        return self._known() != before

    async def everything(self, look: Look) -> None:
        """Read all parts and all messages, and compare their bytes, however long it takes."""
        await self._parts.step(float("inf"), all_now=True)
        await self._stream.step(look.info, look.dealt, self.broken, 0.0, all_now=True)
        await self._stream.compare_bytes(look.info, look.dealt, self.broken, 0.0, all_now=True)

    async def all_parts(self) -> bool:
        """Read all parts; whether one is damaged that was not known to be."""
        before = self.broken
        await self._parts.step(float("inf"), all_now=True)
        return self.broken != before

    async def deal(self, extent: Extent, *, repair: bool) -> list[DamagedPart]:
        """`PartScrub.deal`."""
        return await self._parts.deal(extent, repair=repair)

    async def report(self, look: Look, parts: list[DamagedPart], dead: Sequence[Span]) -> Scrub:
        """All that is known now. ``dead``: sequences of dead letters that are older than the stream."""
        stream, first = self._stream, look.info.first_seq
        stream.begin(look.info)
        unreadable, altered = stream.unreadable.ranges(first), stream.altered.ranges(first)
        self._detached = await self._table.detached()
        scrub = Scrub(
            stream_seconds=stream.seconds,
            stream_reached=stream.reached,
            bytes_reached=stream.bytes_reached,
            parts=self._parts.parts,
            parts_read=self._parts.parts_read,
            unreadable=unreadable,
            altered=altered,
            replaced=Ranges().plus(stream.lost_ends(look.info.last_seq)),
            kept=await self._kept(look, [unreadable, altered]),
            damaged_parts=tuple(parts),
            detached=self._detached,
            lost=await self._lost(look, dead),
        )
        self._tell(scrub)
        return scrub

    def _known(self) -> object:
        stream = self._stream
        lost = stream.unreadable.spans, stream.altered.spans, stream.lost_ends(2**64 - 2)
        return self.broken, self._detached, lost

    async def _lost(self, look: Look, dead: Sequence[Span]) -> Ranges:
        """Older than the stream, and not in the table, where a part of it was found broken."""
        last = look.info.first_seq - 1
        if last < 1 or not any(one.reason for one in self._detached):
            return Ranges()
        try:
            held = await self._table.held_without(self.broken, look.info.created, 1, last)
        except PartBroken:
            return Ranges()
        # Where rows go for their age, the oldest that is left is where to begin.
        first = 1
        if await self._table.expiring():
            first = held[0][0] if held else last + 1
        return Ranges().plus(without(without([(first, last)], held), dead))

    async def _kept(self, look: Look, damaged: list[Ranges]) -> Ranges:
        """Of the sequences damaged in the stream, those whose row has its bytes."""
        lost = joined(sorted(span for ranges in damaged for span in ranges.spans), 0)
        sound: list[Span] = []
        for first, last in joined(lost, _SLACK)[:_KEPT_QUESTIONS]:
            try:
                sound += await self._table.sound(self.broken, look.info.created, first, last)
            except PartBroken:
                continue
        everything = [(0, 2**64 - 1)]
        return Ranges().plus(without(lost, without(everything, sound)))

    def _tell(self, scrub: Scrub) -> None:
        """What is damaged, loudly; not every minute again."""
        faults = (scrub.unreadable, scrub.altered, scrub.replaced, scrub.lost, scrub.damaged_parts, scrub.detached)
        if faults == self._told:
            return
        before, self._told = self._told, faults
        for ranges, what in (
            (scrub.unreadable, "cannot give back the messages"),
            (scrub.altered, "has other bytes than those whose SHA-256 the table recorded for"),
            (scrub.replaced, "lost its end and went on: it had other messages before under"),
        ):
            if ranges:
                log.error("the stream is damaged: it %s %s", what, ranges)
        if scrub.lost:
            log.error(
                "the table has lost %s, which are older than the stream; a damaged part lies beside it", scrub.lost
            )
        if scrub.kept:
            log.error("of what is damaged in the stream, the table has the bytes of %s", scrub.kept)
        for part in scrub.left:
            log.error(
                "part %s of the table is damaged (%s) and kept, because %s; it holds %s, damaged are %s",
                part.name, part.why, part.kept_because or "nothing is repaired now", part.holds,
                part.damaged or "rows that cannot be named",
            )  # fmt: skip
        for one in scrub.detached:
            if one not in _detached(before):
                log.warning("part %s lies beside the table%s", one.name, f": {one.reason}" if one.reason else "")


def _detached(told: object) -> tuple[DetachedPart, ...]:
    return told[-1] if isinstance(told, tuple) else ()
