"""The moment between stream and table, about a second: waited for by whoever acts on a run, and kept out of proofs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from enchanted.ingest.worker import DURABLE
from enchanted.serve.errors import BusUnavailable, TableBehind
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.store import LAST_SEQ, EventRow

GRACE = 5.0
"""Seconds that what the stream took in may be on its way into the table."""
POLL = 0.1


@dataclass(frozen=True, slots=True)
class Horizon:
    """As far as the table was looked at: rows beyond it came later, maybe before earlier ones."""

    seq: int
    created: datetime
    """Of the stream that ``seq`` counts in; rows of an older one of its name count otherwise."""

    def holds(self, row: EventRow) -> bool:
        """The row is not of later."""
        return row.seq <= self.seq or row.time < self.created


EVERYTHING = Horizon(LAST_SEQ, datetime(1970, 1, 1, tzinfo=UTC))


async def arrived(bus: BusLink, run: str, until: int) -> Horizon:
    """Wait until the table has what the stream took in of a run by now, up to a sequence; how far it is whole then.

    Ingest acknowledges what it has inserted, so every event up to its acknowledgement is there. Without the bus
    nobody knows, and what the table has is taken.

    Raises:
        TableBehind: it took longer than `GRACE`.
    """
    try:
        created = (await bus.stream_info()).created
        ends = await bus.ends_of_run(run)
        if ends is None:
            return EVERYTHING
        wanted, give_up = min(until, ends[1]), time.monotonic() + GRACE
        while (whole := await bus.acknowledged(DURABLE)) < wanted:
            if time.monotonic() > give_up:
                raise TableBehind(run, wanted, whole)
            await asyncio.sleep(POLL)
    except BusUnavailable:
        return EVERYTHING
    return Horizon(whole, created)
