"""`verify`: the chains over the table's rows, each row's hash, and the table against the stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from enchanted.bus.streams import StreamInfo
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import ChainVerifier, Verdict
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, SwarmEvent
from enchanted.schemas.links import Fault, earliest
from enchanted.serve.errors import ServeError
from enchanted.serve.sources.arrival import lacking
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import EventRow, Store

SINGLY = 10_000
"""Events that are looked up in the stream one by one at most."""
FLUSH_GRACE = timedelta(seconds=5)
"""How long after the stream an event may reach the table."""
FLUSH_POLL = 0.25
NAMED = 20
"""Sequences that are named in one list of differences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Present:
    """Tells the stream's rows from those of a former one, which had other events at the same sequences."""

    created: datetime | None
    """None where no row can be a former stream's."""
    published: Mapping[int, bytes]

    def holds(self, row: EventRow) -> bool:
        """Whether it is of this stream: by its time, or for certain, since a clock may have been set back."""
        return self.created is None or row.time >= self.created or self.published.get(row.seq) == row.raw


def _present(stream: Sequence[StoredEvent], now: StreamInfo | None) -> _Present:
    # Of a run that began in this stream, a row from before it was dated back.
    began = any(_begins(stored.event) for stored in stream)
    return _Present(
        created=None if now is None or began else now.created, published={stored.seq: stored.raw for stored in stream}
    )


def _begins(event: SwarmEvent) -> bool:
    return event.run_transition.subject == "run" and event.run_transition.to_state == "created"


class _Rows:
    """The table's side: verdict, and each row's bytes by hash."""

    def __init__(self, run: str, present: _Present) -> None:
        self._run = run
        self._present = present
        self._chains = ChainVerifier(run)
        self._behind = 0
        self.hashes: dict[int, str] = {}
        """Of the stream's rows."""
        self.former: dict[int, str] = {}
        """Of rows from before the stream."""
        self.mingled = False
        """By sequence, rows of the stream came before some of a former one."""
        self.event_ids: set[str] = set()
        self.damaged: Fault | None = None
        self.unreadable = 0

    @property
    def last_seq(self) -> int:
        """Of all of them."""
        return max(self.hashes.keys() | self.former.keys(), default=0)

    def add(self, row: EventRow) -> None:
        found = sha256_hex(row.raw)
        if self._present.holds(row):
            self.hashes[row.seq] = found
        else:
            self.mingled = self.mingled or bool(self.hashes)
            self.former[row.seq] = found
        self.event_ids.add(row.event_id)
        try:
            stored = row.stored()
        except NotAnEvent as error:
            self.unreadable += 1
            self._damage(Fault(seq=row.seq, agent_id="", agent_seq=0, why=str(error)))
            return
        if found != row.sha256:
            self._damage(_fault(stored, f"the stored bytes hash to {found}, they were ingested as {row.sha256}"))
        self._chains.add(stored, digest=found)

    async def unmingle(self, store: Store) -> None:
        """Read the chains again as they were written: what a former stream had, and behind it what this one has."""
        self._chains = ChainVerifier(self._run)
        async for row in store.run_events(self._run):
            if row.seq in self.former and not self._present.holds(row):
                self._link(row, behind=0)
        self._behind = max(self.former)
        async for row in store.run_events(self._run):
            if row.seq in self.hashes and self._present.holds(row):
                self._link(row, behind=self._behind)

    def _link(self, row: EventRow, *, behind: int) -> None:
        with suppress(NotAnEvent):
            self._chains.add(replace(row.stored(), seq=row.seq + behind), digest=sha256_hex(row.raw))

    def verdict(self) -> Verdict:
        found = self._chains.verdict()
        bad = found.first_bad
        if bad is None or bad.seq <= self._behind:
            return found
        return replace(found, first_bad=replace(bad, seq=bad.seq - self._behind))

    def beside(self, stream: Sequence[StoredEvent]) -> dict[int, str]:
        """What is held against the stream: of rows from before it those at sequences that the run has in it now.

        Where its own row is not there either, somebody dated it back.
        """
        own = {stored.seq for stored in stream}
        return {seq: digest for seq, digest in self.former.items() if seq in own} | self.hashes

    def _damage(self, fault: Fault) -> None:
        self.damaged = self.damaged or fault


def _fault(stored: StoredEvent, why: str) -> Fault:
    return Fault(seq=stored.seq, agent_id=stored.event.agent_id, agent_seq=stored.event.agent_seq, why=why)


def compare(hashes: Mapping[int, str], event_ids: set[str], stream: Sequence[StoredEvent]) -> dict[str, Any]:
    """Where the table and what was read from the stream before it differ."""
    known = {stored.seq: sha256_hex(stored.raw) for stored in stream}
    first, last = min(known, default=0), max(known, default=0)
    missing = [stored.seq for stored in lacking(hashes, event_ids, stream)]
    differing = [seq for seq, digest in known.items() if hashes.get(seq, digest) != digest]
    # Rows before the stream's first are long-term memory, those after its last may be a former stream's.
    extra = [seq for seq in hashes if seq not in known and first < seq < last]
    return {
        "checked": True,
        "why": "",
        "events": len(stream),
        "only_in_stream": sorted(missing)[:NAMED],
        "only_in_table": sorted(extra)[:NAMED],
        "differing": sorted(differing)[:NAMED],
    }


async def prove(deps: Dependencies, run: str) -> dict[str, Any]:
    """Both verdicts over a run, cross-checked with the stream when the bus answers."""
    stream, now, why = await _from_stream(deps, run)
    rows = await _caught_up(deps, run, stream, now)
    if rows.mingled:
        await rows.unmingle(deps.store)
    if not why:
        stream, why = await _with_others(deps, rows, stream)
    if why:
        check = {"checked": False, "why": why, "events": 0, "only_in_stream": [], "only_in_table": [], "differing": []}
    else:
        check = await asyncio.to_thread(compare, rows.beside(stream), rows.event_ids, stream)
    verdict = rows.verdict()
    faults = [fault for fault in (rows.damaged, verdict.first_bad, _differing(check)) if fault]
    first_bad = earliest(faults)
    return {
        "run_id": run,
        "intact": first_bad is None and not check["only_in_table"],
        "complete": verdict.complete and not check["only_in_stream"],
        "checked": verdict.checked + rows.unreadable,
        "last_seq": rows.last_seq,
        "closed": verdict.closed,
        "unanchored": verdict.unanchored,
        "first_bad": asdict(first_bad) if first_bad else None,
        "missing": [asdict(fault) for fault in verdict.missing],
        "stream": check,
    }


async def _from_stream(deps: Dependencies, run: str) -> tuple[list[StoredEvent], StreamInfo | None, str]:
    """The run's events as the stream has them by now, and the stream of now, or why they could not be read."""
    try:
        now = await deps.bus.stream_info()
        return await deps.bus.read_run(run, until=now.last_seq), now, ""
    except ServeError as error:
        return [], None, str(error)


async def _with_others(deps: Dependencies, rows: _Rows, stream: list[StoredEvent]) -> tuple[list[StoredEvent], str]:
    """The same with what other producers wrote: their subjects do not name the run, so it is looked up by sequence."""
    if not stream and not rows.hashes:
        return [], "the run is older than the stream"
    others = sorted(rows.hashes.keys() - {stored.seq for stored in stream})
    if len(others) > SINGLY:
        return [], f"more than {SINGLY} events of it would have to be looked up one by one"
    try:
        stream = sorted(stream + await deps.bus.read_events(others), key=lambda stored: stored.seq)
    except ServeError as error:
        return [], str(error)
    return stream, "" if stream else "the stream no longer holds this run"


async def _caught_up(deps: Dependencies, run: str, stream: Sequence[StoredEvent], now: StreamInfo | None) -> _Rows:
    """The table's rows, read again while it lacks something the stream took in only a moment ago.

    For no longer than that moment: by a clock that is ahead, the stream took it in at a time that is still to come.
    """
    give_up = time.monotonic() + FLUSH_GRACE.total_seconds()
    present = _present(stream, now)
    while True:
        rows = await _read(deps, run, present, now)
        missing = lacking(rows.hashes, rows.event_ids, stream)
        if time.monotonic() >= give_up or not any(is_recent(stored) for stored in missing):
            return rows
        await asyncio.sleep(FLUSH_POLL)


async def _read(deps: Dependencies, run: str, present: _Present, now: StreamInfo | None) -> _Rows:
    """The table's rows as they are now.

    What came after the stream was read is left out: nobody would wait for what is missing of it. What no stream can
    have sent stays.
    """
    rows, later = _Rows(run, present), list[EventRow]()
    async for row in deps.store.run_events(run):
        if now and row.seq > now.last_seq and present.holds(row):
            later.append(row)
        else:
            rows.add(row)
    for row in await _never_sent(deps, later):
        rows.add(row)
    return rows


async def _never_sent(deps: Dependencies, later: Sequence[EventRow]) -> list[EventRow]:
    """Of rows beyond the stream's end those that are beyond it still: a former stream's, or somebody's own."""
    if not later:
        return []
    try:
        end = (await deps.bus.stream_info()).last_seq
    except ServeError:
        end = 0
    return [row for row in later if row.seq > end]


def is_recent(stored: StoredEvent) -> bool:
    """Whether it may still be on its way into the table."""
    return datetime.now(UTC) - stored.time < FLUSH_GRACE


def _differing(stream: Mapping[str, Any]) -> Fault | None:
    if not stream["differing"]:
        return None
    return Fault(
        seq=stream["differing"][0], agent_id="", agent_seq=0, why="the table's bytes are not those of the stream"
    )
