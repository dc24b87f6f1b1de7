"""How long the tables keep what they have; the stream keeps its thirty days whatever is said here."""

from __future__ import annotations

import aiohttp
from clickhouse_connect.driver.exceptions import ClickHouseError

from enchanted.ingest.batch import SHORTEST_RETENTION
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.tables import apply_ddl, connect, reason

_TIMES = {"events": "stream_time", "spans": "Timestamp"}
_ENGINE = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {table:String}"


async def keep(url: str, days: int) -> list[str]:
    """Have rows older than ``days`` days dropped, whole parts at a time; 0 keeps them for ever.

    Idempotent; returns the tables that were changed now.

    Raises:
        ValueError: fewer days than the stream keeps.
        TableUnavailable: ClickHouse cannot be used now; call it again.
    """
    if days and days < SHORTEST_RETENTION:
        raise ValueError(
            f"retention of {days} days is shorter than the stream's; use 0 (for ever) or >= {SHORTEST_RETENTION}"
        )
    client = await connect(url)
    changed = []
    try:
        await apply_ddl(client)
        for table, time in _TIMES.items():
            engine = str((await client.query(_ENGINE, parameters={"table": table})).result_rows[0][0])
            wanted = f"TTL toDateTime({time}) + toIntervalDay({days})"
            if wanted in engine or (not days and " TTL " not in engine):
                continue
            await client.command(f"ALTER TABLE {table} {f'MODIFY {wanted}' if days else 'REMOVE TTL'}")
            changed.append(table)
    except (ClickHouseError, aiohttp.ClientError, OSError) as error:
        raise TableUnavailable(reason(error)) from error
    finally:
        await client.close()
    return changed
