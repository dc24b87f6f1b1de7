"""What the scrub asks the table: its parts, whether they can be read, and what they hold.

ClickHouse answers a wrong checksum by trying every single bit of the block, which for a block of a megabyte takes ten
minutes that nothing can end. So bytes are read with `checksum_on_read = 0` first and judged by their SHA-256.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from enchanted.ingest.errors import IngestError, TableUnavailable
from enchanted.ingest.ranges import Span
from enchanted.ingest.scrub_report import DetachedPart
from enchanted.ingest.tables import connect, reason

CHUNK = 128 * 1024
"""Rows of a part that one question reads."""
_GRANULE = 8 * 1024
_BROKEN = frozenset(
    {3, 4, 6, 9, 23, 27, 32, 33, 39, 40, 74, 76, 87, 89, 91, 107, 117, 128, 131, 226, 227, 228, 246, 271, 361, 400, 432,
     531, 618, 740}
)  # fmt: skip
"""Errors of reading a file that is not as it was written."""
_NO_PART = 232
_MANY = 100_000
_UNCHECKED = {"checksum_on_read": 0, "apply_deleted_mask": 0}
"""Rows that somebody deleted count as well: they stay in their part until it is merged, which is no damage of it."""

_PARTS = """
SELECT name, rows, bytes_on_disk, modification_time FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'events' ORDER BY name
"""
_BEGINS = """
SELECT toUnixTimestamp(min_time) FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'events' AND name = {part:String}
"""
_DETACHED = """
SELECT name, ifNull(reason, ''), ifNull(bytes_on_disk, 0) FROM system.detached_parts
WHERE database = currentDatabase() AND table = 'events' ORDER BY name LIMIT 1000
"""
_EXPIRING = """
SELECT count() FROM system.tables
WHERE database = currentDatabase() AND name = 'events' AND engine_full LIKE '% TTL %'
"""
_SOUND = "lower(hex(SHA256(raw))) = payload_sha256"
_CHUNK_OF = "FROM events WHERE _part = {part:String} AND _part_offset BETWEEN {low:UInt64} AND {high:UInt64}"
_READ = f"SELECT count(), countIf(NOT ({_SOUND})), sum(cityHash64(*)) {_CHUNK_OF}"
_DAMAGED = f"""
SELECT stream_seq, payload_sha256, lower(hex(SHA256(raw))) {_CHUNK_OF}
AND NOT ({_SOUND}) ORDER BY stream_seq
"""
_SEQUENCES = f"SELECT stream_seq {_CHUNK_OF} ORDER BY stream_seq"
_ISLANDS = """
SELECT min(stream_seq), max(stream_seq) FROM (
    SELECT stream_seq, stream_seq - row_number() OVER (ORDER BY stream_seq) AS island FROM (
        SELECT DISTINCT stream_seq FROM events
        WHERE stream_created = {{created:DateTime64(6, 'UTC')}}
          AND stream_seq BETWEEN {{first:UInt64}} AND {{last:UInt64}} AND {condition}
    )
) GROUP BY island ORDER BY 1 LIMIT {{limit:UInt64}}
"""
_FORMER = """
SELECT count() FROM events WHERE _part = {part:String} AND stream_created != {created:DateTime64(6, 'UTC')}
"""
_ROWS = """
FROM events WHERE stream_created = {created:DateTime64(6, 'UTC')}
AND stream_seq BETWEEN {first:UInt64} AND {last:UInt64} AND _part NOT IN {parts:Array(String)}
"""
_TIMES = f"SELECT DISTINCT stream_seq, toUnixTimestamp64Micro(stream_time) AS time {_ROWS}"
_TIMES_SUM = f"SELECT count(), sum(time) FROM ({_TIMES})"
_HASHES = f"SELECT DISTINCT stream_seq, payload_sha256, toUnixTimestamp64Micro(stream_time) {_ROWS}"


@dataclass(frozen=True, slots=True)
class Part:
    """An active part of the table. It never changes, so its name and time stand for its content."""

    name: str
    rows: int
    bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Reading:
    """What a part's rows are when read again."""

    rows: int
    damaged: int
    """Rows whose bytes do not have their SHA-256."""
    digest: int
    """Of all columns."""


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row whose bytes do not have their SHA-256, or cannot be read: then neither hash is known."""

    seq: int
    recorded: str
    actual: str


class PartBroken(IngestError):
    """A part's files are not as they were written."""


class PartGone(IngestError):
    """The part has been merged into another, or dropped."""


class ScrubTable:
    """Every method raises TableUnavailable when ClickHouse cannot be used now, and connects again when called next."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: AsyncClient | None = None

    async def close(self) -> None:
        """Give the connections back. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def parts(self) -> list[Part]:
        """All that make up the table now; none before there is a table."""
        rows = await self._query(_PARTS)
        return [Part(str(name), int(count), int(size), modified) for name, count, size, modified in rows]

    async def detached(self) -> tuple[DetachedPart, ...]:
        """What lies beside the table; at most a thousand."""
        return tuple(DetachedPart(str(name), str(why), int(size)) for name, why, size in await self._query(_DETACHED))

    async def expiring(self) -> bool:
        """Whether rows go for their age."""
        return bool((await self._query(_EXPIRING))[0][0])

    async def begins(self, part: Part) -> int:
        """The second since 1970 of a part's oldest row, known without reading a column; 0 if the part is gone."""
        found = await self._query(_BEGINS, part=part.name)
        return int(found[0][0]) if found else 0

    async def read(self, part: Part, chunk: int) -> Reading:
        """Read some rows of a part, all columns, whatever the checksums say.

        Raises:
            PartBroken: they cannot be read.
        """
        ((rows, damaged, digest),) = await self._query(_READ, _UNCHECKED, part=part.name, **_bounds(chunk))
        return Reading(int(rows), int(damaged), int(digest))

    async def check(self, part: Part, seconds: float) -> None:
        """Compare every file of a part with its checksum.

        Raises:
            PartBroken: one differs, or the comparison did not end in time, as it does at a flipped bit.
            PartGone: it is not part of the table any more.
        """
        try:
            async with asyncio.timeout(seconds):
                client = await self._connected()
                said = await client.raw_query(f"CHECK TABLE events PART '{part.name}'", fmt="JSONCompactEachRow")
        except TimeoutError as error:
            await self.close()
            await self._query("SELECT 1")
            raise PartBroken(f"comparing its files with their checksums did not end in {seconds:.0f} s") from error
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise await self._failed(error) from error
        # The reason may quote the damaged bytes as they are.
        for line in said.decode(errors="replace").splitlines():
            _, passed, why = json.loads(line)
            if not int(passed):
                raise PartBroken(_short(why))

    async def damaged(self, part: Part) -> list[DamagedRow]:
        """The rows of a part that cannot be read or whose bytes do not have their SHA-256.

        Raises:
            PartBroken: that cannot be said.
        """
        found: list[DamagedRow] = []
        for low in range(0, part.rows, CHUNK):
            try:
                found += await self._damaged(part, low, CHUNK)
            except PartBroken:
                for granule in range(low, min(low + CHUNK, part.rows), _GRANULE):
                    found += await self._damaged_or_unreadable(part, granule)
        return sorted(found, key=lambda row: row.seq)

    async def _damaged(self, part: Part, low: int, size: int) -> list[DamagedRow]:
        rows = await self._query(_DAMAGED, _UNCHECKED, part=part.name, low=low, high=low + size - 1)
        return [DamagedRow(int(seq), str(recorded), str(actual)) for seq, recorded, actual in rows]

    async def _damaged_or_unreadable(self, part: Part, low: int) -> list[DamagedRow]:
        try:
            return await self._damaged(part, low, _GRANULE)
        except PartBroken:
            rows = await self._query(_SEQUENCES, part=part.name, low=low, high=low + _GRANULE - 1)
            return [DamagedRow(int(seq), "", "") for (seq,) in rows]

    async def former(self, part: Part, created: datetime) -> int:
        """How many rows of a part are of another stream.

        Raises:
            PartBroken: that cannot be said.
        """
        return int((await self._query(_FORMER, part=part.name, created=created))[0][0])

    async def held(self, part: Part, created: datetime) -> list[Span]:
        """Sequences of a part's rows.

        Raises:
            PartBroken: that cannot be said.
        """
        return await self._islands("_part = {part:String}", created, 0, 2**64 - 1, part=part.name)

    async def held_without(self, parts: Sequence[str], created: datetime, first: int, last: int) -> list[Span]:
        """Sequences of the rows that are in none of these parts."""
        return await self._islands("_part NOT IN {parts:Array(String)}", created, first, last, parts=list(parts))

    async def sound(self, parts: Sequence[str], created: datetime, first: int, last: int) -> list[Span]:
        """Sequences of the rows outside these parts whose bytes have their SHA-256."""
        condition = f"_part NOT IN {{parts:Array(String)}} AND {_SOUND}"
        return await self._islands(condition, created, first, last, parts=list(parts))

    async def times(self, parts: Sequence[str], created: datetime, first: int, last: int) -> list[tuple[int, int]]:
        """Sequence and microseconds since 1970 of all different rows outside these parts."""
        rows = await self._query(_TIMES, parts=list(parts), created=created, first=first, last=last)
        return [(int(seq), int(time)) for seq, time in rows]

    async def times_sum(self, parts: Sequence[str], created: datetime, first: int, last: int) -> tuple[int, int]:
        """How many, and the sum modulo 2**64: equal for equal times, and cheap."""
        ((count, total),) = await self._query(_TIMES_SUM, parts=list(parts), created=created, first=first, last=last)
        return int(count), int(total) % 2**64

    async def hashes(
        self, parts: Sequence[str], created: datetime, first: int, last: int
    ) -> dict[int, tuple[str, int]]:
        """Recorded SHA-256 and microseconds since 1970 by sequence, of the rows outside these parts."""
        rows = await self._query(_HASHES, parts=list(parts), created=created, first=first, last=last)
        return {int(seq): (str(digest), int(time)) for seq, digest, time in rows}

    async def detach(self, part: Part) -> None:
        """Set a part aside: its rows are gone from the table, its files stay beside it.

        Raises:
            PartGone: it is not part of the table any more.
        """
        client = await self._connected()
        try:
            await client.command(f"ALTER TABLE events DETACH PART '{part.name}'")
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise await self._failed(error) from error

    async def _islands(self, condition: str, created: datetime, first: int, last: int, **more: Any) -> list[Span]:
        bounds = {"created": created, "first": first, "last": last, "limit": _MANY}
        rows = await self._query(_ISLANDS.format(condition=condition), **bounds, **more)
        return [(int(low), int(high)) for low, high in rows]

    async def _query(self, sql: str, settings: Any = None, **parameters: Any) -> Sequence[Sequence[Any]]:
        client = await self._connected()
        try:
            return (await client.query(sql, parameters=parameters, settings=settings)).result_rows
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise await self._failed(error) from error

    async def _connected(self) -> AsyncClient:
        if self._client is None:
            self._client = await connect(self._url)
        return self._client

    async def _failed(self, error: Exception) -> Exception:
        if isinstance(error, DatabaseError) and error.code in _BROKEN:
            return PartBroken(_short(reason(error)))
        if isinstance(error, DatabaseError) and error.code == _NO_PART:
            return PartGone(reason(error))
        await self.close()
        return TableUnavailable(reason(error))


def _bounds(chunk: int) -> dict[str, int]:
    return {"low": chunk * CHUNK, "high": (chunk + 1) * CHUNK - 1}


def _short(why: str) -> str:
    """ClickHouse's reason without its advice on memory modules."""
    text = why.split("DB::Exception: ")[-1].split("This is most likely")[0].split(": While reading")[0]
    return text.strip().rstrip(".")[:300]
