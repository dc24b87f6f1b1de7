"""Spans from the stream into the table: each once, whatever is killed, delivered again or sent twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from nats.js import JetStreamContext
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.streams import SPANS_STREAM
from enchanted.bus.subjects import OTLP_SPANS
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.chaos.killed import kill
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest import predecessors
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.otlp import LATEST_NANOSECONDS
from enchanted.ingest.span_rows import COLUMNS, SpanRow, rows_of
from enchanted.ingest.span_writer import SpanWriter
from enchanted.ingest.spans import DURABLE, SpanWorker
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.testing import BEGUN, attribute, export_of, span_of
from enchanted.serve.testing import until

DEADLINE = 45.0
SMALL = BatchLimits(rows=5, bytes=1 << 20, seconds=0.2)

WORKER = """
import asyncio, sys
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.spans import SpanWorker

async def main():
    limits = BatchLimits(rows=3, seconds=0.05)
    async with SpanWorker(nats_url=sys.argv[1], clickhouse_url=sys.argv[2], limits=limits, ack_wait=1.0) as worker:
        if len(sys.argv) > 3:
            async def hang(deliveries):
                print("inserted", flush=True)
                await asyncio.Event().wait()
            worker._acknowledge = hang
        await worker.run()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
async def store(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreProcess]:
    async with store_process(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def stream(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    connection = await nats.connect(server.url)
    yield connection.jetstream(timeout=60)
    await connection.close()


@pytest.fixture
async def table(store: StoreProcess) -> AsyncIterator[AsyncClient]:
    client = await connect(store.url)
    await apply_ddl(client)
    await client.command("TRUNCATE TABLE spans")
    yield client
    await client.close()


@asynccontextmanager
async def _storing(server: NatsServer, store: StoreProcess, **options: Any) -> AsyncIterator[SpanWorker]:
    async with SpanWorker(nats_url=server.url, clickhouse_url=store.url, **{"limits": SMALL, **options}) as worker:
        running = asyncio.create_task(worker.run())
        yield worker
        await worker.close()
        await running


async def _publish(stream: JetStreamContext, payloads: Sequence[bytes]) -> None:
    for payload in payloads:
        await stream.publish(OTLP_SPANS, payload)


def _messages(count: int, spans: int = 10) -> list[bytes]:
    """``count`` exports of ``spans`` spans each, all spans different."""
    numbers = [range(1 + message * spans, 1 + (message + 1) * spans) for message in range(count)]
    return [export_of(*(span_of(n) for n in part)).SerializeToString() for part in numbers]


async def _names(table: AsyncClient) -> list[str]:
    rows = (await table.query("SELECT SpanName FROM spans ORDER BY Timestamp")).result_rows
    return [name for (name,) in rows]


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    await until(condition, DEADLINE)


async def _until_acknowledged(server: NatsServer) -> None:
    """Every message of the stream was delivered and acknowledged."""
    await _until_consumer(server, lambda pending, unacknowledged: pending == 0 and unacknowledged == 0)


async def _until_consumer(server: NatsServer, condition: Callable[[int, int], bool]) -> None:
    async with Bus.connect(server.url) as bus:

        async def reached() -> bool:
            info = await bus.link.api(f"CONSUMER.INFO.{SPANS_STREAM}.{DURABLE}")
            return condition(info["num_pending"], info["num_ack_pending"])

        await _until(reached)


async def test_a_span_reads_back_in_every_column(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    span = span_of(7, parent_span_id=b"\2" * 8, trace_state="a=b", kind="SPAN_KIND_CLIENT", name="chat 'm' \\ é\n")
    span.attributes.append(attribute("", "empty key"))
    span.attributes.append(attribute("q'\"", "v\\\n\0é"))
    span.status.code, span.status.message = Status.STATUS_CODE_ERROR, "why"
    for n in range(2):
        span.events.add(name=f"e{n}", time_unix_nano=BEGUN + n, attributes=[attribute("n", str(n))])
    span.events.add(name="late", time_unix_nano=2**64 - 1)
    span.links.add(trace_id=b"\3" * 16, span_id=b"\4" * 8, trace_state="c=d", attributes=[attribute("l", "1")])
    export = export_of(span, service="sérvice '\\")

    async with _storing(server, store):
        await _publish(stream, [export.SerializeToString()])
        await _until_acknowledged(server)

    columns = ", ".join(
        f"toUnixTimestamp64Nano({name})"
        if name == "Timestamp"
        else f"arrayMap(t -> toUnixTimestamp64Nano(t), {name})"
        if name == "Events.Timestamp"
        else name
        for name in COLUMNS
    )
    found = (await table.query(f"SELECT {columns} FROM spans")).result_rows
    ((row,), _) = rows_of(export, 1)
    assert [list(one) for one in found] == [list(row.values)]
    assert row.values[15][2] == LATEST_NANOSECONDS
    described = (await table.query("DESCRIBE TABLE spans")).result_rows
    assert {name: kind for name, kind, *_ in described} == COLUMNS


async def test_poison_is_a_dead_letter_with_its_bytes_and_harms_no_neighbour(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    good = _messages(3, 2)
    partly = export_of(span_of(91), span_of(92, trace_id=bytes(16)), span_of(93)).SerializeToString()
    async with _storing(server, store) as worker:
        await _publish(stream, [good[0], b"\xff\xff", good[1], partly, b"", good[2]])
        await _until_acknowledged(server)
        statistics = worker.statistics()
    async with Bus.connect(server.url) as bus:
        letters = await DeadLetters(bus).list()
        origins = [origin async for origin in DeadLetters(bus).origins()]

    assert await _names(table) == [*(f"step {n}" for n in range(1, 7)), "step 91", "step 93"]
    assert [(letter.reason, letter.original_seq, letter.payload) for letter in letters] == [
        ("undecodable", 2, b"\xff\xff"),
        ("invalid", 4, partly),
    ]
    assert "1 of 3 spans" in letters[1].detail
    assert (statistics.spans, statistics.dead_letters) == (8, 2)
    assert origins == [], "a span's sequence says nothing about the event that has the same one"


async def test_a_span_the_table_refuses_does_not_hold_up_the_others(store: StoreProcess, table: AsyncClient) -> None:
    rows, _ = rows_of(export_of(*(span_of(n) for n in range(1, 9))), 1)
    duration = list(COLUMNS).index("Duration")
    values = (*rows[3].values[:duration], 2**70, *rows[3].values[duration + 1 :])
    rows[3] = SpanRow(1, rows[3].start, values)
    writer = SpanWriter(store.url)
    written = await writer.write(rows, "salt")
    await writer.close()
    assert [row.identity for row, _ in written.refused] == [rows[3].identity]
    assert await _names(table) == [f"step {n}" for n in range(1, 9) if n != 4]


async def test_a_try_that_is_still_at_work_is_not_doubled_by_the_next(
    store: StoreProcess, table: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_yet(rows: Sequence[SpanRow]) -> set[str]:
        return set()

    rows, _ = rows_of(export_of(*(span_of(n) for n in range(1, 4))), 1)
    writer = SpanWriter(store.url)
    monkeypatch.setattr(writer, "_present", nothing_yet)
    for _ in range(2):
        await writer.write(rows, "one attempt")
    assert await _names(table) == ["step 1", "step 2", "step 3"]
    # The control: without the attempt's token the look-up alone would not have noticed.
    await writer.write(rows, "another attempt")
    await writer.close()
    assert len(await _names(table)) == 6


@pytest.mark.parametrize("redelivered", [True, False])
async def test_what_a_killed_worker_is_still_inserting_is_not_doubled_by_the_next(
    store: StoreProcess, table: AsyncClient, redelivered: bool
) -> None:
    rows, _ = rows_of(export_of(*(span_of(n) for n in range(1, 4))), 1, redelivered=redelivered)
    other, _ = rows_of(export_of(span_of(9)), 2)
    writer, following = SpanWriter(store.url), SpanWriter(store.url)
    try:
        await writer.write(rows, "the killed worker")
        await table.command("CREATE OR REPLACE TABLE killed AS spans")
        await table.command("INSERT INTO killed SELECT * FROM spans")
        await table.command("TRUNCATE TABLE spans")
        if redelivered:
            await following.write(other, "before")
        looking = await connect(store.url)
        slow = "INSERT INTO spans SELECT * FROM killed WHERE NOT sleepEachRow(0.9)"
        inserting = asyncio.create_task(table.command(slow))
        await _until(lambda: _is_at_work(looking, "INSERT INTO spans SELECT"))
        assert not inserting.done()
        written = await following.write(rows, "the next")
        await inserting
        await looking.close()
    finally:
        await writer.close()
        await following.close()
        await table.command("DROP TABLE IF EXISTS killed")
    assert (written.inserted, written.present) == (0, 3)
    assert [name for name in await _names(table) if name != "step 9"] == ["step 1", "step 2", "step 3"]


async def _is_at_work(client: AsyncClient, begin: str) -> bool:
    return bool((await client.query(f"SELECT 1 FROM system.processes WHERE startsWith(query, '{begin}')")).result_rows)


async def test_an_insert_that_does_not_end_holds_up_its_redelivered_spans_and_no_others(
    store: StoreProcess, table: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessors, "EXECUTION_DEADLINE", 0.3)
    once_more, _ = rows_of(export_of(span_of(1)), 1, redelivered=True)
    new, _ = rows_of(export_of(span_of(2)), 2)
    writer, looking = SpanWriter(store.url), await connect(store.url)
    await writer.write([], "begun")
    slow = "INSERT INTO spans (SpanName, Duration) SELECT 'late', number FROM numbers(6) WHERE NOT sleepEachRow(0.9)"
    slow += " SETTINGS max_block_size = 1"
    inserting = asyncio.create_task(table.command(slow))
    await _until(lambda: _is_at_work(looking, "INSERT INTO spans (SpanName"))
    with pytest.raises(TableUnavailable, match="at work"):
        await writer.write(once_more, "salt")
    assert (await writer.write(new, "other salt")).inserted == 1
    assert not inserting.done()
    await inserting
    assert (await writer.write(once_more, "salt")).inserted == 1
    await writer.close()
    await looking.close()


async def test_what_was_deleted_can_be_stored_again(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    await _publish(stream, _messages(5))
    for _ in range(2):
        async with _storing(server, store):
            await _until_acknowledged(server)
            assert len(await _names(table)) == 50
        await table.command("DELETE FROM spans WHERE 1")
        await stream.delete_consumer(SPANS_STREAM, DURABLE)


async def test_what_comes_twice_is_stored_once(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    one, two = _messages(2, 20)
    overlapping = export_of(*(span_of(n) for n in range(10, 50))).SerializeToString()
    async with _storing(server, store) as worker:
        # Without Nats-Msg-Id the stream takes every copy: in one batch, later, and cut otherwise.
        await _publish(stream, [one, one, two])
        await _until_acknowledged(server)
        await _publish(stream, [two, overlapping])
        await _until_acknowledged(server)
        assert (worker.statistics().spans, worker.statistics().present) == (49, 71)
    assert await _names(table) == [f"step {n}" for n in range(1, 50)]


async def test_a_consumer_made_again_delivers_everything_and_doubles_nothing(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    payloads = _messages(20)
    await _publish(stream, payloads[:15])
    async with _storing(server, store):
        await _until_acknowledged(server)
    await stream.delete_consumer(SPANS_STREAM, DURABLE)
    await _publish(stream, payloads[15:])
    async with _storing(server, store) as worker:
        await _until_acknowledged(server)
        assert (worker.statistics().present, worker.statistics().spans) == (150, 50)
    assert await _names(table) == [f"step {n}" for n in range(1, 201)]


async def test_a_worker_killed_between_insert_and_acknowledgement_doubles_nothing(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    await _publish(stream, _messages(9))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, server.url, store.url, "never", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        assert await process.stdout.readline() == b"inserted\n"
    await kill(process)
    inserted = len(await _names(table))
    assert inserted > 0

    async with _storing(server, store) as worker:
        await _until_acknowledged(server)
        assert worker.statistics().present == inserted
    assert await _names(table) == [f"step {n}" for n in range(1, 91)]


async def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    payloads, killed = _messages(90), set[int]()
    for part in range(3):
        await _publish(stream, payloads[part * 30 : part * 30 + 30])
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, server.url, store.url)
        least = part * 300 + 60

        async def reached(least: int = least) -> bool:
            return len(await _names(table)) >= least

        await _until(reached)
        killed.add(await kill(process))
    assert len(killed) == 3
    async with _storing(server, store, ack_wait=1.0):
        await _until_acknowledged(server)
    assert await _names(table) == [f"step {n}" for n in range(1, 901)]


async def test_a_store_that_hangs_costs_nothing_but_time(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    async with _storing(server, store) as worker:
        await _publish(stream, _messages(1))
        await _until_acknowledged(server)
        os.kill(store.pid, signal.SIGSTOP)
        await _publish(stream, _messages(4)[1:])
        await _until_consumer(server, lambda pending, unacknowledged: pending == 0 and unacknowledged > 0)
        os.kill(store.pid, signal.SIGCONT)
        await _until_acknowledged(server)
        assert worker.statistics().dead_letters == 0
    assert await _names(table) == [f"step {n}" for n in range(1, 41)]


async def test_spans_of_many_days_are_stored_although_an_insert_takes_only_some(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    day = 86_400 * 1_000_000_000
    odd = [0, 1, LATEST_NANOSECONDS, 4_500_000_000 * 10**9]
    times = [*(n * day for n in range(1, 151)), *odd]
    payload = export_of(*(span_of(n, start_time_unix_nano=time) for n, time in enumerate(times, 1))).SerializeToString()
    async with _storing(server, store) as worker:
        await _publish(stream, [payload])
        await _until_acknowledged(server)
        await _publish(stream, [payload])
        await _until_acknowledged(server)
        assert (worker.statistics().spans, worker.statistics().present) == (154, 154)
    assert len(await _names(table)) == 154
