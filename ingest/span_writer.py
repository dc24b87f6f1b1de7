"""Spans into ClickHouse, each once.

The table has the collector's columns and no sequence of ours, so a span is known by what it is: trace id and span id,
looked up where the sorting key puts it. That also finds a span that an exporter sent again hours later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from enchanted.ingest.errors import IngestError, RowRefused, TableUnavailable
from enchanted.ingest.predecessors import outlast
from enchanted.ingest.span_rows import COLUMNS, SpanRow, columns_of
from enchanted.ingest.tables import EXECUTION_DEADLINE, apply_ddl, connect, understood

MOST_DAYS = 64
"""Days, so parts, of one insert; ClickHouse refuses more than a hundred."""
LOOKED_UP = 10_000
"""Spans looked up at a time."""
_DAY = 86_400 * 1_000_000_000
_PRESENT = """
WITH places AS
(
    SELECT splitByChar(' ', arrayJoin(splitByChar('\\n', materialize('{places}')))) AS parts
)
SELECT concat(TraceId, SpanId) FROM spans
WHERE (ServiceName, SpanName, toDateTime(Timestamp)) IN
(
    SELECT unhex(parts[1]), unhex(parts[2]), toDateTime(fromUnixTimestamp64Nano(toInt64(parts[3]), 'UTC')) FROM places
)
  AND concat(TraceId, SpanId) IN (SELECT arrayJoin(splitByChar('\\n', materialize('{identities}'))))
"""


@dataclass(slots=True)
class SpansWritten:
    """What became of the spans of one batch."""

    inserted: int = 0
    present: int = 0
    """Were in the table already, or came twice."""
    refused: list[tuple[SpanRow, str]] = field(default_factory=list)
    """Spans ClickHouse does not take for what is in them, with why; their neighbours are in."""


class SpanWriter:
    """Writes to the table ``spans`` of one ClickHouse.

    Raises TableUnavailable when ClickHouse cannot be used now, and connects again when called next.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: AsyncClient | None = None
        self._has_written = False

    async def close(self) -> None:
        """Give the connections back. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ready(self) -> None:
        """Connect now, and make the tables where they are missing."""
        await self._connected()

    async def write(self, rows: Sequence[SpanRow], salt: str) -> SpansWritten:
        """Insert what is not there yet; returns when ClickHouse has confirmed it.

        ``salt`` is the same for another try of the same rows: one that ended without an answer may still be at work.
        """
        # A consumer that was made again calls what it delivers new; who has just begun may follow someone all the same.
        may_follow = not self._has_written or any(row.redelivered for row in rows)
        if may_follow and (left := await outlast("spans", self._asked)):
            raise TableUnavailable(f"insert {min(left)} into spans has been at work for {EXECUTION_DEADLINE} s")
        self._has_written = True
        written = SpansWritten()
        fresh: list[SpanRow] = []
        seen: set[str] = set()
        for part in _parts(rows):
            seen |= await self._present(part)
            for row in part:
                if row.identity not in seen:
                    seen.add(row.identity)
                    fresh.append(row)
        written.present = len(rows) - len(fresh)
        for batch in by_days(fresh):
            await self._split(batch, salt, written)
        return written

    async def _present(self, rows: Sequence[SpanRow]) -> set[str]:
        sql = lookup(rows)
        return await self._asked(sql, {"max_query_size": len(sql) + 1024})

    async def _asked(self, sql: str, settings: dict[str, Any] | None = None) -> set[str]:
        client = await self._connected()
        try:
            found = await client.query(sql, settings=settings)
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise await self._failed(error) from error
        return {str(one) for (one,) in found.result_rows}

    async def _split(self, rows: Sequence[SpanRow], salt: str, written: SpansWritten) -> None:
        """Insert, in halves where ClickHouse refuses."""
        try:
            await self._insert(rows, salt)
            written.inserted += len(rows)
        except RowRefused as error:
            if len(rows) == 1:
                written.refused.append((rows[0], str(error)))
                return
            half = len(rows) // 2
            await self._split(rows[:half], salt, written)
            await self._split(rows[half:], salt, written)

    async def _insert(self, rows: Sequence[SpanRow], salt: str) -> None:
        client = await self._connected()
        try:
            await client.insert(
                "spans",
                columns_of(rows),
                column_names=list(COLUMNS),
                column_type_names=list(COLUMNS.values()),
                column_oriented=True,
                settings={"async_insert": 0, "insert_deduplication_token": token(rows, salt)},
            )
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise await self._failed(error) from error

    async def _connected(self) -> AsyncClient:
        if self._client is None:
            client = await connect(self._url)
            try:
                await apply_ddl(client)
            except IngestError:
                await client.close()
                raise
            self._client = client
        return self._client

    async def _failed(self, error: Exception) -> IngestError:
        ours = understood(error)
        if not isinstance(ours, RowRefused):
            await self.close()
        return ours


def lookup(rows: Iterable[SpanRow]) -> str:
    """The query for those of the rows that are in the table: point reads by the sorting key."""
    places = {row.place for row in rows}
    lines = [f"{service.encode().hex()} {name.encode().hex()} {second}000000000" for service, name, second in places]
    return _PRESENT.format(places="\n".join(lines), identities="\n".join(row.identity for row in rows))


def by_days(rows: Sequence[SpanRow]) -> Iterator[list[SpanRow]]:
    """The rows as batches that touch at most MOST_DAYS partitions each."""
    batch: list[SpanRow] = []
    days: set[int] = set()
    for row in sorted(rows, key=lambda row: row.start):
        day = row.start // _DAY
        if day not in days and len(days) == MOST_DAYS:
            yield batch
            batch, days = [], set()
        days.add(day)
        batch.append(row)
    if batch:
        yield batch


def token(rows: Sequence[SpanRow], salt: str) -> str:
    """The same for the same spans and salt, so that an insert repeated unchanged is taken once."""
    digest = hashlib.sha256(salt.encode())
    for row in rows:
        digest.update(row.identity.encode())
    return digest.hexdigest()


def _parts(rows: Sequence[SpanRow]) -> Iterator[Sequence[SpanRow]]:
    for start in range(0, len(rows), LOOKED_UP):
        yield rows[start : start + LOOKED_UP]
