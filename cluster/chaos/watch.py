"""What is looked at while a pipeline is struck: the table by a reader, and its processes. For tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from enchanted.cluster.chaos.load import Pair
from enchanted.cluster.chaos.pipeline import Pipeline
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.tables import connect

PAGE = os.sysconf("SC_PAGE_SIZE")
_NEW = 30_000
"""Sequences from the end that are looked at each time; the whole table seldom."""
_VISIBLE = "FROM events FINAL WHERE duplicate_of = 0"
_PARTS = "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() AND table = 'events'"
_CHUNK = 100_000

Away = (ClickHouseError, aiohttp.ClientError, OSError, TableUnavailable, TimeoutError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vital:
    """A process at one moment."""

    at: float
    pid: int
    resident: int
    """Bytes."""
    files: int
    """Open file descriptors."""


@dataclass
class Watch:
    """What was seen."""

    polls: int = 0
    whole: int = 0
    """Polls of the whole table."""
    failed: int = 0
    """Polls without an answer: the store was away."""
    twice: list[str] = field(default_factory=list)
    """Ids that were visible twice, with the moment."""
    rows: int = 0
    """Visible in the newest answer."""
    parts: list[tuple[float, int]] = field(default_factory=list)
    vitals: dict[str, list[Vital]] = field(default_factory=dict)

    def peak(self, part: str) -> int:
        """The most resident bytes a process of that part had."""
        return max((one.resident for one in self.vitals.get(part, ())), default=0)

    def growth(self, part: str, value: str) -> float:
        """A median of the last third of the samples over that of the second, in shares; 0.1 is a tenth more.

        The first third is left out: caches fill, and the stream's duplicate window.
        """
        values = [float(getattr(one, value)) for one in self.vitals.get(part, ())]
        third = len(values) // 3
        return statistics.median(values[2 * third :]) / statistics.median(values[third : 2 * third]) - 1

    def summary(self) -> str:
        """For people."""
        peaks = ", ".join(
            f"{part} {self.peak(part) / 2**20:.0f} MiB, {max(one.files for one in seen)} files"
            for part, seen in self.vitals.items()
            if seen
        )
        most = max((count for _, count in self.parts), default=0)
        return (
            f"{self.polls} polls ({self.whole} whole, {self.failed} unanswered), {len(self.twice)} twice; "
            f"at most {peaks}, {most} parts"
        )


@asynccontextmanager
async def watching(made: Pipeline, *, every: float = 0.2, whole_every: float = 5.0) -> AsyncIterator[Watch]:
    """A reader that looks at the table without pause, and a sampler of the processes, while the block lasts."""
    seen = Watch()
    tasks = [
        asyncio.create_task(_read_for_ever(made, seen, every, whole_every)),
        asyncio.create_task(_sample_for_ever(made, seen)),
    ]
    try:
        yield seen
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _read_for_ever(made: Pipeline, seen: Watch, every: float, whole_every: float) -> None:
    table: AsyncClient | None = None
    whole_at, highest = time.monotonic(), 0
    try:
        while True:
            whole = time.monotonic() - whole_at > whole_every
            try:
                table = table or await connect(made.store.url)
                async with asyncio.timeout(30):
                    highest = await _look(table, made, seen, 0 if whole else highest - _NEW)
                    seen.parts.append((time.monotonic() - made.begun, int(await _one(table, _PARTS))))
                whole_at = time.monotonic() if whole else whole_at
                seen.whole += whole
                seen.polls += 1
            except Away:
                seen.failed += 1
                if table is not None:
                    await table.close()
                table = None
            await asyncio.sleep(every)
    finally:
        if table is not None:
            await table.close()


async def _look(table: AsyncClient, made: Pipeline, seen: Watch, after: int) -> int:
    """Look for ids that are visible twice in rows above a sequence; returns the highest there is."""
    condition = f"{_VISIBLE} AND stream_seq > {max(0, after)}"
    asked = f"SELECT count(), uniqExact(event_id), max(stream_seq) {condition}"
    ((rows, ids, highest),) = (await table.query(asked)).result_rows
    if after <= 0:
        seen.rows = rows
    if rows != ids:
        listed = f"SELECT event_id, groupArray(stream_seq) {condition} GROUP BY event_id HAVING count() > 1 LIMIT 20"
        for event_id, seqs in (await table.query(listed)).result_rows:
            seen.twice.append(f"{event_id} at {seqs} after {time.monotonic() - made.begun:.1f} s")
        # A row that collapsed between the two answers is no id that can be named.
        seen.twice.append(f"{rows - ids} rows")
    return int(highest)


async def _one(table: AsyncClient, sql: str) -> Any:
    return (await table.query(sql)).result_rows[0][0]


async def _sample_for_ever(made: Pipeline, seen: Watch) -> None:
    while True:
        for part in ("worker", "store", "nats"):
            with contextlib.suppress(OSError, RuntimeError):
                seen.vitals.setdefault(part, []).append(vital(made.pid(part), time.monotonic() - made.begun))
        await asyncio.sleep(0.5)


def vital(pid: int, at: float) -> Vital:
    """A process now.

    Raises:
        OSError: there is none.
    """
    place = Path(f"/proc/{pid}")
    resident = int((place / "statm").read_text().split()[1]) * PAGE
    return Vital(at=at, pid=pid, resident=resident, files=sum(1 for _ in (place / "fd").iterdir()))


async def visible(made: Pipeline) -> Sequence[Pair]:
    """Every visible row: its id, and the SHA-256 ClickHouse makes of the bytes it gives back."""
    table = await connect(made.store.url)
    pairs: list[Pair] = []
    try:
        highest = int(await _one(table, "SELECT max(stream_seq) FROM events"))
        for first in range(0, highest + 1, _CHUNK):
            between = f"stream_seq BETWEEN {first} AND {first + _CHUNK - 1}"
            sql = f"SELECT event_id, SHA256(raw), payload_sha256 {_VISIBLE} AND {between}"
            answer = await table.query(sql, column_formats={"SHA256(raw)": "bytes"})
            for event_id, digest, told in answer.result_rows:
                assert digest.hex() == told, event_id
                pairs.append((event_id, digest))
    finally:
        await table.close()
    return pairs


async def stored(made: Pipeline) -> tuple[int, int]:
    """Rows of the table, and those that are later copies of an event id."""
    table = await connect(made.store.url)
    try:
        sql = "SELECT count(), countIf(duplicate_of != 0) FROM events FINAL"
        ((rows, copies),) = (await table.query(sql)).result_rows
        return int(rows), int(copies)
    finally:
        await table.close()
