"""A run at a sequence: from the nearest checkpoint, and the events since."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.fold import Fold, RunState, fold
from enchanted.serve.checkpoints import EVERY, Checkpoints, is_settled
from enchanted.serve.dependencies import Dependencies
from enchanted.serve.errors import EventCorrupted
from enchanted.serve.runs import find_run

HEADS = 10_000
"""Runs whose heads are remembered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seek:
    """A run at a sequence."""

    state: RunState
    events: Sequence[StoredEvent]
    """The events that were folded."""
    checkpoint: int = 0
    """The sequence that folding began after; 0 is the run's beginning."""


async def events_between(deps: Dependencies, run: str, after: int, until: int) -> list[StoredEvent]:
    """The run's events above a sequence and up to another, every one checked.

    Raises:
        EventCorrupted: one does not read back as it was stored, so nothing after it can be told.
    """
    found = []
    async for row in deps.store.run_events(run, after=after, until=until):
        if not row.sound:
            raise EventCorrupted(row.event_id, row.seq, row.sha256, sha256_hex(row.raw))
        try:
            found.append(row.stored())
        except NotAnEvent as error:
            raise EventCorrupted(row.event_id, row.seq, row.sha256, row.sha256) from error
    return found


class Seeker:
    """Finds runs at sequences, and makes checkpoints on the way."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._checkpoints = Checkpoints(deps.cache)
        self._heads: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def seek(self, run: str, at: int) -> Seek:
        """The run after every event up to ``at``.

        Raises:
            EventCorrupted, StoreUnavailable: see there.
        """
        start = await asyncio.to_thread(self._checkpoints.nearest, run, at)
        after = start.seq if start else 0
        events = await events_between(self._deps, run, after, at)
        if len(events) <= EVERY:
            return Seek(state=fold(events, start=start), events=events, checkpoint=after)
        state = await asyncio.to_thread(self._folded, run, start, events)
        return Seek(state=state, events=events, checkpoint=after)

    async def head(self, run: str) -> dict[str, Any]:
        """What `tagged` needs of a run, without counting it through when nothing was added.

        Raises:
            RunNotFound: nobody knows it.
        """
        known = self._heads.get(run)
        if known is not None:
            (bounds,) = await self._deps.store.rows("run_last", run=run)
            if bounds["last_seq"] == known["last_seq"]:
                return known
        found = await find_run(self._deps, run)
        self._heads[run] = {name: found[name] for name in ("closed", "closing_hash", "closing_seq", "last_seq")}
        while len(self._heads) > HEADS:
            self._heads.popitem(last=False)
        return self._heads[run]

    def _folded(self, run: str, start: RunState | None, events: Sequence[StoredEvent]) -> RunState:
        folding, now = Fold(start), datetime.now(UTC)
        for number, stored in enumerate(events, start=1):
            folding.add(stored)
            if number % EVERY == 0 and is_settled(state := folding.state(), now, self._deps.settled):
                self._checkpoints.add(run, state)
        return folding.state()
