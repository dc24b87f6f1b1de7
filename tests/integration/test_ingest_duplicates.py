"""Copies of one event id, however they come: the first is visible, later ones are marked, other bytes are reported."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from nats.js import JetStreamContext

from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusError
from enchanted.bus.reader import consumer_state
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, nats_server
from enchanted.cluster.store.testing import running_store
from enchanted.ingest import single
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.rows import COLUMNS, Row, columns_of, read_row
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import DURABLE, IngestWorker
from enchanted.ingest.writer import Writer
from enchanted.schemas.events import SwarmEvent

STREAM, SUBJECT = "ENCHANTED_SWARM", "swarm.events.architect.decision"
LIMITS = BatchLimits(rows=100, seconds=0.1)
OF_BOTH_STREAMS = [(1, 0), (2, 0), (3, 0), (1, 0), (2, 1), (3, 2), (4, 3)]
"""What `seen` says of three events, and of a new one and those three in the stream made again."""


@pytest.fixture(scope="module")
async def store(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with running_store(tmp_path_factory.mktemp("store")) as url:
        yield url


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
async def table(store: str) -> AsyncIterator[AsyncClient]:
    client = await connect(store)
    await apply_ddl(client)
    await client.command("TRUNCATE TABLE events")
    yield client
    await client.close()


def made(ahead: float = 0.0, version: int = 7) -> str:
    """An id made now, or so many seconds from now."""
    head = int((time.time() + ahead) * 1000).to_bytes(6)
    number = int.from_bytes(head + uuid.uuid4().bytes[6:])
    return str(uuid.UUID(int=number & ~(0xF << 76) | version << 76))


def event(event_id: str, says: str = "one") -> bytes:
    filled = SwarmEvent(event_id=event_id, trace_id="t")
    filled.decision.rationale = says
    return filled.SerializeToString()


async def publish(stream: JetStreamContext, payload: bytes, msg_id: str = "") -> int:
    headers = {"Nats-Msg-Id": msg_id} if msg_id else None
    return (await stream.publish(SUBJECT, payload, headers=headers)).seq


class Ingest:
    """A worker, and another one whenever it fails, as the actor does it."""

    def __init__(self, server: NatsServer, store: str) -> None:
        self._urls = {"nats_url": server.url, "clickhouse_url": store}
        self.workers: list[IngestWorker] = []

    async def run(self) -> None:
        while True:
            try:
                async with IngestWorker(**self._urls, limits=LIMITS) as worker:
                    self.workers.append(worker)
                    await worker.run()
                    return
            except BusError as error:
                print(error)
            await asyncio.sleep(0.5)

    def counted(self) -> tuple[int, int]:
        """Copies, and those with other bytes."""
        counts = [worker.statistics() for worker in self.workers]
        return sum(one.duplicates for one in counts), sum(one.conflicting for one in counts)


@asynccontextmanager
async def ingesting(server: NatsServer, store: str) -> AsyncIterator[Ingest]:
    ingest = Ingest(server, store)
    running = asyncio.create_task(ingest.run())
    try:
        yield ingest
    finally:
        if ingest.workers:
            await ingest.workers[-1].close()
        running.cancel()
        await asyncio.wait({running})


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(45):
        while not await condition():  # noqa: ASYNC110 - neither stream nor table has an event for it
            await asyncio.sleep(0.02)


async def acknowledged(server: NatsServer, last: int) -> None:
    """All up to that sequence is."""
    async with Bus.connect(server.url) as bus:

        async def done() -> bool:
            consumer = await consumer_state(bus.link, STREAM, DURABLE)
            return consumer is not None and consumer.acknowledged >= last

        await until(done)


async def seen(table: AsyncClient) -> list[tuple[int, int]]:
    """Sequence, and of which it is a copy; of every row, in the order of streams and sequences."""
    sql = "SELECT stream_seq, duplicate_of FROM events FINAL ORDER BY stream_created, stream_seq"
    return [(int(seq), int(copy_of)) for seq, copy_of in (await table.query(sql)).result_rows]


@pytest.mark.parametrize("apart", [False, True], ids=["in one batch", "in two"])
@pytest.mark.parametrize("says", ["one", "another"])
async def test_a_copy_without_message_id_before_the_one_with_it_is_the_first(
    server: NatsServer, store: str, stream: JetStreamContext, table: AsyncClient, apart: bool, says: str
) -> None:
    event_id = made()
    async with ingesting(server, store) as ingest:
        await publish(stream, event(event_id))
        if apart:
            await acknowledged(server, 1)
        await publish(stream, event(event_id, says), event_id)
        await acknowledged(server, 2)
        assert ingest.counted() == (1, int(says != "one"))
    assert await seen(table) == [(1, 0), (2, 1)]


@pytest.mark.parametrize("apart", [False, True], ids=["in one batch", "in two"])
@pytest.mark.parametrize("says", ["one", "another"])
async def test_a_copy_without_message_id_after_the_one_with_it_is_marked(
    server: NatsServer, store: str, stream: JetStreamContext, table: AsyncClient, apart: bool, says: str
) -> None:
    event_id = made()
    async with ingesting(server, store) as ingest:
        await publish(stream, event(event_id), event_id)
        if apart:
            await acknowledged(server, 1)
        await publish(stream, event(event_id, says))
        await acknowledged(server, 2)
        assert ingest.counted() == (1, int(says != "one"))
    assert await seen(table) == [(1, 0), (2, 1)]


async def test_a_copy_with_message_id_within_the_window_is_refused_by_the_stream(
    server: NatsServer, store: str, stream: JetStreamContext, table: AsyncClient
) -> None:
    event_id = made()
    async with ingesting(server, store):
        assert await publish(stream, event(event_id), event_id) == 1
        assert await publish(stream, event(event_id, "another"), event_id) == 1
        await acknowledged(server, 1)
    assert await seen(table) == [(1, 0)]


@pytest.mark.parametrize("ahead", [0.0, 0.8, 30.0])
async def test_a_copy_with_message_id_after_the_window_is_marked(
    server: NatsServer,
    store: str,
    stream: JetStreamContext,
    table: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    ahead: float,
) -> None:
    await shorten_windows(server, monkeypatch, seconds=2)
    event_id = made(ahead)
    async with ingesting(server, store) as ingest:
        await publish(stream, event(event_id), event_id)
        await acknowledged(server, 1)

        async def taken() -> bool:
            return await publish(stream, event(event_id, "another"), event_id) == 2

        await until(taken)
        await acknowledged(server, 2)
        assert ingest.counted() == (1, 1)
    assert await seen(table) == [(1, 0), (2, 1)]


async def shorten_windows(server: NatsServer, monkeypatch: pytest.MonkeyPatch, *, seconds: int) -> None:
    """The stream's, and what the worker believes of it: half."""
    async with Bus.connect(server.url) as bus:
        config = (await bus.link.api(f"STREAM.INFO.{STREAM}"))["config"]
        await bus.link.api(f"STREAM.UPDATE.{STREAM}", config | {"duplicate_window": seconds * 10**9})
    monkeypatch.setattr(single, "WINDOW", seconds * 500_000)
    monkeypatch.setattr("enchanted.ingest.writer.WINDOW", seconds * 500_000)
    monkeypatch.setattr(single, "AHEAD", 1_000_000)


async def test_a_worker_started_in_between_knows_the_copies_before_it(
    server: NatsServer, store: str, stream: JetStreamContext, table: AsyncClient
) -> None:
    ids = [made(), made(30.0), str(uuid.uuid4())]
    async with ingesting(server, store):
        for event_id in ids:
            await publish(stream, event(event_id))
        await acknowledged(server, 3)
    async with ingesting(server, store) as ingest:
        for event_id in ids:
            await publish(stream, event(event_id, "another"), event_id)
        await acknowledged(server, 6)
        assert ingest.counted() == (3, 3)
    assert await seen(table) == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2), (6, 3)]


@pytest.mark.parametrize("running", [True, False], ids=["under a worker", "between two"])
async def test_a_stream_made_again_keeps_all_rows_and_marks_copies_of_them(
    server: NatsServer, store: str, stream: JetStreamContext, table: AsyncClient, running: bool
) -> None:
    ids = [made(), made(30.0), str(uuid.uuid4())]
    async with ingesting(server, store):
        for event_id in ids:
            await publish(stream, event(event_id), event_id)
        await acknowledged(server, 3)
        if running:
            await make_again(server)
            await published_again(server, stream, table, ids)
    if not running:
        await make_again(server)
        async with ingesting(server, store):
            await published_again(server, stream, table, ids)


async def make_again(server: NatsServer) -> None:
    async with Bus.connect(server.url) as bus:
        await bus.link.api(f"STREAM.DELETE.{STREAM}")
        await bus.ensure_streams(SMALL_LIMITS)


async def published_again(server: NatsServer, stream: JetStreamContext, table: AsyncClient, ids: list[str]) -> None:
    """The same events in a stream that has forgotten them, after one that is new."""
    fresh = made()
    await publish(stream, event(fresh), fresh)
    for event_id in ids:
        await publish(stream, event(event_id), event_id)

    async def there() -> bool:
        return len(await seen(table)) == 7

    await until(there)
    await acknowledged(server, 4)
    assert await seen(table) == OF_BOTH_STREAMS


async def test_a_worker_that_takes_a_stream_made_again_for_the_former_one_is_noticed(
    server: NatsServer, store: str, stream: JetStreamContext, table: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    begin, first = IngestWorker._begun, list[Any]()

    async def looks_once(worker: IngestWorker) -> Any:
        first.extend([] if first else [await begin(worker)])
        return first[0]

    monkeypatch.setattr(IngestWorker, "_begun", looks_once)
    ids = [made(), made(30.0), str(uuid.uuid4())]
    async with ingesting(server, store):
        for event_id in ids:
            await publish(stream, event(event_id), event_id)
        await acknowledged(server, 3)
        await make_again(server)
        for event_id in (made(), *ids):
            await publish(stream, event(event_id), event_id)
        await acknowledged(server, 4)
    assert len(await seen(table)) < len(OF_BOTH_STREAMS)


async def test_a_consumer_made_again_under_a_worker_doubles_nothing(
    server: NatsServer, store: str, stream: JetStreamContext, table: AsyncClient
) -> None:
    ids = [made(), str(uuid.uuid4())]
    async with ingesting(server, store):
        for event_id in ids:
            await publish(stream, event(event_id), event_id)
        await acknowledged(server, 2)
        await stream.delete_consumer(STREAM, DURABLE)
        await publish(stream, event(ids[0]))

        async def marked() -> bool:
            return len(await seen(table)) == 3

        await until(marked)
        await acknowledged(server, 3)
    rows: Any = await table.query("SELECT count() FROM events")
    assert rows.result_rows == [(3,)]
    assert await seen(table) == [(1, 0), (2, 0), (3, 1)]


async def test_a_copy_waits_for_the_insert_of_a_worker_that_is_gone(store: str, table: AsyncClient) -> None:
    created, event_id = datetime(2026, 11, 1, tzinfo=UTC), made()
    first, second = (
        read_row(seq, 1_793_491_200_000_000 + seq, SUBJECT, event(event_id), redelivered=False) for seq in (1, 2)
    )
    async with left_behind(store, table, first, created), writing(store) as writer:
        highest = await writer.begin(created)
        await writer.write([second], created, again=False)
    assert (highest, await seen(table)) == (1, [(1, 0), (2, 1)])


async def test_an_insert_that_takes_longer_than_any_of_a_worker_is_not_waited_for(
    store: str, table: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enchanted.ingest.predecessors.EXECUTION_DEADLINE", 0.1)
    created = datetime(2026, 11, 1, tzinfo=UTC)
    first = read_row(1, 1_793_491_200_000_001, SUBJECT, event(made()), redelivered=False)
    async with left_behind(store, table, first, created) as slow, writing(store) as writer:
        await writer.begin(created)
        assert not slow.done()


@asynccontextmanager
async def writing(store: str) -> AsyncIterator[Writer]:
    writer = Writer(store)
    try:
        yield writer
    finally:
        await writer.close()


@asynccontextmanager
async def left_behind(store: str, table: AsyncClient, row: Row, created: datetime) -> AsyncIterator[asyncio.Task[None]]:
    """An insert that takes three seconds, from when it is under way until it has ended."""
    slow = asyncio.create_task(insert_slowly(store, row, created))
    under_way = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO events%'"

    async def begun() -> bool:
        return bool((await table.query(under_way)).result_rows[0][0])

    await until(begun)
    yield slow
    await slow


async def insert_slowly(store: str, row: Row, created: datetime) -> None:
    client = await connect(store)
    shape = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    await client.command(f"CREATE OR REPLACE TABLE held ({shape}) ENGINE = Memory")
    await client.insert(
        "held",
        columns_of([row], created),
        column_names=list(COLUMNS),
        column_oriented=True,
        column_type_names=list(COLUMNS.values()),
    )
    names = ", ".join(COLUMNS)
    await client.command(f"INSERT INTO events ({names}) SELECT {names} FROM held WHERE sleepEachRow(3) = 0")
    await client.command("DROP TABLE held")
    await client.close()
