"""What is left of a run: its last valid state, and why the later ones are not."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from enchanted.actors.recovery import MainState, Recovery, recover
from enchanted.bus.errors import BlobUnusable
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.links import Fault, earliest
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.proof import FaultDocument
from enchanted.serve.errors import ServeError
from enchanted.serve.proof.verify import is_recent
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.arrival import lacking
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import RunId

router = APIRouter(prefix="/api/v1", tags=["history"])

NAMED = 100
"""Later states that are named, the newest."""


class RecoveryState(BaseModel):
    """The main workspace after one change of it."""

    seq: int
    event_id: str
    tree: str
    reason: str
    """Of the change: base, fork, merge, rollback or undo."""
    checked_at: int
    """Sequence of the event that tells its checks; 0 where none does."""
    why_not: str
    """Why it is not valid; empty where it is."""


class RecoveryDocument(BaseModel):
    """The last valid state of a run."""

    run_id: str
    state: str
    """Of the run."""
    closed: bool
    """Whether the run has its verdict; until then its last valid state may become another one."""
    valid: RecoveryState | None
    """The newest state whose checks passed, in a log that verifies up to there; null where there is none."""
    at: int
    """The sequence to restore or fork at; 0 where there is none."""
    base: RecoveryState | None
    """What the run began with; null where the log does not verify up to there."""
    later: list[RecoveryState]
    """The states after the valid one, or all of them, with why they are not valid; the last hundred."""
    later_states: int
    fault: FaultDocument | None
    """Where the log does not verify first."""
    next: list[str]
    """Commands that go on from there."""


@router.get("/runs/{run}/recovery", response_model=None, responses=described(RecoveryDocument))
async def read_recovery(run: RunId, deps: Deps) -> JsonResponse:
    """The newest state whose checks passed, in a log that verifies up to there, and how to go on from it."""
    await find_run(deps, run)
    stream = await _from_stream(deps, run)
    rows, damage = await _from_table(deps, run, stream)
    whole = any(stored.event.state_change.content_sha256 for stored in stream)
    found = [await _told(deps, stored) for stored in (stream if whole else rows)]
    recovery = await asyncio.to_thread(recover, found, run=run, damage=damage)
    return JsonResponse(_document(run, recovery))


async def _from_stream(deps: Dependencies, run: str) -> list[StoredEvent]:
    try:
        return await deps.bus.read_run(run)
    except ServeError:
        return []


async def _from_table(
    deps: Dependencies, run: str, stream: Sequence[StoredEvent]
) -> tuple[list[StoredEvent], Fault | None]:
    """The events that read back, and the first place where the table is not what was published: `restore` reads it."""
    published = {stored.seq: sha256_hex(stored.raw) for stored in stream}
    found, faults = list[StoredEvent](), list[Fault]()
    hashes, event_ids = dict[int, str](), set[str]()
    async for row in deps.store.run_events(run):
        digest = hashes[row.seq] = sha256_hex(row.raw)
        event_ids.add(row.event_id)
        if digest != row.sha256 or published.get(row.seq, digest) != digest:
            faults.append(_damage(row.seq, "the table holds other bytes for it than were published"))
        try:
            found.append(row.stored())
        except NotAnEvent as error:
            faults.append(_damage(row.seq, str(error)))
    missing = (stored.seq for stored in lacking(hashes, event_ids, stream) if not is_recent(stored))
    return found, earliest([*faults, *(_damage(seq, "the table does not hold it") for seq in missing)])


def _damage(seq: int, why: str) -> Fault:
    return Fault(seq=seq, agent_id="", agent_seq=0, why=why)


async def _told(deps: Dependencies, stored: StoredEvent) -> StoredEvent:
    """The event with its moved-out fields where checks may be among them; without, where they are not kept any more."""
    if not stored.event.blobs or not stored.event.HasField("run_transition"):
        return stored
    async with deps.bus.use() as bus:
        try:
            return replace(stored, event=await bus.inflate(stored.event))
        except BlobUnusable:
            return stored


def _document(run: str, recovery: Recovery) -> dict[str, Any]:
    later = recovery.later
    return {
        "run_id": run,
        "state": recovery.run_state,
        "closed": recovery.closed,
        "valid": _state(recovery.valid),
        "at": recovery.at,
        "base": _state(recovery.base),
        "later": [asdict(state) for state in later[-NAMED:]],
        "later_states": len(later),
        "fault": asdict(recovery.fault) if recovery.fault else None,
        "next": _next(run, recovery),
    }


def _state(state: MainState | None) -> dict[str, Any] | None:
    return None if state is None else asdict(state)


def _next(run: str, recovery: Recovery) -> list[str]:
    at = recovery.at or (recovery.base.seq if recovery.base else 0)
    run = shlex.quote(run)
    if not at:
        return [f"enchanted verify {run}"]
    commands = [f"enchanted restore {run} --at {at} --into FOLDER"]
    # Only a run of our orchestrator can be gone on with.
    return [*commands, f"enchanted fork {run} --at {at}"] if recovery.run_state and recovery.base else commands
