"""`verify --deep`: every change of files of a run, laid onto the tree it begins at, leads to the tree it names."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enchanted.actors.errors import ActorError, BadPatch, CannotRebuild, MissingContent, TreeNotMade
from enchanted.actors.repository.patch_check import PatchCheck
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.schemas.links import Fault
from enchanted.serve.errors import BusUnavailable, ContentUnavailable
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import EventRow

NO_BASE = "the run names no base bundle, so there is nothing that its patches could be laid onto"
GONE = "what was made of the run so far is no longer in the cache; begin again with after=0"


@dataclass(kw_only=True, slots=True)
class _Found:
    """What a check has come to by now."""

    until: int
    changes: int = 0
    skipped: int = 0
    whole: bool = False
    why: str = ""
    first_bad: Fault | None = None

    @property
    def intact(self) -> bool | None:
        if self.first_bad is not None:
            return False
        return True if self.whole and not self.skipped and not self.why else None


async def hold_patches(deps: Dependencies, run: str, *, after: int = 0, seconds: float) -> dict[str, Any]:
    """Check the changes after a sequence, in stream order, to the first that is false or for so many seconds."""
    begun = time.monotonic()
    found = _Found(until=after)
    async with _checking(deps, run) as check:
        if after:
            check.reopen()
        async for row in deps.store.run_events(run, after=after):
            await _take(deps, run, check, row, found, after)
            if found.why or found.first_bad:
                break
            found.until = row.seq
            if time.monotonic() - begun > seconds:
                break
        else:
            found.whole = True
    return {
        "run_id": run,
        "intact": found.intact,
        "whole": found.whole,
        "changes": found.changes,
        "skipped": found.skipped,
        "until": found.until,
        "seconds": round(time.monotonic() - begun, 3),
        "why": found.why,
        "first_bad": asdict(found.first_bad) if found.first_bad else None,
    }


@asynccontextmanager
async def _checking(deps: Dependencies, run: str) -> AsyncIterator[PatchCheck]:
    """In a repository of its own: what other views made of the run is no proof."""
    folder = deps.cache / f"{sha256_hex(run)[:32]}-deep.git"
    with tempfile.TemporaryDirectory(prefix="enchanted-deep-") as scratch:
        yield PatchCheck(folder, Path(scratch) / "index", fetch=deps.bus.blob, inflate=deps.bus.inflate)


async def _take(deps: Dependencies, run: str, check: PatchCheck, row: EventRow, found: _Found, after: int) -> None:
    """Check one event, and say in ``found`` what came of it."""
    try:
        stored = row.stored()
    except NotAnEvent as error:
        found.first_bad = Fault(seq=row.seq, agent_id="", agent_seq=0, why=str(error))
        return
    change = stored.event.state_change
    if kind_of(stored.event) != "state_change" or change.target_type != "FILE_SYSTEM":
        return
    if not check.begun and not change.content_sha256:
        found.why = GONE if after else NO_BASE
        return
    try:
        await check.check(stored.event)
        found.changes += 1
    except TreeNotMade as error:
        await _not_made(deps, run, stored, error, found, after)
    except (BadPatch, CannotRebuild, MissingContent) as error:
        found.first_bad = _fault(stored, str(error))
    except (BusUnavailable, ContentUnavailable, ActorError, OSError) as error:
        found.why = f"the change at sequence {row.seq} cannot be checked: {error}"


async def _not_made(
    deps: Dependencies, run: str, stored: StoredEvent, error: TreeNotMade, found: _Found, after: int
) -> None:
    """A tree that is not there: named by nobody before, or made by an earlier check whose cache was emptied since."""
    if not stored.event.agent_seq:
        found.skipped += 1  # by somebody without a chain, whose hashes need not be those of trees
    elif after and await _named_before(deps, run, error.tree, after):
        found.why = GONE
    else:
        found.first_bad = _fault(stored, str(error))


async def _named_before(deps: Dependencies, run: str, tree: str, until: int) -> bool:
    async for row in deps.store.run_events(run, until=until):
        if row.stored().event.state_change.new_state_hash == tree:
            return True
    return False


def _fault(stored: StoredEvent, why: str) -> Fault:
    event = stored.event
    return Fault(
        seq=stored.seq, agent_id=event.agent_id, agent_seq=event.agent_seq, why=f"event {event.event_id}: {why}"
    )
