"""What is missing in the table is read from the stream again and written, or becomes a dead letter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.reader import RawMessage, message_at, read_range
from enchanted.ingest.ranges import Span, contains, joined, spans_of, without
from enchanted.ingest.rows import row_of
from enchanted.ingest.writer import Writer
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, parse_event

_SLACK = 64
_PAGE = 500
_PAGE_BYTES = 4 * 1024 * 1024
_QUESTIONS = 100


@dataclass(slots=True)
class Healed:
    """What became of the missing."""

    rows: int = 0
    buried: list[int] = field(default_factory=list)
    """Sequences that are dead letters now."""
    lost: list[Span] = field(default_factory=list)
    """The stream does not have them either."""


class Healer:
    """Reads from one stream, a page at a time, and writes into one table."""

    def __init__(self, bus: Bus, writer: Writer, stream: str) -> None:
        self._bus = bus
        self._letters = DeadLetters(bus)
        self._writer = writer
        self._stream = stream

    async def heal(self, missing: Sequence[Span], created: datetime) -> Healed:
        """Write what the stream has of these ascending ranges.

        Raises:
            BusError, TableUnavailable: what is written stays written; try the rest again.
        """
        healed = Healed()
        read: list[int] = []
        async with aclosing(self._pages(missing)) as pages:
            async for page in pages:
                read += [raw.seq for raw in page]
                await self._take(page, created, healed)
        healed.lost = await self._lost(without(missing, spans_of(read)))
        return healed

    async def _pages(self, missing: Sequence[Span]) -> AsyncGenerator[list[RawMessage], None]:
        # A page goes on over ranges: thousands of single messages must not become thousands of inserts.
        page: list[RawMessage] = []
        size = 0
        for first, last in joined(missing, _SLACK):
            async with aclosing(read_range(self._bus.link, self._stream, first, last, batch=_PAGE)) as messages:
                async for raw in messages:
                    if not contains(missing, raw.seq):
                        continue
                    page.append(raw)
                    size += len(raw.payload)
                    if len(page) >= _PAGE or size >= _PAGE_BYTES:
                        yield page
                        page, size = [], 0
        if page:
            yield page

    async def _take(self, page: Sequence[RawMessage], created: datetime, healed: Healed) -> None:
        events: list[StoredEvent] = []
        dead: dict[int, tuple[str, str]] = {}
        for raw in page:
            try:
                event = parse_event(raw.payload)
            except NotAnEvent as error:
                dead[raw.seq] = ("undecodable", str(error))
                continue
            events.append(StoredEvent(seq=raw.seq, time=raw.time, subject=raw.subject, raw=raw.payload, event=event))
        rows, refused = await self._write(events, created)
        healed.rows += rows
        dead |= {seq: ("refused", why) for seq, why in refused.items()}
        kept = await self._letters.put_all([(raw, *dead[raw.seq]) for raw in page if raw.seq in dead])
        healed.buried += [seq for seq in dead if seq not in kept]
        if kept:
            raise next(iter(kept.values()))

    async def _write(self, events: Sequence[StoredEvent], created: datetime) -> tuple[int, dict[int, str]]:
        """Into the table, confirmed; returns how many are there, and why the others are not."""
        if not events:
            return 0, {}
        rows = [row_of(stored, redelivered=True) for stored in events]
        written = await self._writer.write(rows, created, again=True)
        return written.inserted + written.present, {row.seq: why for row, why in written.refused}

    async def _lost(self, absent: Sequence[Span]) -> list[Span]:
        """What the stream's leader does not have; a replica that answered may only be behind."""
        lost: list[Span] = []
        for first, last in absent[:_QUESTIONS]:
            following = await message_at(self._bus.link, self._stream, {"seq": first, "next_by_subj": ">"})
            end = last if following is None else min(last, following.seq - 1)
            if end >= first:
                lost.append((first, end))
        return lost
