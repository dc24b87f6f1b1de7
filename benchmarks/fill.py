"""Millions of rows made inside the store: copies of a sample with ids, hashes, times, runs and agents of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.ingest.rows import COLUMNS

CHUNK = 200_000
"""Rows of one statement: it has to end within the connection's deadline."""
AT_ONCE, OF_A_RUN, OF_A_TRACE, OF_AN_AGENT = 40, 10_000, 40, 3_000
"""Runs under way at the same time; events of a run; events of a trace; agents, 30 of whom are in each run."""
_SPAN = AT_ONCE * OF_A_RUN

_SAMPLE = """
CREATE TABLE sample ENGINE = Memory AS
SELECT toUInt64(rowNumberInAllBlocks()) AS pick, * FROM events LIMIT {limit}
"""
_DIGEST = "concat(sipHash128(n, 'left'), sipHash128(n, 'right'))"
_OWN = {
    "stream_created": "toDateTime64('2020-01-01 00:00:00', 6, 'UTC')",
    "stream_seq": "n",
    "stream_time": "at",
    "run": "made_run",
    "event_id": "made_id",
    "event_time": "at",
    "trace_id": "made_trace",
    "span_id": "substring(drawn, 17, 16)",
    "agent_id": "made_agent",
    "agent_seq": "n",
    "parent_event_id": "if(parent_event_id = '', '', made_parent)",
    "sha256": f"toFixedString({_DIGEST}, 32)",
    "body": (
        "if(previous_at = 0, body, concat(substring(body, 1, previous_at - 1),"
        f" lower(hex({_DIGEST})), substring(body, previous_at + 64)))"
    ),
    "new_state_hash": f"if(new_state_hash = '', '', lower(hex({_DIGEST})))",
    "outcome": "if(n % 50 = 0, 'FAILED', '')",
}
"""What a copy does not take from the sample; failures are put in for there to be a rate of errors."""
_RUN = f"concat('run-', substring(lower(hex(sipHash128(intDiv(n, {_SPAN}), slot, 'run'))), 1, 12))"
_TRACE = f"lower(hex(sipHash128(intDiv(n, {AT_ONCE * OF_A_TRACE}), slot, 'trace')))"
_AGENT = f"toString(reinterpretAsUUID(sipHash128(cityHash64(made_run, cityHash64(n) % 30) % {OF_AN_AGENT}, 'agent')))"
_ID = (
    "concat(substring(lower(leftPad(hex(intDiv({since} + {n} * {step}, 1000)), 12, '0')) AS ms_{name}, 1, 8), '-',"
    " substring(ms_{name}, 9, 4), '-7', substring(lower(hex(sipHash128({n}, 'id'))) AS drawn_{name}, 1, 3), '-a',"
    " substring(drawn_{name}, 4, 3), '-', substring(drawn_{name}, 7, 12))"
)
_COPY = """
INSERT INTO events ({columns})
SELECT {values} FROM
(
    SELECT
        number + {first} AS n,
        cityHash64(n, 'slot') % {slots} AS slot,
        cityHash64(n, 'pick') % {sample} AS pick,
        fromUnixTimestamp64Micro(toInt64({since} + n * {step}), 'UTC') AS at,
        lower(hex(sipHash128(n, 'id'))) AS drawn,
        {own} AS made_id,
        {before} AS made_parent,
        {run} AS made_run,
        {trace} AS made_trace,
        {agent} AS made_agent
    FROM numbers_mt({count})
) AS made
INNER JOIN sample USING (pick)
SETTINGS max_insert_block_size = 200000, min_insert_block_size_rows = 200000
"""
_MERGING = "SELECT count() FROM system.merges WHERE table = 'events'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Where in time the copies are: ``total`` of them in ``seconds`` that end now."""

    total: int
    seconds: float
    until: float

    @classmethod
    def of(cls, total: int, seconds: float) -> Spread:
        """Ending now."""
        return cls(total=total, seconds=seconds, until=time.time())

    @property
    def since(self) -> int:
        """The first one's time in microseconds since 1970."""
        return int((self.until - self.seconds) * 1e6)

    @property
    def step(self) -> int:
        """Microseconds from one to the next."""
        return max(1, int(self.seconds * 1e6 / self.total))


async def take_sample(table: AsyncClient, limit: int) -> int:
    """Keep what `events` holds (at most ``limit``) as the sample; returns how many."""
    await table.command("DROP TABLE IF EXISTS sample")
    await table.command(_SAMPLE.format(limit=limit))
    return int((await table.query("SELECT count() FROM sample")).result_rows[0][0])


async def fill(
    table: AsyncClient,
    spread: Spread,
    sample: int,
    *,
    first: int = 0,
    until: int | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> None:
    """Put copies ``first`` to ``until`` (all of the spread) into `events`, chunk by chunk; ``told`` after each."""
    end = spread.total if until is None else until
    for start in range(first, end, CHUNK):
        count = min(CHUNK, end - start)
        await table.command(statement(spread, sample, start, count))
        told(start + count)


def statement(spread: Spread, sample: int, first: int, count: int) -> str:
    """The INSERT of ``count`` copies."""
    return _COPY.format(
        columns=", ".join(COLUMNS),
        values=", ".join(_OWN.get(name, name) for name in COLUMNS),
        first=first,
        slots=AT_ONCE,
        sample=sample,
        since=spread.since,
        step=spread.step,
        own=_ID.format(n="n", name="own", since=spread.since, step=spread.step),
        before=_ID.format(n="toUInt64(n - 1)", name="before", since=spread.since, step=spread.step),
        run=_RUN,
        trace=_TRACE,
        agent=_AGENT,
        count=count,
    )


async def settle(table: AsyncClient, patience: float) -> bool:
    """Wait until nothing is merged for a second, at most ``patience`` seconds; whether it came to that."""
    quiet, end = 0, time.monotonic() + patience
    while quiet < 4 and time.monotonic() < end:
        merging = int((await table.query(_MERGING)).result_rows[0][0])
        quiet = 0 if merging else quiet + 1
        await asyncio.sleep(0.25)
    return quiet == 4
