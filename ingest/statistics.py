"""What a worker has done, as numbers. Pure; the time is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

WINDOW = 60
"""Seconds over which the rate is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatistics:
    """What a worker has done since it was started."""

    seconds: float = 0.0
    """How long that is."""
    batches: int = 0
    messages: int = 0
    """Taken in all batches; one that comes again counts again."""
    last_batch: int = 0
    """Messages of the latest batch."""
    inserts: int = 0
    """Writes that the table confirmed."""
    insert_seconds: float = 0.0
    """All of them together took so long, with looking up what is there already."""
    last_insert_seconds: float = 0.0
    rows_per_second: float = 0.0
    """Over the last WINDOW seconds, or since the start where that is less."""
    dead_letters: int = 0
    present: int = 0
    """Delivered again although they were in the table: dropped."""
    retries: int = 0
    rebuilds: int = 0
    """How often the consumer was made again because it had fallen silent."""
    last_seq: int = 0
    last_error: str = ""

    @property
    def stored(self) -> int:
        """Rows inserted."""
        return 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON. The text of an error stays here: it may say more than whoever asks should know."""
        return {
            "seconds": round(self.seconds, 1),
            "rows": self.stored,
            "rows_per_second": round(self.rows_per_second, 1),
            "batches": self.batches,
            "mean_batch": round(self.messages / max(1, self.batches), 1),
            "last_batch": self.last_batch,
            "mean_insert_seconds": round(self.insert_seconds / max(1, self.inserts), 4),
            "last_insert_seconds": round(self.last_insert_seconds, 4),
            "present": self.present,
            "dead_letters": self.dead_letters,
            "retries": self.retries,
            "rebuilds": self.rebuilds,
        }


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rows by the second in which they were written, of the last WINDOW seconds; never changed, so threads share it."""

    begun: float
    """When counting began, on the clock that all times here are of."""
    seconds: tuple[tuple[int, int], ...] = ()

    def plus(self, rows: int, now: float) -> Self:
        """With rows written now."""
        second = int(now)
        kept = tuple(one for one in self.seconds if one[0] > second - WINDOW)
        if kept and kept[-1][0] == second:
            rows, kept = rows + kept[-1][1], kept[:-1]
        return type(self)(self.begun, (*kept, (second, rows)))

    def per_second(self, now: float) -> float:
        """Rows per second over the last WINDOW seconds, or since the beginning where that is less."""
        rows = sum(rows for second, rows in self.seconds if second > int(now) - WINDOW)
        return rows / min(WINDOW, max(1.0, now - self.begun))
