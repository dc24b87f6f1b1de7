"""`verify`: the chains over the table's rows, each row's hash, and the table against the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from enchanted.bus.streams import StreamInfo
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import ChainVerifier, Verdict
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.links import Fault, earliest
from enchanted.serve.errors import ServeError
from enchanted.serve.sources.arrival import lacking
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import EventRow

SINGLY = 10_000
"""Events that are looked up in the stream one by one at most."""
FLUSH_GRACE = timedelta(seconds=5)
"""How long after the stream an event may reach the table."""
FLUSH_POLL = 0.25
NAMED = 20
"""Sequences that are named in one list of differences."""


_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


class _Rows:
    """The table's side: verdict, and each row's bytes by hash."""

    def __init__(self, run: str) -> None:
        self._chains = ChainVerifier(run)
        self.hashes: dict[int, str] = {}
        self.newest = _BEFORE_ALL
        """When the stream took in the last of them."""
        self.event_ids: set[str] = set()
        self.damaged: Fault | None = None
        self.unreadable = 0

    def add(self, row: EventRow) -> None:
        found = sha256_hex(row.raw)
        self.hashes[row.seq] = found
        self.event_ids.add(row.event_id)
        self.newest = max(self.newest, row.time)
        try:
            stored = row.stored()
        except NotAnEvent as error:
            self.unreadable += 1
            self._damage(Fault(seq=row.seq, agent_id="", agent_seq=0, why=str(error)))
            return
        if found != row.sha256:
            self._damage(_fault(stored, f"the stored bytes hash to {found}, they were ingested as {row.sha256}"))
        self._chains.add(stored, digest=found)

    def verdict(self) -> Verdict:
        return self._chains.verdict()

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
    if not why:
        stream, why = await _with_others(deps, rows, stream, now)
    if why:
        check = {"checked": False, "why": why, "events": 0, "only_in_stream": [], "only_in_table": [], "differing": []}
    else:
        check = await asyncio.to_thread(compare, rows.hashes, rows.event_ids, stream)
    verdict = rows.verdict()
    faults = [fault for fault in (rows.damaged, verdict.first_bad, _differing(check)) if fault]
    first_bad = earliest(faults)
    return {
        "run_id": run,
        "intact": first_bad is None and not check["only_in_table"],
        "complete": verdict.complete and not check["only_in_stream"],
        "checked": verdict.checked + rows.unreadable,
        "last_seq": max(rows.hashes, default=0),
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


async def _with_others(
    deps: Dependencies, rows: _Rows, stream: list[StoredEvent], now: StreamInfo | None
) -> tuple[list[StoredEvent], str]:
    """The same with what other producers wrote: their subjects do not name the run, so it is looked up by sequence."""
    if now and not stream and rows.newest < now.created:
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

    What came after that is left out: nobody would wait for what is missing of it. What no stream can have sent stays.
    """
    while True:
        rows, later = _Rows(run), list[EventRow]()
        async for row in deps.store.run_events(run):
            if now and row.seq > now.last_seq:
                later.append(row)
            else:
                rows.add(row)
        for row in await _never_sent(deps, later):
            rows.add(row)
        missing = lacking(rows.hashes, rows.event_ids, stream)
        if not any(is_recent(stored) for stored in missing):
            return rows
        await asyncio.sleep(FLUSH_POLL)


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
