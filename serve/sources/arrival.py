"""The moment between stream and table, about a second, which whoever acts on a run waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Iterable

from enchanted.ingest.worker import DURABLE
from enchanted.schemas.events import StoredEvent
from enchanted.serve.errors import BusUnavailable, TableBehind
from enchanted.serve.sources.dependencies import Dependencies

GRACE = 5.0
"""Seconds that what the stream took in may be on its way into the table."""
POLL = 0.1


async def arrived(deps: Dependencies, run: str, until: int) -> None:
    """Wait until the table has what the stream took in of a run by now, up to a sequence.

    Ingest acknowledges what it has inserted, so every event up to its acknowledgement is there. One that it cannot be
    rid of holds that back for all that come later: then the run's own events are looked up. Without the bus nobody
    knows, and what the table has is taken.

    Raises:
        TableBehind: it took longer than `GRACE`, or the bus went away meanwhile.
    """
    try:
        ends = await deps.bus.ends_of_run(run)
        if ends is None or await _acknowledged(deps) >= (wanted := min(until, ends[1])):
            return
    except BusUnavailable:
        return
    give_up = time.monotonic() + GRACE
    try:
        while time.monotonic() < give_up:
            await asyncio.sleep(POLL)
            if await _acknowledged(deps) >= wanted:
                return
        missing = await _missing(deps, run, wanted)
    except BusUnavailable as error:
        raise TableBehind(run, wanted, str(error)) from error
    if missing:
        raise TableBehind(
            run, wanted, f"the table lacks {len(missing)} of its events up to there, the first at {missing[0].seq}"
        )


async def _acknowledged(deps: Dependencies) -> int:
    return await deps.bus.acknowledged(DURABLE)


async def _missing(deps: Dependencies, run: str, until: int) -> list[StoredEvent]:
    stream = await deps.bus.read_run(run, until=until)
    rows = [(row.seq, row.event_id) async for row in deps.store.run_events(run, until=until)]
    return lacking({seq for seq, _ in rows}, {event_id for _, event_id in rows}, stream)


def lacking(seqs: Container[int], event_ids: set[str], stream: Iterable[StoredEvent]) -> list[StoredEvent]:
    """What the stream has and the table lacks; later copies of an event that is there are no loss."""
    copies = event_ids - {""}
    return [stored for stored in stream if stored.seq not in seqs and stored.event.event_id not in copies]
