"""How long rows are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.cluster.store.testing import running_store
from enchanted.ingest.retention import keep
from enchanted.ingest.tables import apply_ddl, connect

_INSERT = """
INSERT INTO events (stream_created, stream_seq, stream_time, run, event_id)
SELECT now64(6), number, now64(6) - toIntervalDay(number * 20), 'r', toString(number) FROM numbers(10)
"""


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[tuple[str, AsyncClient]]:
    async with running_store(tmp_path / "store") as url:
        client = await connect(url)
        await apply_ddl(client)
        yield url, client
        await client.close()


async def days_left(client: AsyncClient) -> list[int]:
    await client.command("OPTIMIZE TABLE events FINAL")
    return [int(seq) * 20 for (seq,) in (await client.query("SELECT stream_seq FROM events ORDER BY 1")).result_rows]


async def test_rows_are_kept_for_ever_unless_told_otherwise(table: tuple[str, AsyncClient]) -> None:
    url, client = table
    assert await keep(url, 0) == []
    await client.command(_INSERT)
    assert await days_left(client) == list(range(0, 200, 20))


async def test_old_rows_go_and_the_days_may_be_changed(table: tuple[str, AsyncClient]) -> None:
    url, client = table
    await client.command(_INSERT)
    assert await keep(url, 90) == ["events", "spans"]
    assert await keep(url, 90) == []
    assert await days_left(client) == [0, 20, 40, 60, 80]
    assert await keep(url, 31) == ["events", "spans"]
    assert await days_left(client) == [0, 20]
    assert await keep(url, 0) == ["events", "spans"]
    assert await keep(url, 0) == []


async def test_what_the_stream_still_has_is_not_dropped(table: tuple[str, AsyncClient]) -> None:
    with pytest.raises(ValueError, match="use 0"):
        await keep(table[0], 7)
