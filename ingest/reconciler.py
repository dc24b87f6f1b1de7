"""Every message that ingest acknowledged is a row or a dead letter; what is neither is read from the stream again."""

from __future__ import annotations

import logging
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.reader import consumer_state, holes, message_at
from enchanted.bus.streams import DEAD_LETTERS_STREAM, EVENTS_STREAM, StreamInfo, parse_info
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.ranges import Ranges, Span, joined, pieces, spans_of, without
from enchanted.ingest.reconcile_compare import BLOCK, compare, within
from enchanted.ingest.reconcile_heal import Healer
from enchanted.ingest.reconcile_report import Report
from enchanted.ingest.reconcile_table import MOST_TWICE, Table
from enchanted.ingest.scrub import Look, Scrubber
from enchanted.ingest.scrub_parts import Extent
from enchanted.ingest.scrub_table import PartBroken
from enchanted.ingest.worker import DURABLE
from enchanted.ingest.writer import Writer

STRETCH = 256 * BLOCK
"""Sequences compared, and healed, before the next ones are looked at; bounds memory."""

SCRUB_SECONDS = 1.0
"""What a check takes for reading again what was read before."""
LATE = 35.0
"""Seconds after which an insert that nobody waits for has ended: ClickHouse gives it 30."""
FIRST_LOOK = 2_000_000
"""Sequences before the acknowledged ones in which a first check looks for events that are visible twice.

A reconciler is made again at every outage: of ten million rows so many take a second or two, all of them half a minute.
"""
LOOK_AFTER_A_LOSS = 10_000_000
"""The same where a part was set aside; what lies further back waits for a check of everything."""

log = logging.getLogger(__name__)


class _Dead:
    """Original sequences of the dead letters, read once each and kept at 8 bytes."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._letters = DeadLetters(bus)
        self._of: tuple[datetime, datetime] | None = None
        self._last = 0
        self._seqs = array("Q")

    async def update(self, created: datetime) -> None:
        """Read those put since; all of them after one of the streams was made again."""
        info = parse_info(await self._bus.link.api(f"STREAM.INFO.{DEAD_LETTERS_STREAM}"))
        if self._of != (created, info.created):
            self._of, self._last, self._seqs = (created, info.created), 0, array("Q")
        if info.last_seq <= self._last:
            return
        seqs = set(self._seqs)
        async for origin in self._letters.origins(after=self._last):
            self._last = origin.seq
            if origin.original_time >= created:
                seqs.add(origin.original_seq)
        self._seqs = array("Q", sorted(seqs))

    def between(self, first: int, last: int) -> list[int]:
        return list(self._seqs[bisect_left(self._seqs, first) : bisect_right(self._seqs, last)])


@dataclass(frozen=True, slots=True)
class _Settled:
    """How far events were looked for that are visible twice."""

    created: datetime
    above: int
    """The next look begins here."""
    next: int
    """And the one after it here."""
    at: datetime


@dataclass(frozen=True, slots=True)
class _Copies:
    """The later copies in a stretch. While none of their rows is away, as many are the same ones."""

    created: datetime
    stretch: Span
    count: int


@dataclass(frozen=True, slots=True)
class Lag:
    """What is in the stream and not acknowledged."""

    events: int = 0
    """From the oldest such message to the stream's end."""
    seconds: float = 0.0
    """Age of the oldest such message."""


class Reconciler:
    """Compares stream and table, and heals the table from the stream. Any number may work at the same time.

    Every method raises BusError or TableUnavailable when one of them cannot be used now; nothing is half done then,
    the next check begins anew.
    """

    def __init__(
        self,
        *,
        nats_url: str,
        clickhouse_url: str,
        name: str = "reconciler",
        stream: str = EVENTS_STREAM,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        bus: Bus | None = None,
        writer: Writer | None = None,
        table: Table | None = None,
        scrubber: Scrubber | None = None,
    ) -> None:
        """``bus``, ``writer``, ``table`` and ``scrubber`` are used instead of those the URLs lead to, and closed."""
        self._bus = bus or Bus.connect(nats_url, name=name)
        self._dead = _Dead(self._bus)
        self._table = table or Table(clickhouse_url)
        self._writer = writer or Writer(clickhouse_url)
        self._healer = Healer(self._bus, self._writer, stream)
        self._scrubber = scrubber or Scrubber(clickhouse_url, self._bus, stream)
        self._stream = stream
        self._now = now
        self._stack = AsyncExitStack()
        self._told: object = None
        self._settled: _Settled | None = None
        self._settled_beside: frozenset[str] = frozenset()
        """The parts beside the table when all of it was looked at for events that are visible twice."""
        self._conflicts: dict[_Copies, Ranges] = {}
        self._conflicting: dict[datetime, Ranges] = {}

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._bus)
        self._stack.push_async_callback(self._writer.close)
        self._stack.push_async_callback(self._table.close)
        self._stack.push_async_callback(self._scrubber.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def check(self, *, repair: bool = True, deep: bool = False, scrub_seconds: float = SCRUB_SECONDS) -> Report:
        """Compare everything up to what ingest has acknowledged; with ``repair`` write what is missing.

        Before that some of the stream and of the table is read again, for ``scrub_seconds``; with ``deep`` all of both,
        however long it takes.
        """
        look = await self._look()
        if deep:
            await self._scrubber.everything(look)
        else:
            await self._scrubber.step(look, scrub_seconds)
        try:
            return await self._check(look, repair, deep)
        except (TableUnavailable, PartBroken):
            # Questions about a damaged part that is not found yet fail.
            if not await self._scrubber.all_parts():
                raise
            return await self._check(look, repair, deep)

    async def scrub(self, seconds: float) -> bool:
        """Read a piece of stream and table again; whether damage came to light that was not known before."""
        return await self._scrubber.step(await self._look(), seconds)

    async def _look(self) -> Look:
        consumer = await consumer_state(self._bus.link, self._stream, DURABLE)
        info = await self._info()
        return Look(info=info, dealt=min(consumer.acknowledged if consumer else 0, info.last_seq))

    async def _check(self, look: Look, repair: bool, deep: bool) -> Report:
        begun = time.monotonic()
        info, reached = look.info, look.dealt
        # A message is a dead letter before it is acknowledged, so all up to `reached` are known after this.
        await self._dead.update(info.created)
        first = max(1, info.first_seq)
        dead = spans_of(self._dead.between(first, reached))
        extent = Extent(created=info.created, first=first, last=reached, dead=dead)
        parts = await self._scrubber.deal(extent, repair=repair)
        self._table.skip = self._scrubber.broken
        report = Report(
            at=self._now(),
            seconds=0.0,
            stream_created=info.created,
            first_seq=info.first_seq,
            last_seq=info.last_seq,
            acknowledged=reached,
            scrub=await self._scrubber.report(look, parts, spans_of(self._dead.between(0, first - 1))),
        )
        gaps = await self._gaps(info, reached)
        copies: list[_Copies] = []
        for stretch in pieces(first, reached, STRETCH):
            before = report.duplicates
            report = await self._stretch(report, stretch, gaps, repair)
            copies.append(_Copies(info.created, stretch, report.duplicates - before))
        if repair:
            beside = frozenset(one.name for one in report.scrub.detached)
            report = replace(report, settled=await self._settle(look, beside, deep))
        report = replace(
            report,
            stream_gaps=Ranges().plus(gaps),
            beyond=await self._beyond(info.created),
            former_streams=await self._table.former_streams(info.created),
            agents=await self._table.agents(info.created, reached),
            conflicting=await self._told_apart(info.created, copies, whole=not (report.unhealed or self._table.skip)),
        )
        report = replace(report, seconds=round(time.monotonic() - begun, 3))
        self._tell(report)
        return report

    def _tell(self, report: Report) -> None:
        faults = (report.stream_gaps, report.beyond, report.unhealed, report.twofold, report.agents.gaps)
        if faults != self._told:
            self._told = faults
            _tell(report)
        if report.healed or report.buried:
            log.warning(
                "%d rows and %d dead letters were missing and are written again: %s",
                report.healed,
                report.buried,
                report.missing,
            )
        if report.settled:
            log.warning("%d later copies of events were visible beside the first; they are marked", report.settled)

    async def lag(self) -> Lag:
        """How far ingest is behind the stream now."""
        consumer = await consumer_state(self._bus.link, self._stream, DURABLE)
        reached = consumer.acknowledged if consumer else 0
        oldest = await message_at(self._bus.link, self._stream, {"seq": reached + 1, "next_by_subj": ">"})
        if oldest is None:
            return Lag()
        events = (await self._info()).last_seq - oldest.seq + 1
        return Lag(events, max(0.0, (self._now() - oldest.time).total_seconds()))

    async def _info(self) -> StreamInfo:
        return parse_info(await self._bus.link.api(f"STREAM.INFO.{self._stream}"))

    async def _gaps(self, info: StreamInfo, reached: int) -> list[Span]:
        if info.messages == info.last_seq - info.first_seq + 1 or not info.messages:
            return []
        there = [seq for seq in await holes(self._bus.link, self._stream) if info.first_seq <= seq <= reached]
        return spans_of(sorted(there))

    async def _stretch(self, report: Report, stretch: Span, gaps: list[Span], repair: bool) -> Report:
        """The report with one stretch more; further gaps of the stream that come to light are put into ``gaps``."""
        created = report.stream_created
        dead = self._dead.between(*stretch)
        # What lies in a damaged part that is kept is not missing, and cannot be counted.
        kept = joined(sorted(span for part in report.scrub.left for span in part.holds.spans), 0)
        found = await compare(self._table, created, stretch, dead, _both(gaps, kept))
        report = replace(report, missing=report.missing.plus(found.missing))
        if found.missing and repair:
            healed = await self._healer.heal(found.missing, created)
            # What went for its age meanwhile is no gap.
            gaps += without(healed.lost, [(0, (await self._info()).first_seq - 1)])
            gaps.sort()
            found = await compare(self._table, created, stretch, sorted({*dead, *healed.buried}), _both(gaps, kept))
            report = replace(
                report,
                healed=report.healed + healed.rows,
                buried=report.buried + len(healed.buried),
            )
        return replace(
            report,
            in_stream=report.in_stream + stretch[1] - stretch[0] + 1 - within(gaps, stretch),
            rows=report.rows + found.rows,
            duplicates=report.duplicates + found.duplicates,
            dead_letters=report.dead_letters + found.dead,
            unhealed=report.unhealed.plus(found.missing),
            twofold=report.twofold.plus(found.twofold),
        )

    async def _told_apart(self, created: datetime, copies: list[_Copies], *, whole: bool) -> Ranges:
        """Which copies have other bytes than the first; what was known before where the table does not say now.

        It looks up all first ones, so it is asked again only where the number of copies has changed. ``whole``: no row
        is away that may be the first of one.
        """
        known: dict[_Copies, Ranges] = {}
        told = Ranges()
        try:
            for some in copies:
                found = self._conflicts.get(some)
                if found is None:
                    seqs = await self._table.conflicting(some.created, *some.stretch) if some.count else []
                    found = Ranges().plus(spans_of(seqs))
                known[some], told = found, told.then(found)
        except TableUnavailable as error:
            # Only told, and acted upon by nobody: nothing else waits for it.
            log.warning("not looked for copies with other bytes than the first, the next check does: %s", error)
            self._conflicts |= known if whole else {}
            return self._conflicting.get(created, Ranges())
        self._conflicts, self._conflicting = known if whole else {}, {created: told}
        return told

    async def _settle(self, look: Look, beside: frozenset[str], deep: bool) -> int:
        """Leave one visible row of each event; how many rows are hidden now. Where it cannot, the next check does.

        ``beside``: the parts that were set aside. One may have had the marks of copies whose former rows, without one,
        are still in the table; only a look further back finds them.

        What was acknowledged two looks ago, each at least `LATE` after the other, has been looked at: an insert that
        its worker did not wait for has come in by then.
        """
        created, now = look.info.created, self._now()
        known = self._settled
        if known is None or known.created != created:
            above = max(0, look.dealt - FIRST_LOOK)
            self._settled = known = _Settled(created, above, above, now)
        hidden = 0
        try:
            twice = await self._table.visible_twice(created, 0 if deep else known.above, look.info.last_seq)
            hidden += await self._writer.settle(twice, created) if twice else 0
            if not deep and not beside <= self._settled_beside:
                back = max(0, look.dealt - LOOK_AFTER_A_LOSS)
                former = await self._table.visible_twice(created, back, look.info.last_seq)
                hidden += await self._writer.settle(former, created) if former else 0
                if len(former) < MOST_TWICE:
                    self._settled_beside = beside
        except TableUnavailable as error:
            log.warning("not looked for events that are visible twice, the next check does: %s", error)
            return hidden
        if len(twice) < MOST_TWICE and (now - known.at).total_seconds() >= LATE:
            self._settled = _Settled(created, known.next, look.dealt, now)
        return hidden

    async def _beyond(self, created: datetime) -> Ranges:
        # The table first: the stream only grows between the two.
        info = await self._info()
        above = await self._table.above(created, info.last_seq)
        if not above:
            return Ranges()
        now = await self._info()
        return Ranges().plus(spans_of(seq for seq in above if seq > now.last_seq and now.created == created))


def _both(some: list[Span], others: list[Span]) -> list[Span]:
    return joined(sorted([*without(some, others), *others]), 0)


def _tell(report: Report) -> None:
    """What is wrong, loudly; not every minute again."""
    if report.stream_gaps:
        log.error(
            "the stream has lost messages %s, where nothing may delete: its files are damaged, bring them back from "
            "a copy; rows of theirs in the table stay",
            report.stream_gaps,
        )
    if report.beyond:
        log.error("the table has rows %s above the stream's end: the stream has lost its end", report.beyond)
    if report.unhealed:
        log.error("messages %s are acknowledged and neither row nor dead letter", report.unhealed)
    if report.twofold:
        log.error("messages %s are both row and dead letter", report.twofold)
    for gap in report.agents.gaps[:10]:
        log.error("agent %s: its events %d-%d are nowhere", gap.agent_id, gap.first, gap.last)
