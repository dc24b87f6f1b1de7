"""What the reconciler asks the table: counts of blocks, and sequences where a count is not what it should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from enchanted.ingest.errors import IngestError, TableUnavailable
from enchanted.ingest.ranges import LISTED
from enchanted.ingest.reconcile_report import AgentGap, Agents, FormerStream
from enchanted.ingest.tables import apply_ddl, connect, reason

_AT_ONCE = 1_000
"""Sequences in one list: they travel in the URL."""
_ROWS = """
FROM events
WHERE stream_created = {created:DateTime64(6, 'UTC')} AND stream_seq BETWEEN {first:UInt64} AND {last:UInt64}
  AND _part NOT IN {skip:Array(String)}
"""
# Copies of one row that are not merged yet count once.
_BLOCKS = f"""
SELECT intDiv(stream_seq, {{size:UInt64}}) AS block, uniqExact(stream_seq) AS rows,
       uniqExactIf(stream_seq, duplicate_of != 0) AS duplicates
{_ROWS} GROUP BY block
"""
_SEQUENCES = f"SELECT DISTINCT stream_seq {_ROWS} ORDER BY stream_seq LIMIT {{limit:UInt64}}"
_AMONG = f"SELECT DISTINCT stream_seq {_ROWS} AND stream_seq IN {{seqs:Array(UInt64)}} ORDER BY stream_seq"
# A copy whose first one went for its age is held against nothing.
_CONFLICTING = f"""
WITH later AS (SELECT event_id, stream_seq, sha256 {_ROWS} AND duplicate_of != 0)
SELECT DISTINCT stream_seq FROM later
INNER JOIN (
    SELECT event_id, argMin(sha256, (stream_created, stream_seq)) AS first FROM events
    WHERE duplicate_of = 0 AND event_id IN (SELECT event_id FROM later) AND _part NOT IN {{skip:Array(String)}}
    GROUP BY event_id
) AS firsts USING event_id
WHERE sha256 != first
ORDER BY stream_seq
"""
_FORMER = """
SELECT stream_created, uniqExact(stream_seq), min(stream_seq), max(stream_seq) FROM events
WHERE stream_created != {created:DateTime64(6, 'UTC')} AND _part NOT IN {skip:Array(String)}
GROUP BY stream_created ORDER BY stream_created LIMIT 100
"""
# What is not acknowledged yet may come out of order, so an agent's later event may be here before an earlier one.
_NUMBERED = """
FROM events
WHERE agent_seq > 0 AND (stream_created != {created:DateTime64(6, 'UTC')} OR stream_seq <= {last:UInt64})
  AND _part NOT IN {skip:Array(String)}
"""
_AGENTS = f"""
SELECT count(), sum(highest), sum(stored), groupArrayIf({LISTED})(agent_id, highest != stored)
FROM (
    SELECT agent_id, max(agent_seq) AS highest, uniqExact(agent_seq) AS stored {_NUMBERED} GROUP BY agent_id
)
"""
_AGENT_GAPS = f"""
SELECT agent_id, before + 1, agent_seq - 1
FROM (
    SELECT agent_id, agent_seq, lagInFrame(agent_seq, 1, 0) OVER (
        PARTITION BY agent_id ORDER BY agent_seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
    ) AS before
    FROM (SELECT DISTINCT agent_id, agent_seq {_NUMBERED} AND agent_id IN {{agents:Array(String)}})
)
WHERE agent_seq > before + 1
ORDER BY agent_id, agent_seq LIMIT {LISTED}
"""
_AGENTS_AT_ONCE = 100
_TWICE = """
SELECT event_id FROM events FINAL
PREWHERE stream_created = {created:DateTime64(6, 'UTC')} AND stream_seq > {after:UInt64} AND event_id != ''
  AND cityHash64(event_id) % {shares:UInt32} = {share:UInt32}
WHERE duplicate_of = 0 AND _part NOT IN {skip:Array(String)}
GROUP BY event_id HAVING count() > 1 LIMIT {limit:UInt32}
SETTINGS use_skip_indexes_if_final_exact_mode = 0, do_not_merge_across_partitions_select_final = 1
"""
MOST_TWICE = 10_000
"""Ids named at a time."""
_SHARE = 500_000
"""Sequences whose ids are counted at once; bounds the memory of ClickHouse."""


@dataclass(frozen=True, slots=True)
class Block:
    """What the table has of a block of sequences."""

    rows: int = 0
    duplicates: int = 0


class Table:
    """The table ``events`` as the reconciler reads it.

    Every method raises TableUnavailable when ClickHouse cannot be used now, and connects again when called next.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: AsyncClient | None = None
        self.skip: Sequence[str] = ()
        """Parts that are damaged: nothing is asked about them."""

    async def close(self) -> None:
        """Give the connections back. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def blocks(self, created: datetime, first: int, last: int, size: int) -> dict[int, Block]:
        """Counts by ``sequence // size``; a block without rows is left out."""
        found = await self._query(_BLOCKS, created=created, first=first, last=last, size=size)
        return {int(block): Block(int(rows), int(duplicates)) for block, rows, duplicates in found}

    async def sequences(self, created: datetime, first: int, last: int) -> list[int]:
        """Which of a range are there, ascending."""
        limit = last - first + 1
        found = await self._query(_SEQUENCES, created=created, first=first, last=last, limit=limit)
        return [int(seq) for (seq,) in found]

    async def among(self, created: datetime, seqs: Sequence[int]) -> list[int]:
        """Which of these ascending sequences are there."""
        there: list[int] = []
        for part in _parts(seqs):
            found = await self._query(_AMONG, created=created, first=part[0], last=part[-1], seqs=part)
            there += [int(seq) for (seq,) in found]
        return there

    async def conflicting(self, created: datetime, first: int, last: int) -> list[int]:
        """Which of a range are later copies with other bytes than the first, ascending."""
        found = await self._query(_CONFLICTING, created=created, first=first, last=last)
        return [int(seq) for (seq,) in found]

    async def above(self, created: datetime, last: int) -> list[int]:
        """The first sequences above ``last``."""
        found = await self._query(_SEQUENCES, created=created, first=last + 1, last=2**64 - 1, limit=10_000)
        return [int(seq) for (seq,) in found]

    async def visible_twice(self, created: datetime, after: int, last: int = 0) -> list[str]:
        """Ids of events of which more than one row above ``after`` counts as the first; at most MOST_TWICE.

        ``last``: the highest sequence; the ids are counted in as many shares as the rows up to there need.
        """
        shares = max(0, last - after) // _SHARE + 1
        found: list[str] = []
        for share in range(shares):
            rows = await self._query(_TWICE, created=created, after=after, shares=shares, share=share, limit=MOST_TWICE)
            found += [str(event_id) for (event_id,) in rows]
        return found[:MOST_TWICE]

    async def former_streams(self, created: datetime) -> tuple[FormerStream, ...]:
        """Rows of streams made at another time, at most a hundred streams."""
        found = await self._query(_FORMER, created=created)
        return tuple(FormerStream(_aware(made), int(rows), int(low), int(high)) for made, rows, low, high in found)

    async def agents(self, created: datetime, last: int) -> Agents:
        """The counters of all agents, over the rows up to sequence ``last`` and those of former streams."""
        ((count, emitted, stored, wrong),) = await self._query(_AGENTS, created=created, last=last)
        gaps: list[AgentGap] = []
        for start in range(0, len(wrong), _AGENTS_AT_ONCE):
            some = list(wrong[start : start + _AGENTS_AT_ONCE])
            found = await self._query(_AGENT_GAPS, created=created, last=last, agents=some)
            gaps += [AgentGap(str(agent), int(low), int(high)) for agent, low, high in found]
            if len(gaps) >= LISTED:
                break
        return Agents(int(count), int(emitted), int(stored), tuple(gaps[:LISTED]))

    async def _query(self, sql: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        try:
            if self._client is None:
                self._client = await _ready(self._url)
            parameters["skip"] = list(self.skip)
            return (await self._client.query(sql, parameters=parameters)).result_rows
        except (ClickHouseError, aiohttp.ClientError, OSError) as error:
            await self.close()
            raise TableUnavailable(reason(error)) from error


async def _ready(url: str) -> AsyncClient:
    client = await connect(url)
    try:
        await apply_ddl(client)
    except IngestError:
        await client.close()
        raise
    return client


def _parts(seqs: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(seqs), _AT_ONCE):
        yield list(seqs[start : start + _AT_ONCE])


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
