"""The store is killed, told to end, or started twice."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from enchanted.cluster.chaos.killed import Victim
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest import tables
from enchanted.ingest.rows import COLUMNS, Row, event_values
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.schemas.ddl import migrations
from enchanted.schemas.events import SwarmEvent

ROW = Row(1, 1_790_000_000_000_000, "swarm.events.coder.decision", b"", bytes(32), "", False, False)
SLOW = "SELECT count() FROM system.numbers WHERE NOT ignore(sipHash64(number))"


async def _insert(store: StoreProcess, rows: range) -> int:
    body = "".join(f"{n}\n" for n in rows)
    async with httpx.AsyncClient(timeout=20) as http:
        reply = await http.post(
            f"http://127.0.0.1:{store.port}/",
            auth=(store.credentials.writer.user, store.credentials.writer.password),
            params={"query": "INSERT INTO kept FORMAT TSV"},
            content=body,
        )
    reply.raise_for_status()
    return len(rows)


async def test_what_was_confirmed_survives_kill_9(tmp_path: Path) -> None:
    async with store_process(tmp_path) as store:
        client = await connect(store.url)
        await client.command(
            "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n SETTINGS fsync_after_insert = 1"
        )
        await client.close()
        confirmed, enough = 0, asyncio.Event()

        async def insert_until_it_dies() -> None:
            nonlocal confirmed
            while True:
                confirmed += await _insert(store, range(confirmed, confirmed + 100))
                if confirmed >= 500:
                    enough.set()

        inserting = asyncio.create_task(insert_until_it_dies())
        await enough.wait()
        victim = Victim(store.pid)
        await store.stop(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await inserting
        await store.start()
        victim.assert_replaced_by(store.pid)

        client = await connect(store.url)
        count, highest = (await client.query("SELECT count(), max(n) FROM kept")).result_rows[0]
        await client.close()

    assert confirmed <= count <= confirmed + 100
    assert highest == count - 1


async def test_a_second_process_says_who_holds_the_folder(tmp_path: Path) -> None:
    async with store_process(tmp_path) as store:
        second = StoreProcess(tmp_path)

        with pytest.raises(RuntimeError, match=f"held by process {store.pid} "):
            await second.start()

        await second.stop()


async def test_sigterm_ends_it_while_a_statement_runs(tmp_path: Path) -> None:
    async with store_process(tmp_path) as store:
        login = store.credentials.writer
        url = f"http://127.0.0.1:{store.port}/"
        async with httpx.AsyncClient(auth=(login.user, login.password), timeout=20) as http:
            await http.get(url + "ping")
            slow = asyncio.create_task(http.post(url, content=SLOW))
            while (await http.post(url, content="SELECT count() FROM system.processes")).text != "2\n":
                assert not slow.done()
            started = time.monotonic()

            status = await store.stop()

            assert time.monotonic() - started < 5.0
            assert status == 0
            assert (await slow).headers["x-clickhouse-exception-code"] == "394"


async def test_the_tables_are_made_once_and_stay(tmp_path: Path) -> None:
    async with store_process(tmp_path) as store:
        client = await connect(store.url)
        first = await apply_ddl(client)
        second = await apply_ddl(client)
        await client.close()
        await store.stop()
        await store.start()
        client = await connect(store.url)
        third = await apply_ddl(client)
        kept = [name for (name,) in (await client.query("SHOW TABLES")).result_rows]
        await client.close()

    assert first == [
        "001_events", "002_spans", "003_events_list", "004_agent_hourly", "005_sharper_filters", "006_denser_bodies",
    ]  # fmt: skip
    assert second == third == []
    assert {"events", "events_list", "agent_hourly", "spans", "schema_migrations"} <= set(kept)


async def test_a_store_of_before_gets_what_is_new_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = event_values(SwarmEvent(run_id="run-1", trace_id="t-1"), ROW, datetime.now(UTC))
    async with store_process(tmp_path) as store:
        client = await connect(store.url)
        with monkeypatch.context() as before:
            before.setattr(tables, "migrations", lambda: migrations()[:4])
            await apply_ddl(client)
        await client.insert("events", [values], column_names=list(COLUMNS), column_type_names=list(COLUMNS.values()))
        new = await apply_ddl(client)
        found = await client.query("SELECT run, trace_id FROM events FINAL WHERE run = 'run-1' AND trace_id = 't-1'")
        filters = await client.query("SELECT name FROM system.data_skipping_indices WHERE table = 'events'")
        await client.close()

    assert new == ["005_sharper_filters", "006_denser_bodies"]
    assert found.result_rows == [("run-1", "t-1")]
    names = {name for (name,) in filters.result_rows}
    assert {"by_run", "by_trace"} <= names
    assert "by_trace_id" not in names


async def test_only_loopback_is_served(tmp_path: Path) -> None:
    store = StoreProcess(tmp_path, host="0.0.0.0")

    with pytest.raises(RuntimeError, match="loopback"):
        await store.start()

    await store.stop()
