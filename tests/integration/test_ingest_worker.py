"""From the stream into the table: nothing lost, nothing doubled, whatever is killed in between."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from nats.js import JetStreamContext

from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.delivery import Delivery
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.chaos.killed import Victim, kill
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.rows import row_of
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import DURABLE, IngestWorker
from enchanted.ingest.writer import Writer
from enchanted.schemas.events import StoredEvent, SwarmEvent, parse_event

SUBJECT = "swarm.events.architect.decision"
DEADLINE = 45.0
SMALL = BatchLimits(rows=100, seconds=0.2)

WORKER = """
import asyncio, sys
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.worker import IngestWorker

async def main():
    limits = BatchLimits(rows=50, seconds=0.05)
    async with IngestWorker(nats_url=sys.argv[1], clickhouse_url=sys.argv[2], limits=limits, ack_wait=1.0) as worker:
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
    await client.command("TRUNCATE TABLE events")
    yield client
    await client.close()


@asynccontextmanager
async def _ingesting(nats_url: str, clickhouse_url: str, **options: Any) -> AsyncIterator[IngestWorker]:
    async with IngestWorker(nats_url=nats_url, clickhouse_url=clickhouse_url, **{"limits": SMALL, **options}) as worker:
        running = asyncio.create_task(worker.run())
        yield worker
        await worker.close()
        await running


def _event(trace: str, n: int, **fields: Any) -> bytes:
    """An event of a producer that knows only the frozen part."""
    event = SwarmEvent(event_id=str(uuid.uuid4()), trace_id=trace, span_id="b" * 16, agent_id="foreign")
    event.MergeFrom(SwarmEvent(agent_role="ROLE_ARCHITECT"))
    event.decision.rationale = f"because {n}"
    event.timestamp.seconds = 1_780_000_000 + n
    event.MergeFrom(SwarmEvent(**fields))
    return event.SerializeToString()


async def _publish(stream: JetStreamContext, payloads: Sequence[bytes]) -> None:
    waiting = [await stream.publish_async(SUBJECT, payload) for payload in payloads]
    await asyncio.gather(*waiting)


async def _rows(table: AsyncClient, columns: str = "raw") -> list[Any]:
    sql = f"SELECT {columns} FROM events FINAL WHERE duplicate_of = 0 ORDER BY stream_seq"
    found = await table.query(sql, column_formats={"raw": "bytes"})
    return [row[0] if len(row) == 1 else row for row in found.result_rows]


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            pass


async def _until_count(table: AsyncClient, count: int) -> None:
    async def reached() -> bool:
        return len(await _rows(table, "stream_seq")) >= count

    await _until(reached)


async def _until_acknowledged(server: NatsServer) -> None:
    """Every message of the stream was delivered and acknowledged."""
    async with Bus.connect(server.url) as bus:

        async def done() -> bool:
            info = await bus.link.api(f"CONSUMER.INFO.ENCHANTED_SWARM.{DURABLE}")
            return bool(info["num_pending"] == 0 and info["num_ack_pending"] == 0)

        await _until(done)


async def test_a_thousand_foreign_events_are_queryable_soon_and_byte_equal(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    payloads = [_event("a" * 32, n) + b"\xfa\x3e\x03new" for n in range(1000)]

    async with _ingesting(server.url, store.url, limits=BatchLimits()) as worker:
        await _publish(stream, payloads)
        async with asyncio.timeout(30):
            await _until_count(table, 1000)
        await _until_acknowledged(server)
        assert worker.statistics().rows == 1000

    assert await _rows(table) == payloads
    assert set(await _rows(table, "run, role, kind, agent_id")) == {("a" * 32, "architect", "decision", "foreign")}


async def test_poison_between_good_ones_harms_only_itself(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    good = [_event("p" * 32, n) for n in range(10)]
    poison = [b"\xff\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"]

    async with _ingesting(server.url, store.url) as worker:
        await _publish(stream, [*good[:5], poison[0], *good[5:7], *poison[1:], *good[7:]])
        await _until_count(table, 10)
        await _until_acknowledged(server)
        statistics = worker.statistics()

    async with Bus.connect(server.url) as bus:
        letters = await DeadLetters(bus).list()

    assert await _rows(table) == good
    assert statistics.dead_letters == 3
    assert [letter.payload for letter in letters] == poison
    assert {letter.reason for letter in letters} == {"undecodable"}
    assert [letter.original_seq for letter in letters] == [6, 9, 10]


async def test_an_event_published_twice_is_visible_once(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    one, two, three = (_event("d" * 32, n) for n in range(3))
    forged = SwarmEvent.FromString(one)
    forged.decision.rationale = "something else"

    async with _ingesting(server.url, store.url) as worker:
        # Without Nats-Msg-Id the stream takes every copy: two in one batch, others later.
        await _publish(stream, [one, two, one])
        await _until_count(table, 2)
        await _publish(stream, [one, three, forged.SerializeToString()])
        await _until_count(table, 3)
        await _until_acknowledged(server)
        statistics = worker.statistics()

    assert await _rows(table) == [one, two, three]
    assert statistics.duplicates == 3
    assert statistics.conflicting == 1
    copies = await table.query("SELECT stream_seq, duplicate_of FROM events FINAL ORDER BY stream_seq")
    assert copies.result_rows == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 0), (6, 1)]


async def test_events_without_an_id_are_never_taken_for_copies(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    async with _ingesting(server.url, store.url):
        await _publish(stream, [b"", b"", SwarmEvent(agent_id="x").SerializeToString()])
        await _until_count(table, 3)


async def test_a_time_no_column_can_hold_is_moved_and_kept_in_the_bytes(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    events = [SwarmEvent(event_id=str(n)) for n in range(3)]
    for event, seconds in zip(events, (-(2**62), 0, 2**62), strict=True):
        event.timestamp.seconds = seconds
    payloads = [event.SerializeToString() for event in events]

    async with _ingesting(server.url, store.url):
        await _publish(stream, payloads)
        await _until_count(table, 3)

    assert await _rows(table) == payloads
    assert await _rows(table, "toYear(event_time)") == [1900, 1970, 2299]


async def test_any_subject_of_the_stream_is_ingested(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    subjects = ["swarm.events.x", "swarm.events.coder.tool_call.run-1", "swarm.events.a.b.c.d.e"]

    async with _ingesting(server.url, store.url):
        for n, subject in enumerate(subjects):
            await stream.publish(subject, _event("s" * 32, n))
        await _until_count(table, 3)

    assert await _rows(table, "subject") == subjects


async def test_the_store_killed_in_the_middle_loses_and_doubles_nothing(
    server: NatsServer, stream: JetStreamContext, tmp_path: Path
) -> None:
    payloads = [_event("k" * 32, n) for n in range(1500)]
    async with store_process(tmp_path / "own") as own:
        async with _ingesting(server.url, own.url) as worker:
            for part in range(3):
                await _publish(stream, payloads[part * 500 : part * 500 + 300])
                victim = Victim(own.pid)
                await own.stop(signal.SIGKILL)
                await _publish(stream, payloads[part * 500 + 300 : part * 500 + 500])
                await own.start()
                victim.assert_replaced_by(own.pid)
            client = await connect(own.url)
            await apply_ddl(client)
            await _until_count(client, 1500)
            await _until_acknowledged(server)
            assert "TableUnavailable" in worker.statistics().last_error

        stored = await _rows(client)
        every = await client.query("SELECT count(), uniqExact(stream_seq) FROM events FINAL")
        await client.close()

    assert stored == payloads
    assert every.result_rows == [(1500, 1500)]


async def test_a_worker_that_starts_before_the_store_waits_for_it(
    server: NatsServer, stream: JetStreamContext, tmp_path: Path
) -> None:
    store = StoreProcess(tmp_path / "late")
    await store.start()
    await store.stop()
    await _publish(stream, [_event("l" * 32, n) for n in range(10)])

    async with _ingesting(server.url, store.url) as worker:

        async def failed() -> bool:
            await asyncio.sleep(0.01)
            return worker.statistics().retries > 0

        await _until(failed)
        await store.start()
        client = await connect(store.url)
        await apply_ddl(client)
        await _until_count(client, 10)
        await client.close()

    await store.stop()


async def test_a_worker_whose_store_is_away_holds_two_batches_and_half_of_one(
    server: NatsServer, stream: JetStreamContext
) -> None:
    await _publish(stream, [_event("h" * 32, n) for n in range(500)])
    # By rows, not by age: a batch that is due before it is full would be the last one that is taken.
    limits = BatchLimits(rows=100, seconds=60.0)
    async with Bus.connect(server.url) as bus, _ingesting(server.url, "http://127.0.0.1:1/x", limits=limits) as worker:
        held = 0

        async def full() -> bool:
            nonlocal held
            info = await bus.link.api(f"CONSUMER.INFO.ENCHANTED_SWARM.{DURABLE}")
            held = info["num_ack_pending"]
            return held > 200 and info["num_waiting"] == 0 and not worker._consumer._credit.asking

        await _until(full)
        assert held <= 250


async def test_a_crash_between_insert_and_acknowledgement_doubles_nothing(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    payloads = [_event("c" * 32, n) for n in range(100)]
    await _publish(stream, payloads)
    writer = Writer(store.url)
    async with Bus.connect(server.url) as bus, PullConsumer(bus, durable=DURABLE, ack_wait=1.0) as consumer:
        deliveries = await consumer.next_batch(60, 10**6, 5.0)
        rows = [
            row_of(
                StoredEvent(
                    seq=one.seq, time=one.time, subject=one.subject, raw=one.payload, event=parse_event(one.payload)
                ),
                redelivered=False,
            )
            for one in deliveries
        ]
        await writer.write(rows, (await bus.stream_info()).created, again=False)
    await writer.close()

    async with _ingesting(server.url, store.url) as worker:
        await _until_count(table, 100)
        await _until_acknowledged(server)
        statistics = worker.statistics()

    assert statistics.present == len(deliveries) > 0
    assert statistics.rows == 100 - len(deliveries)
    assert (await table.query("SELECT count() FROM events")).result_rows == [(100,)]
    assert await _rows(table) == payloads


async def test_a_consumer_made_again_delivers_everything_and_doubles_nothing(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    payloads = [_event("m" * 32, n) for n in range(300)]
    await _publish(stream, payloads[:200])
    async with _ingesting(server.url, store.url):
        await _until_count(table, 200)
        await _until_acknowledged(server)
    await stream.delete_consumer("ENCHANTED_SWARM", DURABLE)
    await _publish(stream, payloads[200:])

    async with _ingesting(server.url, store.url) as worker:
        await _until_count(table, 300)
        await _until_acknowledged(server)
        # On a machine that stands still a consumer may be made again, and what it held comes once more.
        statistics = worker.statistics()
        assert statistics.present == 200 or (statistics.rebuilds and statistics.present > 200)

    assert (await table.query("SELECT count() FROM events")).result_rows == [(300,)]


async def test_rows_written_twice_by_two_workers_collapse(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    await _publish(stream, [_event("w" * 32, 1)])
    async with _ingesting(server.url, store.url):
        await _until_count(table, 1)
    await table.command("INSERT INTO events SELECT * FROM events SETTINGS insert_deduplicate = 0")

    assert len(await _rows(table)) == 1


async def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    payloads, killed = [_event("x" * 32, n) for n in range(900)], set[int]()
    for part in range(3):
        await _publish(stream, payloads[part * 300 : part * 300 + 300])
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, server.url, store.url)
        await _until_count(table, part * 300 + 60)
        killed.add(await kill(process))

    async with _ingesting(server.url, store.url, ack_wait=1.0):
        await _until_count(table, 900)
        await _until_acknowledged(server)

    assert len(killed) == 3
    assert await _rows(table) == payloads


async def test_a_row_the_table_refuses_does_not_hold_up_the_others(
    server: NatsServer, store: StoreProcess, stream: JetStreamContext, table: AsyncClient
) -> None:
    await _publish(stream, [_event("r" * 32, n) for n in range(4)])
    writer = Writer(store.url)
    async with Bus.connect(server.url) as bus, PullConsumer(bus, durable="other") as consumer:
        deliveries = list[Delivery]()
        while len(deliveries) < 4:
            deliveries += await consumer.next_batch(4, 10**6, 5.0)
        created = (await bus.stream_info()).created
    rows = [
        row_of(
            StoredEvent(seq=d.seq, time=d.time, subject=d.subject, raw=d.payload, event=parse_event(d.payload)),
            redelivered=False,
        )
        for d in deliveries
    ]
    # Only a sequence no UInt64 can hold makes the client refuse a row of ours.
    rows[1] = replace(rows[1], seq=2**70, plain=False)

    written = await writer.write(rows, created, again=False)
    await writer.close()

    assert [row.seq for row, _ in written.refused] == [2**70]
    assert written.inserted == len(rows) - 1
