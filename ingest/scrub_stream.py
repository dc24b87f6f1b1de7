"""The stream, read again in turn: what it says it has and cannot give back, or has otherwise than the table says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime

from enchanted.bus.connection import Bus
from enchanted.bus.reader import holes, message_at, read_range
from enchanted.bus.streams import StreamInfo
from enchanted.bus.sweep import sweep
from enchanted.ingest.ranges import Ranges, Span, joined, spans_of, without
from enchanted.ingest.scrub_table import PartBroken, ScrubTable
from enchanted.schemas.canonical import sha256_hex

AGAIN_AFTER = 30.0
"""Seconds from the beginning of one round to that of the next, if there is time."""
_QUESTIONS = 1_000
_PAGE = 500


class Marked:
    """Sequences that are marked, as found the last time each was looked at."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def look(self, first: int, last: int, found: Sequence[Span]) -> None:
        """What is marked from ``first`` to ``last`` now."""
        self.spans = sorted([*without(self.spans, [(first, last)]), *found])

    def ranges(self, first: int) -> Ranges:
        """Those from ``first`` on."""
        return Ranges().plus(without(self.spans, [(0, first - 1)]))


class StreamScrub:
    """Two rounds over one stream: whether each message can be read, and, slower, whether its bytes are right."""

    def __init__(self, table: ScrubTable, bus: Bus, stream: str) -> None:
        self._table = table
        self._bus = bus
        self._stream = stream
        self._created: datetime | None = None
        self.unreadable = Marked()
        self.altered = Marked()
        self.replaced = Marked()
        self._ends = Marked()
        self._highest = 0
        self.reached = 0
        self.bytes_reached = 0
        self.seconds: float | None = None
        self._begun = 0.0
        self._resting = False

    def begin(self, info: StreamInfo) -> None:
        """Forget all when the stream was made anew."""
        if self._created != info.created:
            self._created = info.created
            self.unreadable, self.altered, self.replaced = Marked(), Marked(), Marked()
            self._ends, self._highest = Marked(), 0
            self.reached = self.bytes_reached = 0
            self.seconds, self._begun, self._resting = None, 0.0, False
        if info.last_seq < self._highest:
            # Gone for ever, also when others take their numbers and their rows' places before those are compared.
            self._ends.look(info.last_seq + 1, self._highest, [(info.last_seq + 1, self._highest)])
        self._highest = max(self._highest, info.last_seq)

    def lost_ends(self, last: int) -> list[Span]:
        """Sequences up to ``last`` that the stream gave out twice, as far as this process saw it or rows show it."""
        return without(joined(sorted([*self.replaced.spans, *self._ends.spans]), 0), [(last + 1, 2**64 - 1)])

    async def step(
        self, info: StreamInfo, dealt: int, broken: Sequence[str], until: float, *, all_now: bool = False
    ) -> None:
        """Go on with the round until then (`time.monotonic`); compares rows up to ``dealt`` outside ``broken`` parts.

        Raises:
            BusError, TableUnavailable: what was read stays known.
        """
        self.begin(info)
        if self._resting and not all_now and time.monotonic() < self._begun + AGAIN_AFTER:
            return
        if self._resting or not self._begun:
            self._begun, self._resting, self.reached = time.monotonic(), False, 0
        first = max(self.reached + 1, info.first_seq, 1)
        async with aclosing(sweep(self._bus.link, self._stream, first, info.last_seq)) as pages:
            async for page in pages:
                await self._take(first, page, dealt, broken)
                if page:
                    self.reached = page[-1][0]
                    first = self.reached + 1
                if time.monotonic() >= until and not all_now:
                    return
        if first <= info.last_seq:
            await self._take(first, [(info.last_seq + 1, 0)], dealt, broken)
        self.reached, self._resting = info.last_seq, True
        self.seconds = round(time.monotonic() - self._begun, 3)

    async def _take(self, first: int, page: Sequence[tuple[int, int]], dealt: int, broken: Sequence[str]) -> None:
        """One page: everything from ``first`` to the last in it."""
        if not page:
            return
        there = {seq: nanoseconds // 1_000 for seq, nanoseconds in page if nanoseconds}
        last = page[-1][0] if page[-1][1] else page[-1][0] - 1
        absent = without([(first, last)], spans_of(there))
        self.unreadable.look(first, last, await self._unreadable(absent) if absent else [])
        self.replaced.look(first, last, await self._replaced(there, first, min(last, dealt), broken))

    async def _unreadable(self, absent: Sequence[Span]) -> list[Span]:
        """Of these, what the stream's leader counts among its messages and cannot give back."""
        gone = spans_of(sorted(await holes(self._bus.link, self._stream)))
        found: list[Span] = []
        for span in without(absent, gone)[:_QUESTIONS]:
            first, last = span
            while first <= last:
                query = {"seq": first, "next_by_subj": ">"}
                following = await message_at(self._bus.link, self._stream, query)
                end = last if following is None else min(last, following.seq - 1)
                if end >= first:
                    found.append((first, end))
                first = end + 2
        return found

    async def _replaced(self, there: dict[int, int], first: int, last: int, broken: Sequence[str]) -> list[Span]:
        """Where the row was stored at another time than the message: it is of another message."""
        mine = {seq: micros for seq, micros in there.items() if seq <= last}
        created = self._created
        if not mine or created is None:
            return []
        try:
            summed = await self._table.times_sum(broken, created, first, last)
            if summed == (len(mine), sum(mine.values()) % 2**64):
                return []
            rows = await self._table.times(broken, created, first, last)
        except PartBroken:
            return []  # the scrub of the parts comes to it
        return spans_of(sorted({seq for seq, micros in rows if mine.get(seq, micros) != micros}))

    async def compare_bytes(
        self, info: StreamInfo, dealt: int, broken: Sequence[str], until: float, *, all_now: bool = False
    ) -> None:
        """Go on comparing bytes with the hashes in the table until then; raises as `step`."""
        self.begin(info)
        last = min(info.last_seq, dealt)
        if all_now or self.bytes_reached >= last:
            self.bytes_reached = 0
        first = max(self.bytes_reached + 1, info.first_seq, 1)
        while first <= last and (all_now or time.monotonic() < until):
            end = min(last, first + _PAGE - 1)
            self.altered.look(first, end, await self._altered(info.created, first, end, broken))
            self.bytes_reached, first = end, end + 1

    async def _altered(self, created: datetime, first: int, last: int, broken: Sequence[str]) -> list[Span]:
        try:
            recorded = await self._table.hashes(broken, created, first, last)
        except PartBroken:
            return []
        found: list[int] = []
        async with aclosing(read_range(self._bus.link, self._stream, first, last, batch=_PAGE)) as messages:
            async for raw in messages:
                digest, micros = recorded.get(raw.seq, ("", 0))
                same_message = micros == round(raw.time.timestamp() * 1_000_000)
                if digest and same_message and sha256_hex(raw.payload) != digest:
                    found.append(raw.seq)
        return spans_of(found)
