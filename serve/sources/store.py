"""Reads from ClickHouse: named queries of ``sql/``, bound parameters, a deadline on each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from types import TracebackType
from typing import Any, Self

import aiohttp
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from enchanted.ingest.errors import IngestError
from enchanted.ingest.tables import connect, reason
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent, parse_event
from enchanted.serve.errors import SqlFailed, StoreExhausted, StoreSlow, StoreUnavailable, TooMuchAsked
from enchanted.serve.sources.parameters import microseconds

QUERY_DEADLINE = 15.0
"""Seconds a read may take before it is answered with 503."""
PAGE = 2_000
"""Rows fetched at a time when a whole run is read."""
PAGE_BYTES = 32 << 20
"""Of the rows of one answer: a thousand events may have a gigabyte."""
LAST_SEQ = 2**64 - 1
_FINAL = {"use_skip_indexes_if_final_exact_mode": 0, "do_not_merge_across_partitions_select_final": 1}
"""With FINAL, ClickHouse reads every granule that might hold another copy of a row, and merges all partitions. Copies
of one of our rows differ in `duplicate_of`, and in how `body` is kept, alone: an index or a PREWHERE on anything else
leaves all or none of them, and their time is the same, so their partition is. Those two are asked for in WHERE, which
comes after the merge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRow:
    """An event as the table holds it."""

    seq: int
    time: datetime
    subject: str
    event_id: str
    sha256: str
    """Recorded when the event was ingested."""
    raw: bytes

    @property
    def sound(self) -> bool:
        """The bytes are the ones that were ingested."""
        return sha256_hex(self.raw) == self.sha256

    @property
    def behind(self) -> dict[str, int]:
        """What a named query binds to go on behind this row: a stream that was made again may have a second event of
        its sequence."""
        return {"after": self.seq - 1, "edge": self.seq, "later": microseconds(self.time)}

    def stored(self) -> StoredEvent:
        """The row as the stream held it.

        Raises:
            NotAnEvent: the bytes were damaged so far that protobuf rejects them.
        """
        return StoredEvent(
            seq=self.seq, time=self.time, subject=self.subject, raw=self.raw, event=parse_event(self.raw)
        )


_NOT_THE_STATEMENTS = frozenset({192, 193, 194, 202, 203, 209, 210, 236, 279, 516, 439})
"""ClickHouse's codes for a login that is refused, too many queries, and a server that cannot go on."""
_TOO_MUCH = frozenset({158, 191, 307, 396})
"""ClickHouse's codes for more rows or bytes than a query's settings allow."""
_MEMORY = 241
"""ClickHouse's code for too little memory: its own, or what a query's settings give it."""
_OWN_WORDS = re.compile(r"Code: \d+\..*", re.DOTALL)

_IF = re.compile(r"^(.*) -- if (\w+)\n", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include (\w+)\n", re.MULTILINE)


@cache
def query_text(name: str, given: frozenset[str] = frozenset()) -> str:
    """The SQL of ``sql/<name>.sql``, with ``sql/<part>.sql`` where it says ``-- include <part>``.

    A line that ends in ``-- if x`` is left out unless ``x`` is given: a condition that is always true is not free,
    since ClickHouse reads the columns it names.
    """
    whole = _INCLUDE.sub(lambda line: _sql(line[1]), _sql(name))
    return _IF.sub(lambda line: f"{line[1]}\n" if line[2] in given else "", whole)


def _sql(name: str) -> str:
    return resources.files("enchanted.serve").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


class Store:
    """One ClickHouse, connected at the first read and again after a failure."""

    def __init__(self, url: str, *, deadline: float = QUERY_DEADLINE) -> None:
        self._url = url
        self._deadline = deadline
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ping(self) -> None:
        """Raise StoreUnavailable unless a query is answered."""
        await self.rows("ping")

    async def rows(self, name: str, *, most_bytes: int = 0, **parameters: Any) -> list[dict[str, Any]]:
        """The answer of a named query, one dict a row; a parameter that is empty or 0 counts as not given.

        Raises:
            TooMuchAsked: it has more than ``most_bytes`` (0 is no limit), or the query reached a limit of its own.
            StoreUnavailable: the store refused, broke off, or took longer than the deadline.
        """
        async with self._asking() as client:
            result = await client.query(
                query_text(name, frozenset(one for one, value in parameters.items() if value)),
                parameters=dict(parameters),
                column_formats=_RAW_AS_BYTES.get(name),
                settings={
                    "max_execution_time": max(1, int(self._deadline)),
                    "max_result_bytes": most_bytes,
                    **_FINAL,
                },
            )
        return list(result.named_results())

    async def whole(self, name: str, output: str, **parameters: object) -> bytes:
        """The answer of a named query in one of ClickHouse's formats."""
        async with self._asking() as client:
            return bytes(
                await client.raw_query(
                    query_text(name, frozenset(one for one, value in parameters.items() if value)),
                    parameters=dict(parameters),
                    fmt=output,
                    settings={"max_execution_time": max(1, int(self._deadline)), "wait_end_of_query": 1, **_FINAL},
                )
            )

    async def statement(self, sql: str, settings: Mapping[str, int | str]) -> bytes:
        """The answer to a statement that somebody else wrote, in the format it names.

        ClickHouse gives up at two thirds of the deadline, so that it is the one who says why.

        Raises:
            SqlFailed: ClickHouse refused it, in ClickHouse's words.
            StoreSlow: no answer within the deadline.
            StoreUnavailable: it cannot be asked.
        """
        limits = {"max_execution_time": max(1, int(self._deadline * 2 / 3)), **settings}
        async with self._asking() as client:
            try:
                return bytes(await client.raw_query(sql, settings=limits))
            except DatabaseError as error:
                if error.code is None or error.code in _NOT_THE_STATEMENTS:
                    raise
                raise SqlFailed(_own_words(error)) from error

    async def fitting(self, name: str, limit: int, **parameters: Any) -> tuple[list[dict[str, Any]], bool]:
        """Up to ``limit`` rows of a named query, fewer where they are large, and whether there are more."""
        while True:
            try:
                rows = await self.rows(name, most_bytes=PAGE_BYTES, limit=limit + 1, **parameters)
            except TooMuchAsked:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
            else:
                return rows[:limit], len(rows) > limit

    async def fitting_events(self, name: str, limit: int, **parameters: Any) -> tuple[list[EventRow], bool]:
        """The same of a named query that selects event rows."""
        rows, more = await self.fitting(name, limit, **parameters)
        return [_event_row(row) for row in rows], more

    async def events(self, name: str, **parameters: Any) -> list[EventRow]:
        """The answer of a named query that selects event rows."""
        return [_event_row(row) for row in await self.rows(name, **parameters)]

    async def run_events(self, run: str, *, after: int = 0, until: int = LAST_SEQ) -> AsyncIterator[EventRow]:
        """Every event of a run in stream order, read in pages that are bounded by bytes too."""
        bounds = {"after": after}
        while True:
            page, more = await self.fitting_events("run_events", PAGE, run=run, until=until, **bounds)
            for row in page:
                yield row
            if not more:
                return
            bounds = page[-1].behind

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[AsyncClient]:
        """The client, under the deadline; what goes wrong with it is raised as ours."""
        try:
            async with asyncio.timeout(self._deadline):
                yield await self._connected()
        except TimeoutError as error:
            raise StoreSlow(self._deadline) from error
        except IngestError as error:
            raise StoreUnavailable(str(error)) from error
        except DatabaseError as error:
            if error.code in _TOO_MUCH:
                raise TooMuchAsked(_own_words(error)) from error
            if error.code == _MEMORY:
                raise StoreExhausted(reason(error)) from error
            raise StoreUnavailable(reason(error)) from error
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            raise StoreUnavailable(reason(error)) from error

    async def _connected(self) -> AsyncClient:
        async with self._connecting:
            if self._client is None:
                self._client = await connect(self._url)
            return self._client


_RAW_AS_BYTES: dict[str, dict[str, str | dict[str, str]]] = {
    **{
        name: {"raw": "bytes"}
        for name in ("events_page", "run_events", "event_by_id", "trace_events", "run_transitions")
    },
    "cluster_actors": {"latest": "bytes"},
}


def _event_row(row: dict[str, Any]) -> EventRow:
    return EventRow(
        seq=row["stream_seq"],
        time=row["stream_time"].replace(tzinfo=UTC),
        subject=row["subject"],
        event_id=row["event_id"],
        sha256=row["payload_sha256"],
        raw=bytes(row["raw"]),
    )


def _own_words(error: DatabaseError) -> str:
    """What ClickHouse said, without where it was asked."""
    text = str(error).split(" (for url")[0]
    found = _OWN_WORDS.search(text)
    return (found[0] if found else text).strip()[:2_000]
