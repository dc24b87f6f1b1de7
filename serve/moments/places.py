"""Where a run's events are, counted: tells a state of all of them from one that was kept while rows were away."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from enchanted.serve.errors import StoreUnavailable
from enchanted.serve.sources.store import Store

BELIEVED = 10.0
"""Seconds after which a run's events are counted anew: of a hundred thousand that takes longer than a seek."""
REMEMBERED = 32
"""Runs whose counts are in memory."""


@dataclass(frozen=True, slots=True)
class Places:
    """The sequences of every so many-th event of a run."""

    every: int
    seqs: Sequence[int]

    def among(self, seq: int) -> bool:
        """Whether a state at this sequence can have all events before it."""
        place = bisect_left(self.seqs, seq)
        return place < len(self.seqs) and self.seqs[place] == seq

    def fit(self, events: int, seq: int) -> bool:
        """Whether a run has so many events up to a sequence, the last of them there."""
        place, rest = divmod(events, self.every)
        return not rest and 0 < place <= len(self.seqs) and self.seqs[place - 1] == seq


class Counting:
    """Asks the table for places, seldom, and once for all who want to know."""

    def __init__(self, store: Store, every: int, believed: float = BELIEVED) -> None:
        self._store = store
        self._every = every
        self._believed = believed
        self._asked: OrderedDict[str, tuple[float, asyncio.Task[Places | None]]] = OrderedDict()

    async def places(self, run: str) -> Places | None:
        """Those of a run; None while the table cannot be asked."""
        begun, answer = self._asked.get(run, (0.0, None))
        if answer is None or time.monotonic() - begun > self._believed:
            answer = asyncio.create_task(self._ask(run))
            self._asked[run] = time.monotonic(), answer
            self._asked.move_to_end(run)
            while len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
        return await asyncio.shield(answer)

    async def _ask(self, run: str) -> Places | None:
        try:
            (row,) = await self._store.rows("run_places", run=run, every=self._every)
        except StoreUnavailable:
            return None
        return Places(self._every, row["places"])
