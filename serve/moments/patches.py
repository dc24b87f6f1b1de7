"""`verify --deep`: every change of files of a run, laid onto the tree it begins at, leads to the tree it names."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enchanted.actors.errors import ActorError, BadPatch, CannotRebuild, MissingContent
from enchanted.actors.repository.patch_check import PatchCheck
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.schemas.links import Fault
from enchanted.serve.errors import BusUnavailable, ContentUnavailable, TooManyChecks
from enchanted.serve.moments.checked import Checked
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import EventRow

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
        self._keeping = asyncio.Lock()

    async def hold(self, run: str, *, after: int = 0, seconds: float) -> dict[str, Any]:
        """Check the changes after a sequence, in stream order, to the first that is false or for so many seconds.

        Raises:
            TooManyChecks: no place became free.
        """
        async with self._place():
            begun = time.monotonic()
            found = _Found(until=after)
            try:
                await self._go(run, found, after, begun + seconds)
            except OSError as error:
                found.why = f"there is no place for the trees: {error}"
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

    async def _go(self, run: str, found: _Found, after: int, end: float) -> None:
        """In a repository of its own: what other views, or other checks, made of the run is no proof."""
        checked = Checked(self._deps.cache, run)
        self._deps.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self._deps.cache, prefix="deep-") as scratch:
            folder = Path(scratch, "trees.git")
            if after:
                async with self._keeping:
                    there = await asyncio.to_thread(checked.take, after, folder)
                if not there:
                    found.why = GONE
                    return
            bus = self._deps.bus
            check = PatchCheck(folder, Path(scratch, "index"), fetch=bus.blob, inflate=bus.inflate)
            await self._walk(run, check, found, end)
            if found.first_bad is None:
                check.save()
                async with self._keeping:
                    await asyncio.to_thread(checked.keep, found.until, folder)

    async def _walk(self, run: str, check: PatchCheck, found: _Found, end: float) -> None:
        async for row in self._deps.store.run_events(run, after=found.until):
            await _take(check, row, found, end)
            if found.why or found.first_bad:
                return
            found.until = row.seq
            if time.monotonic() > end:
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
    check.within(max(SHORTEST, end - time.monotonic()))
    try:
        await check.check(stored.event)
        found.changes += 1
    except (BadPatch, CannotRebuild, MissingContent) as error:
        if stored.event.agent_seq:
            found.first_bad = _fault(stored, str(error))
        else:
            found.skipped += 1  # by somebody without a chain, whose hashes need not be those of trees
    except (BusUnavailable, ContentUnavailable, ActorError, OSError) as error:
        found.why = f"the change at sequence {row.seq} cannot be checked: {error}"


def _fault(stored: StoredEvent, why: str) -> Fault:
    event = stored.event
    return Fault(
        seq=stored.seq, agent_id=event.agent_id, agent_seq=event.agent_seq, why=f"event {event.event_id}: {why}"
    )
