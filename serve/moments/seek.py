"""A run at a sequence: from the nearest checkpoint, and the events since."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from enchanted.bus.fields import FILES
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.fold import Folding, RunState, fold
from enchanted.serve.errors import EventCorrupted
from enchanted.serve.moments.checkpoints import EVERY, Checkpoints, is_settled
from enchanted.serve.moments.places import BELIEVED, Counting, Places
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.dependencies import Dependencies

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seek:
    """A run at a sequence."""

    run: str
    at: int
    """What was asked for."""
    state: RunState
    checkpoint: int = 0
    """The sequence that folding began after; 0 is the run's beginning."""


async def events_between(deps: Dependencies, run: str, after: int, until: int) -> list[StoredEvent]:
    """The same as `each_between`, all of them at once."""
    return [stored async for stored in each_between(deps, run, after, until)]


async def each_between(deps: Dependencies, run: str, after: int, until: int) -> AsyncIterator[StoredEvent]:
    """The run's events above a sequence and up to another, every one checked.

    Raises:
        EventCorrupted: one does not read back as it was stored, so nothing after it can be told.
        BusUnavailable, ContentUnavailable: the list of files of a very large change is in the object store alone.
    """
    async for row in deps.store.run_events(run, after=after, until=until):
        if not row.sound:
            raise EventCorrupted(row.event_id, row.seq, row.sha256, sha256_hex(row.raw))
        try:
            stored = row.stored()
        except NotAnEvent as error:
            raise EventCorrupted(row.event_id, row.seq, row.sha256, row.sha256) from error
        yield await _with_files(deps, stored)


async def _with_files(deps: Dependencies, stored: StoredEvent) -> StoredEvent:
    """A list of files too long for its event is in the object store; without it no state can be told."""
    if not any(blob.field == FILES for blob in stored.event.blobs):
        return stored
    return replace(stored, event=await deps.bus.inflate(stored.event))


class Seeker:
    """Finds runs at sequences, and makes checkpoints on the way."""

    def __init__(self, deps: Dependencies, *, every: int = EVERY, believed: float = BELIEVED) -> None:
        """``every``: events from one checkpoint to the next.

        ``believed``: seconds for which checkpoints are held against one count of their run.
        """
        self._deps = deps
        self._every = every
        self._checkpoints = Checkpoints(deps.cache)
        self._counting = Counting(deps.store, every, believed)
        self._turn = threading.Lock()
        """Checkpoints are read and written in threads."""

    async def seek(self, run: str, at: int) -> Seek:
        """The run after every event up to ``at``.

        Raises:
            RunNotFound: nobody knows the run.
            EventCorrupted, StoreUnavailable: see there.
        """
        places = await self._counting.places(run) if await asyncio.to_thread(self._has_any, run) else None
        start, known = await asyncio.to_thread(self._from_cache, run, at, places)
        if known is None:
            read = await events_between(self._deps, run, start.seq, at)
            state = await asyncio.to_thread(self._folded, run, start, read)
        else:
            state = fold(known, start=start)
        if not state.seq:
            await find_run(self._deps, run)
        return Seek(run=run, at=at, state=state, checkpoint=start.seq)

    async def changes(self, *seeks: Seek) -> list[StoredEvent]:
        """The events that were folded for these, whole."""
        found = [await events_between(self._deps, one.run, one.checkpoint, one.state.seq) for one in seeks]
        return [stored for events in found for stored in events]

    def stops(self, run: str) -> Sequence[int]:
        """The sequences of the run's checkpoints, ascending."""
        return self._checkpoints.seqs(run)

    def _has_any(self, run: str) -> bool:
        with self._turn:
            return bool(self._checkpoints.seqs(run))

    def _from_cache(self, run: str, at: int, places: Places | None) -> tuple[RunState, list[StoredEvent] | None]:
        with self._turn:
            start = self._checkpoints.nearest(run, at, places)
            return start, self._checkpoints.following(run, start, at, places)

    def _keep(self, run: str, since: int, events: Sequence[StoredEvent], state: RunState) -> None:
        try:
            with self._turn:
                self._checkpoints.add(run, since, events, state)
        except OSError as error:
            log.warning("a checkpoint of %s could not be kept, seeks take longer: %s", run, error)

    def _folded(self, run: str, start: RunState, events: Sequence[StoredEvent]) -> RunState:
        folding, now, begun = Folding(start), datetime.now(UTC), 0
        since = start.seq
        for number, stored in enumerate(events, start=1):
            folding.add(stored)
            if number % self._every == 0 and is_settled(state := folding.state(), now, self._deps.settled):
                self._keep(run, since, events[begun:number], state)
                since, begun = state.seq, number
        return folding.state()
