"""`verify`: the chains over the table's rows, each row's hash, and the table against the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import ChainVerifier, Fault, Verdict
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent
from enchanted.serve.dependencies import Dependencies
from enchanted.serve.errors import ServeError
from enchanted.serve.store import EventRow

SINGLY = 10_000
"""Events that are looked up in the stream one by one at most."""
NAMED = 20
"""Sequences that are named in one list of differences."""


class _Rows:
    """The table's side: verdict, and each row's bytes by hash."""

    def __init__(self) -> None:
        self._chains = ChainVerifier()
        self.hashes: dict[int, str] = {}
        self.event_ids: set[str] = set()
        self.damaged: Fault | None = None
        self.unreadable = 0

    def add(self, row: EventRow) -> None:
        found = sha256_hex(row.raw)
        self.hashes[row.seq] = found
        self.event_ids.add(row.event_id)
        try:
            stored = row.stored()
        except NotAnEvent as error:
            self.unreadable += 1
            self._damage(Fault(seq=row.seq, agent_id="", agent_seq=0, why=str(error)))
            return
        if found != row.sha256:
            self._damage(_fault(stored, f"the stored bytes hash to {found}, they were ingested as {row.sha256}"))
        self._chains.add(stored)

    def verdict(self) -> Verdict:
        return self._chains.verdict()

    def _damage(self, fault: Fault) -> None:
        self.damaged = self.damaged or fault


def _fault(stored: StoredEvent, why: str) -> Fault:
    return Fault(seq=stored.seq, agent_id=stored.event.agent_id, agent_seq=stored.event.agent_seq, why=why)


def compare(hashes: Mapping[int, str], event_ids: set[str], stream: list[StoredEvent]) -> dict[str, Any]:
    """Where table and stream differ; later copies of an event that is there are none of it."""
    known = {stored.seq: stored for stored in stream}
    first = min(known, default=0)
    copies = event_ids - {""}
    missing = [seq for seq, stored in known.items() if seq not in hashes and stored.event.event_id not in copies]
    differing = [seq for seq, stored in known.items() if seq in hashes and hashes[seq] != sha256_hex(stored.raw)]
    # Older rows than the stream's first are its long-term memory, not an excess.
    extra = [seq for seq in hashes if seq not in known and seq > first > 0]
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
    rows = _Rows()
    async for row in deps.store.run_events(run):
        rows.add(row)
    verdict = rows.verdict()
    stream = await _stream_check(deps, run, rows)
    faults = [fault for fault in (rows.damaged, verdict.first_bad, _differing(stream)) if fault]
    first_bad = min(faults, key=lambda fault: fault.seq or 2**64, default=None)
    return {
        "run_id": run,
        "intact": first_bad is None and not stream["only_in_table"],
        "complete": verdict.complete and not stream["only_in_stream"],
        "checked": verdict.checked + rows.unreadable,
        "closed": verdict.closed,
        "first_bad": asdict(first_bad) if first_bad else None,
        "missing": [asdict(fault) for fault in verdict.missing],
        "stream": stream,
    }


async def _stream_check(deps: Dependencies, run: str, rows: _Rows) -> dict[str, Any]:
    unchecked = {"events": 0, "only_in_stream": [], "only_in_table": [], "differing": []}
    try:
        events = await deps.bus.read_run(run)
        if not events and len(rows.hashes) <= SINGLY:
            # A producer without runs: its subjects do not tell its events from others', their sequences do.
            events = await deps.bus.read_events(sorted(rows.hashes))
    except ServeError as error:
        return {"checked": False, "why": str(error), **unchecked}
    if not events:
        why = "the stream no longer holds this run, or it is a long one of a producer without runs"
        return {"checked": False, "why": why, **unchecked}
    return await asyncio.to_thread(compare, rows.hashes, rows.event_ids, events)


def _differing(stream: Mapping[str, Any]) -> Fault | None:
    if not stream["differing"]:
        return None
    return Fault(
        seq=stream["differing"][0], agent_id="", agent_seq=0, why="the table's bytes are not those of the stream"
    )
