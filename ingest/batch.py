"""What is collected before it is written: full by rows, by bytes or by age. Pure; the time is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

SHORTEST_RETENTION = 31
"""Days; what the stream still has (30 days) would be written again by the reconciler."""


class Sized(Protocol):
    """Anything with a payload."""

    @property
    def payload(self) -> bytes: ...


Item = TypeVar("Item", bound=Sized)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """A batch is written when the first of these is reached."""

    rows: int = 10_000
    bytes: int = 8 * 1024**2
    seconds: float = 1.0
    """Age of its first item."""


class Batch(Generic[Item]):
    """Items in the order they came."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._first_at = 0.0
        self.items: list[Item] = []
        self.bytes = 0

    def add(self, item: Item, now: float) -> None:
        """Take one more; ``now`` is a monotonic clock in seconds."""
        if not self.items:
            self._first_at = now
        self.items.append(item)
        self.bytes += len(item.payload)

    @property
    def room(self) -> tuple[int, int]:
        """Rows and bytes that still fit."""
        return max(0, self._limits.rows - len(self.items)), max(0, self._limits.bytes - self.bytes)

    def is_due(self, now: float) -> bool:
        """Whether it should be written now; never while it is empty."""
        return bool(self.items) and (0 in self.room or self.wait(now) <= 0)

    def wait(self, now: float) -> float:
        """Seconds until its age makes it due; the whole age while it is empty."""
        return self._limits.seconds - (now - self._first_at) if self.items else self._limits.seconds
