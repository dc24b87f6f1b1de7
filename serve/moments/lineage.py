"""Where a fork's files came from: the logs of the runs it was forked from, as far as the table has them."""

from __future__ import annotations

from collections.abc import Sequence

from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.serve.errors import BusUnavailable, ContentUnavailable, EventCorrupted
from enchanted.serve.moments.seek import each_between
from enchanted.serve.queries.runs import parsed
from enchanted.serve.sources.dependencies import Dependencies

MOST_PARENTS = 16
"""Forks of forks that are followed."""
MOST_BYTES = 256 << 20
"""Of all their events together, which are held at once."""


async def ancestry(deps: Dependencies, events: Sequence[StoredEvent]) -> list[list[StoredEvent]]:
    """The log of each run that these events' files came from, the first run's first, up to where it was forked.

    It ends where a log is not in the table, does not read back, is too much, or brings no files from another.
    """
    found: list[list[StoredEvent]] = []
    left = MOST_BYTES
    while len(found) < MOST_PARENTS and (origin := _origin(events)) is not None:
        log, left = await _log(deps, *origin, left)
        if not log:
            break
        found.append(log)
        events = log
    return found[::-1]


async def _log(deps: Dependencies, run: str, until: int, most: int) -> tuple[list[StoredEvent], int]:
    """A run's events and how many of the ``most`` bytes are left; no events where they cannot all be had."""
    found = []
    try:
        async for stored in each_between(deps, run, 0, until):
            found.append(stored)
            if (most := most - stored.event.ByteSize()) < 0:
                return [], 0
    except (BusUnavailable, ContentUnavailable, EventCorrupted):
        return [], most
    return found, most


def _origin(events: Sequence[StoredEvent]) -> tuple[str, int] | None:
    """Run and sequence, if these events bring files from there."""
    if not any(stored.event.state_change.reason == "fork" for stored in events):
        return None
    steps = (one.event.run_transition for one in events if kind_of(one.event) == "run_transition")
    request = parsed(next((step.details for step in steps if step.subject == "run"), ""))
    if not isinstance(request, dict):
        return None
    run, at = request.get("forked_from"), request.get("forked_at")
    # Anybody may have written it; what went before has lower sequences, so no run leads back to itself.
    if not isinstance(run, str) or type(at) is not int or not 0 < at < events[0].seq:
        return None
    return run, at
