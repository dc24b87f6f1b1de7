"""How long a run that is played rests between two events: as it was, idle gaps cut, some times as fast. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SPEED = 10.0
LONGEST_GAP = 2.0
SLOWEST, FASTEST = 0.01, 100_000.0
MOST_GAP = 3_600.0
"""Seconds that may be asked for as the longest gap."""
LONGEST_REST = 3_600.0
"""Seconds that anybody waits for one event, however slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """The rule that everybody plays by."""

    speed: float = SPEED
    """Times as fast as it was."""
    max_gap: float = LONGEST_GAP
    """Seconds of the run that a pause between two events is shown for at most, before the speed counts."""

    def rest(self, last: datetime | None, now: datetime) -> float:
        """Seconds to wait before an event of ``now`` when the one before was of ``last``; the first has none."""
        if last is None:
            return 0.0
        return min(LONGEST_REST, max(0.0, min(self.max_gap, (now - last).total_seconds())) / self.speed)


def said_at(event: Mapping[str, Any]) -> datetime:
    """When the event says it was, since an imported run came into the stream at once; else when the stream got it."""
    try:
        said = datetime.fromisoformat(event["timestamp"])
        return said if said.tzinfo else said.replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError):
        return datetime.fromisoformat(event["stream_time"])
