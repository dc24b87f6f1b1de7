"""Rows into ClickHouse, each once: at least once on the wire, exactly once in the table."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import lz4.frame
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from enchanted.ingest import wire
from enchanted.ingest.errors import IngestError, RowRefused
from enchanted.ingest.predecessors import outlast
from enchanted.ingest.rows import COLUMNS, Row, columns_of, read_row
from enchanted.ingest.single import REMEMBERED, WINDOW, YoungIds, id_made_at
from enchanted.ingest.tables import apply_ddl, connect, is_local, unavailable, understood
from enchanted.schemas.errors import NotAnEvent

log = logging.getLogger(__name__)

_HIGHEST = """
SELECT max(stream_seq), toUnixTimestamp64Micro(max(stream_time)) FROM events
WHERE stream_created = {created:DateTime64(6, 'UTC')}
"""
_YOUNG = """
SELECT event_id FROM events
WHERE event_id >= {oldest:String} AND match(event_id, '^[0-9a-f]{8}.[0-9a-f]{4}.7') AND lengthUTF8(event_id) = 36
ORDER BY event_id DESC LIMIT {limit:UInt32}
"""
_PRESENT = """
SELECT stream_seq FROM events
WHERE stream_created = {created:DateTime64(6, 'UTC')}
  AND stream_time BETWEEN {first:DateTime64(6, 'UTC')} AND {last:DateTime64(6, 'UTC')}
  AND stream_seq IN {seqs:Array(UInt64)}
"""
_FIRST_COPIES = """
SELECT event_id, min((stream_created, stream_seq, payload_sha256)) AS first,
       maxIf(stream_seq, stream_created = {{created:DateTime64(6, 'UTC')}}) AS last
FROM events WHERE duplicate_of = 0 AND event_id IN {ids}
GROUP BY event_id
"""
_VISIBLE = """
SELECT stream_seq, toUnixTimestamp64Micro(stream_time), hex(subject), hex(raw), payload_sha256 FROM events FINAL
WHERE stream_created = {{created:DateTime64(6, 'UTC')}} AND event_id IN {ids} AND duplicate_of = 0
SETTINGS use_skip_indexes_if_final_exact_mode = 0, optimize_move_to_prewhere_if_final = 0
"""
_OVERTAKEN_AT_ONCE = 200
"""Events whose later copies are read at a time, with their bytes."""
LATER = {"optimize_on_insert": 0, "materialize_skip_indexes_on_insert": 0}
"""What a merge does anyway; a part that is not merged yet is small enough to be read without its skip indexes."""
_LITERAL = re.compile(r"[\w.:\-\n]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Copy:
    created: datetime
    seq: int
    sha256: str
    last: int = 0
    """The highest sequence of this stream at which the event is visible too."""

    @property
    def place(self) -> tuple[datetime, int]:
        return self.created, self.seq


@dataclass(slots=True)
class Written:
    """What became of the rows of one batch."""

    inserted: int = 0
    present: int = 0
    """Were in the table already."""
    duplicates: int = 0
    """Inserted as later copies of an event id."""
    conflicting: int = 0
    """Later copies whose bytes differ from the first."""
    refused: list[tuple[Row, str]] = field(default_factory=list)
    """Rows ClickHouse does not take for what is in them, with why; their neighbours are in."""

    def mark(self, row: Row, first: _Copy) -> None:
        """Count a row as a later copy."""
        self.duplicates += 1
        if first.sha256 != row.sha256:
            self.conflicting += 1
            log.warning("event %s: message %d differs from its first copy %d", row.event_id, row.seq, first.seq)
        row.duplicate_of = first.seq


@dataclass(frozen=True, slots=True)
class Target:
    """Which stream the rows are of."""

    created: datetime
    salt: str = ""
    """Makes the token of an insert its own."""


_Way = Callable[[Sequence[Row], Target], Awaitable[None]]


class Writer:
    """Writes batches to the table ``events`` of one ClickHouse.

    Every method raises TableUnavailable when ClickHouse cannot be used now, and connects again when called next.
    """

    def __init__(self, url: str, *, local: bool | None = None) -> None:
        """``local``: whether rows travel within one machine; by default what the URL says."""
        self._url = url
        self._client: AsyncClient | None = None
        self._young = YoungIds()
        # Within one machine compression costs more than it saves.
        self._local = is_local(url) if local is None else local

    async def close(self) -> None:
        """Give the connections back. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def begin(self, stream_created: datetime) -> int:
        """Look at what is there before the first `write` of a subscription; the highest sequence, 0 for none."""
        await outlast("events", self._ids)
        ((highest, micros),) = await self._query(_HIGHEST, {"created": stream_created})
        newest = int(micros) if highest else int(stream_created.timestamp() * 1_000_000)
        bounds = {"oldest": id_made_at(newest - 2 * WINDOW), "limit": REMEMBERED + 1}
        self._young = YoungIds(event_id for (event_id,) in await self._query(_YOUNG, bounds))
        return int(highest)

    async def write(self, rows: Sequence[Row], stream_created: datetime, *, again: bool) -> Written:
        """Insert what is not there yet; returns when ClickHouse has confirmed it.

        ``again``: an earlier try of these rows ended without an answer, so any of them may be there.
        """
        written = Written()
        ordered = sorted(rows, key=lambda row: row.seq)
        for row in ordered:
            row.duplicate_of = 0
        if any(row.redelivered for row in rows):
            await outlast("events", self._ids)
        present = await self._present([row for row in ordered if again or row.redelivered], stream_created)
        fresh, overtaken = await self._marked(ordered, present, stream_created, written)
        written.present = len(ordered) - len(fresh)
        # What was looked up is not there. A token would swallow it: ClickHouse keeps those of rows deleted since.
        target = Target(stream_created, secrets.token_hex(8) if again else "")
        if overtaken:
            await self._overtake_all(overtaken, fresh, stream_created, written)
            fresh = [row for row in fresh if row.event_id not in overtaken or row.duplicate_of]
        if fresh:
            await self._insert(fresh, target, written)
        return written

    async def _ids(self, sql: str) -> set[str]:
        return {str(one) for (one,) in await self._query(sql)}

    async def settle(self, event_ids: Collection[str], stream_created: datetime) -> int:
        """Of events that are visible at several sequences of a stream leave the first; returns how many rows it hides.

        Two workers that are given copies of one event at the same time may each insert theirs as the first.
        """
        first = await self._first_copies(event_ids, stream_created)
        written = Written()
        await self._overtake_all(first, [], stream_created, written)
        return written.duplicates

    async def _present(self, suspects: Sequence[Row], stream_created: datetime) -> set[int]:
        if not suspects:
            return set()
        times = [row.time for row in suspects]
        seqs = [row.seq for row in suspects]
        bounds = {"created": stream_created, "first": min(times), "last": max(times), "seqs": seqs}
        found = await self._query(_PRESENT, bounds)
        return {int(seq) for (seq,) in found}

    async def _marked(
        self, rows: Sequence[Row], present: Collection[int], stream_created: datetime, written: Written
    ) -> tuple[list[Row], dict[str, _Copy]]:
        """What is not in the table, later copies of an event id marked; and first copies that came after a later one.

        The latter happens when a worker dies: what it held is delivered again after what came since.
        """
        asked = [row for row in rows if row.event_id and not self._is_single(row)]
        if not asked:
            return [row for row in rows if row.seq not in present], {}
        first = await self._first_copies({row.event_id for row in asked}, stream_created)
        fresh: list[Row] = []
        overtaken: dict[str, _Copy] = {}
        for row in rows:
            own = _Copy(stream_created, row.seq, row.sha256)
            known = first.setdefault(row.event_id, own) if row.event_id else own
            here = known.created == stream_created
            same = known is not own and known.place == own.place
            there = same or row.seq in present
            if here and known.last > row.seq and (same or (known.seq > row.seq and not there)):
                overtaken[row.event_id] = first[row.event_id] = known = own
            if there:
                continue
            if known.place != own.place:
                written.mark(row, known)
            fresh.append(row)
        for row in asked:
            # The others the stream guards: a copy it takes all the same is not single, and finds them in the table.
            if not row.single:
                self._young.add(row.event_id, row.micros)
        return fresh, overtaken

    def _is_single(self, row: Row) -> bool:
        return row.single and not row.redelivered and not self._young.may_have(row.event_id, row.micros)

    async def _first_copies(self, ids: Collection[str], stream_created: datetime) -> dict[str, _Copy]:
        found = await self._about(_FIRST_COPIES, ids, stream_created)
        return {
            event_id: _Copy(_aware(created), int(seq), sha256, int(last))
            for event_id, (created, seq, sha256), last in found
        }

    async def _about(self, sql: str, ids: Collection[str], stream_created: datetime) -> Sequence[Sequence[Any]]:
        """The answer to a question about events."""
        if not ids:
            return ()
        parameters: dict[str, Any] = {"created": stream_created}
        joined = "\n".join(ids)
        if _LITERAL.fullmatch(joined) and joined.count("\n") == len(ids) - 1:
            # One literal is read in a tenth of the time that an array of as many takes.
            asked = sql.format(ids=f"(SELECT arrayJoin(splitByChar('\n', materialize('{joined}'))))")
            return await self._query(asked, parameters, {"max_query_size": len(asked) + 1024})
        return await self._query(sql.format(ids="{ids:Array(String)}"), parameters | {"ids": sorted(ids)})

    async def _overtake_all(
        self, first: Mapping[str, _Copy], fresh: Sequence[Row], stream_created: datetime, written: Written
    ) -> None:
        """Insert what of ``fresh`` is a first copy of these events, and hide the later ones that are visible."""
        # Never swallowed as a repetition: what it hides may have come in again since.
        target = Target(stream_created, secrets.token_hex(8))
        known = {row.seq for row in fresh}
        ids = list(first)
        for start in range(0, len(ids), _OVERTAKEN_AT_ONCE):
            some = {event_id: first[event_id] for event_id in ids[start : start + _OVERTAKEN_AT_ONCE]}
            own = [row for row in fresh if row.event_id in some and not row.duplicate_of]
            later = await self._later(some, stream_created, known)
            if own or later:
                await self._overtake(own, [row for row, _ in later], target, written)
            for row, copy in later:
                written.mark(row, copy)

    async def _overtake(self, own: Sequence[Row], later: Sequence[Row], target: Target, written: Written) -> None:
        """Both in one block: within a month no reader sees both copies of an event, or neither."""
        try:
            await self._insert_values([*own, *later], target)
            written.inserted += len(own)
        except RowRefused as error:
            log.warning("ClickHouse refuses first copies that came late, they are tried one by one: %s", error)
            for row in own:
                try:
                    await self._insert_values([row, *(one for one in later if one.event_id == row.event_id)], target)
                    written.inserted += 1
                except RowRefused as refused:
                    written.refused.append((row, str(refused)))

    async def _later(
        self, first: Mapping[str, _Copy], created: datetime, known: Collection[int]
    ) -> list[tuple[Row, _Copy]]:
        """The later copies that are visible, each with the first."""
        found: list[tuple[Row, _Copy]] = []
        for seq, micros, subject, raw, digest in await self._about(_VISIBLE, first.keys(), created):
            name = bytes.fromhex(subject).decode(errors="surrogateescape")
            try:
                row = read_row(int(seq), int(micros), name, bytes.fromhex(raw), redelivered=True)
            except NotAnEvent:
                continue
            copy = first.get(row.event_id)
            # Damaged bytes are the scrub's: a row made of them would say that they are whole.
            if copy and row.sha256 == digest and (created, row.seq) > copy.place and row.seq not in known:
                row.duplicate_of = copy.seq
                found.append((row, copy))
        return found

    async def _insert(self, rows: Sequence[Row], target: Target, written: Written) -> None:
        plain = [row for row in rows if row.plain]
        if plain:
            await self._split(plain, target, written, self._insert_plain)
        if len(plain) < len(rows):
            await self._split([row for row in rows if not row.plain], target, written, self._insert_values)

    async def _split(self, rows: Sequence[Row], target: Target, written: Written, way: _Way) -> None:
        """Insert in one way, in halves where ClickHouse refuses; a plain row it refuses still has the other way."""
        try:
            await way(rows, target)
            written.inserted += len(rows)
        except RowRefused as error:
            if len(rows) == 1 and way == self._insert_plain:
                await self._split(rows, target, written, self._insert_values)
                return
            if len(rows) == 1:
                written.refused.append((rows[0], str(error)))
                return
            log.warning("ClickHouse refuses a batch of %d rows, it is split: %s", len(rows), error)
            half = len(rows) // 2
            await self._split(rows[:half], target, written, way)
            await self._split(rows[half:], target, written, way)

    async def _insert_plain(self, rows: Sequence[Row], target: Target) -> None:
        client = await self._connected()
        settings = {**wire.SETTINGS, **LATER, **_once(rows, target)}
        try:
            if self._local:
                block, into = wire.block(rows), wire.target(target.created)
                await client.raw_insert(into, insert_block=block, settings=settings, fmt=wire.FORMAT)
            else:
                whole = lz4.frame.compress(wire.body(rows, wire.insert(target.created)))
                await client.raw_insert(insert_block=whole, settings=settings, compression="lz4")
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise await self._failed(error) from error

    async def _insert_values(self, rows: Sequence[Row], target: Target) -> None:
        client = await self._connected()
        try:
            await client.insert(
                "events",
                columns_of(rows, target.created),
                column_names=list(COLUMNS),
                column_type_names=list(COLUMNS.values()),
                column_oriented=True,
                settings=_once(rows, target),
            )
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise await self._failed(error) from error

    async def _query(self, sql: str, parameters: Any = None, settings: Any = None) -> Sequence[Sequence[Any]]:
        client = await self._connected()
        try:
            return (await client.query(sql, parameters=parameters, settings=settings)).result_rows
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            await self.close()
            # Nothing in a question is about our rows: whatever ClickHouse cannot read is its own.
            raise unavailable(error) from error

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


def _once(rows: Sequence[Row], target: Target) -> dict[str, Any]:
    return {"async_insert": 0, "insert_deduplication_token": token(rows, target)}


def token(rows: Sequence[Row], target: Target) -> str:
    """The same for the same rows of the same stream, so that an insert repeated unchanged is taken once."""
    digest = hashlib.sha256(f"{target.created.isoformat()}{target.salt}".encode())
    digest.update(",".join(str(row.seq) for row in rows).encode())
    return digest.hexdigest()


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
