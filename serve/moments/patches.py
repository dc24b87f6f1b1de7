"""`verify --deep`: every change of files of a run, laid onto the tree it begins at, leads to the tree it names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from enchanted.actors.errors import OF_THE_LOG, ActorError, GitFailed
from enchanted.actors.repository.patch_check import PatchCheck
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.schemas.links import Fault
from enchanted.serve.errors import BusUnavailable, ContentUnavailable, TooManyChecks
from enchanted.serve.moments.checked import Checked, scratch
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import EventRow

log = logging.getLogger(__name__)

NO_BASE = "the run names no base bundle, so there is nothing that its patches could be laid onto"
GONE = "what was made of the run so far is no longer in the cache; begin again with after=0"
AT_ONCE = 2
"""Checks of one process: each keeps a core busy."""
WAIT = 20.0
"""Seconds that another one waits for a place."""
SHORTEST = 10.0
"""Seconds that a command of git may take at least, however little is left of the request."""


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


class PatchChecks:
    """The checks of this process, so many at a time."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._places = asyncio.Semaphore(AT_ONCE)

    async def hold(self, run: str, *, after: int = 0, seconds: float) -> dict[str, Any]:
        """Check the changes after a sequence, in stream order, to the first that is false or for so many seconds.

        Raises:
            TooManyChecks: no place became free.
        """
        async with self._place():
            begun = monotonic()
            found = _Found(until=after)
            try:
                await self._go(run, found, seconds)
            except OSError as error:
                found.why = f"there is no place for the trees: {error}"
        return {
            "run_id": run,
            "intact": found.intact,
            "whole": found.whole,
            "changes": found.changes,
            "skipped": found.skipped,
            "until": found.until,
            "seconds": round(monotonic() - begun, 3),
            "why": found.why,
            "first_bad": asdict(found.first_bad) if found.first_bad else None,
        }

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(WAIT):
                await self._places.acquire()
        except TimeoutError as error:
            raise TooManyChecks(AT_ONCE) from error
        try:
            yield
        finally:
            self._places.release()

    async def _go(self, run: str, found: _Found, seconds: float) -> None:
        """In a repository of its own: what other views, or other checks, made of the run is no proof."""
        checked, bus = Checked(self._deps.cache, run), self._deps.bus
        after = found.until
        async with scratch(self._deps.cache) as room:
            folder = room / "trees.git"
            if after and not await asyncio.to_thread(checked.take, after, folder):
                found.why = GONE
                return
            check = await asyncio.to_thread(PatchCheck, folder, room / "index", fetch=bus.blob, inflate=bus.inflate)
            # What getting there took is none of the seconds to check for: each request comes further.
            await self._walk(run, check, found, monotonic() + seconds)
            if found.first_bad is None and found.until > after:
                await asyncio.to_thread(_keep, check, checked, found.until)

    async def _walk(self, run: str, check: PatchCheck, found: _Found, end: float) -> None:
        async for row in self._deps.store.run_events(run, after=found.until):
            await _take(check, row, found, end)
            if found.why or found.first_bad:
                return
            found.until = row.seq
            if monotonic() > end:
                return
        found.whole = True


async def _take(check: PatchCheck, row: EventRow, found: _Found, end: float) -> None:
    """Check one event, by that time of the clock or soon after, and say in ``found`` what came of it."""
    try:
        stored = row.stored()
    except NotAnEvent as error:
        found.first_bad = Fault(seq=row.seq, agent_id="", agent_seq=0, why=str(error))
        return
    change = stored.event.state_change
    if kind_of(stored.event) != "state_change" or change.target_type != "FILE_SYSTEM":
        return
    if not check.begun and not change.content_sha256:
        found.why = NO_BASE
        return
    check.within(max(SHORTEST, end - monotonic()))
    try:
        await check.check(stored.event)
        found.changes += 1
    except OF_THE_LOG as error:
        if stored.event.agent_seq:
            found.first_bad = _fault(stored, str(error))
        else:
            found.skipped += 1  # by somebody without a chain, whose hashes need not be those of trees
    except (BusUnavailable, ContentUnavailable, ActorError, OSError) as error:
        found.why = f"the change at sequence {row.seq} cannot be checked: {error}"


def _keep(check: PatchCheck, checked: Checked, seq: int) -> None:
    """Where that fails the verdict stands, and whoever goes on from here begins again."""
    try:
        check.save()
        checked.keep(seq, check.folder)
    except (OSError, GitFailed) as error:
        log.warning("what a check of patches has made up to sequence %d is not kept: %s", seq, error)


def _fault(stored: StoredEvent, why: str) -> Fault:
    event = stored.event
    return Fault(
        seq=stored.seq, agent_id=event.agent_id, agent_seq=event.agent_seq, why=f"event {event.event_id}: {why}"
    )
