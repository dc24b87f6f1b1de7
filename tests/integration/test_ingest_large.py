"""Messages as large as may be, and larger: moved to the blob store, refused with a reason, or stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest
from nats.errors import MaxPayloadError
from nats.js.errors import APIError

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.errors import PayloadTooLarge
from enchanted.bus.fields import inflate
from enchanted.bus.server_config import MAX_PAYLOAD
from enchanted.bus.streams import MAX_MESSAGE
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.store.testing import running_store
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.tables import connect
from enchanted.ingest.worker import IngestWorker
from enchanted.schemas.events import SwarmEvent

DEADLINE = 60.0
HUGE = 8 * 1024 * 1024
SUBJECT = "swarm.events.coder.decision.large"
TOO_LARGE = 10054
"""JetStream's "message size exceeds maximum allowed"."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


def event_of(name: str, size: int = 0) -> bytes:
    """An event of exactly ``size`` bytes, or a small one."""
    event = SwarmEvent(event_id=name, run_id="large", trace_id="t")
    event.decision.rationale = "because"
    while (missing := size - event.ByteSize()) > 0:
        event.decision.rationale += "x" * max(1, missing - 8)
    return event.SerializeToString()


async def rows_of(server: NatsServer, folder: Path, count: int) -> list[tuple[str, bytes]]:
    """Ids and bytes in the table once a worker has stored or buried ``count`` messages."""
    limits = BatchLimits(seconds=0.2)
    async with (
        running_store(folder / "store") as store,
        IngestWorker(nats_url=server.url, clickhouse_url=store, limits=limits) as worker,
    ):
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(DEADLINE):
            while (done := worker.statistics()).rows + done.dead_letters < count:  # noqa: ASYNC110 - counts
                await asyncio.sleep(0.02)
        await worker.close()
        await running
        table = await connect(store)
        found = await table.query(
            "SELECT event_id, raw FROM events ORDER BY stream_seq", column_formats={"raw": "bytes"}
        )
        await table.close()
        return list(found.result_rows)


async def test_an_agents_event_of_8_mib_is_stored_with_its_text_in_the_blob_store(
    server: NatsServer, tmp_path: Path
) -> None:
    text = "0123456789abcdef" * (HUGE // 16)
    async with Bus.connect(server.url) as bus:
        log = AgentLog(bus, run_id="large", role="coder", agent_name="coder-1")
        for rationale in ("before", text, "after"):
            event = SwarmEvent()
            event.decision.rationale = rationale
            await log.emit(event)
        stored = await bus.read_run("large")
        whole = [await inflate(one.event, bus.blobs) for one in stored]
        assert await rows_of(server, tmp_path, 3) == [(one.event.event_id, one.raw) for one in stored]
    assert [one.decision.rationale for one in whole] == ["before", text, "after"]
    assert max(len(one.raw) for one in stored) < MAX_MESSAGE


async def test_a_publisher_refuses_8_mib_and_says_where_they_belong_and_its_neighbours_are_stored(
    server: NatsServer,
) -> None:
    messages = [
        Outgoing(subject=SUBJECT, payload=event_of(name, size), event_id=name)
        for name, size in (("before", 0), ("huge", HUGE), ("after", 0))
    ]
    async with Bus.connect(server.url) as bus:
        told = await asyncio.gather(*(bus.publisher.publish(one) for one in messages), return_exceptions=True)
        stored = [one.event.event_id for one in await bus.read_run("large")]
    assert isinstance(told[1], PayloadTooLarge)
    assert "blob store" in str(told[1])
    assert stored == ["before", "after"]


async def test_a_foreign_client_is_refused_8_mib_by_the_server_and_nobody_else_is_disturbed(
    server: NatsServer,
) -> None:
    async with Bus.connect(server.url) as bus:
        await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=event_of("before"), event_id="before"))
        assert "Maximum Payload Violation" in await answer_to_huge(server)
        foreign = await nats.connect(server.url)
        with pytest.raises(MaxPayloadError):
            await foreign.publish(SUBJECT, event_of("huge", HUGE))
        with pytest.raises(APIError) as refused:
            await foreign.jetstream(timeout=60).publish(SUBJECT, event_of("large", MAX_MESSAGE + 1))
        assert refused.value.err_code == TOO_LARGE
        await foreign.jetstream(timeout=60).publish(SUBJECT, event_of("foreign"))
        await foreign.close()
        await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=event_of("after"), event_id="after"))
        assert bus.publisher.statistics().retries == 0, "its connection was not touched"
        stored = [one.event.event_id for one in await bus.read_run("large")]
    assert stored == ["before", "foreign", "after"]


async def answer_to_huge(server: NatsServer) -> str:
    """What the server says to a client that does not ask how much it may send, before it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    login = f'{{"verbose":false,"user":"app","pass":"{urlsplit(server.url).password}"}}'
    writer.write(f"CONNECT {login}\r\nPUB {SUBJECT} {HUGE}\r\n".encode())
    try:
        async with asyncio.timeout(DEADLINE):
            return (await reader.read()).decode()
    finally:
        writer.close()


async def test_the_largest_event_is_a_row_and_the_largest_poison_a_dead_letter_and_neighbours_are_rows(
    server: NatsServer, tmp_path: Path
) -> None:
    largest, poison = event_of("largest", MAX_MESSAGE), b"\xff" * MAX_MESSAGE
    assert len(largest) == MAX_MESSAGE
    messages = [event_of("a"), largest, event_of("b"), poison, event_of("c")]
    foreign = await nats.connect(server.url)
    assert foreign.max_payload == MAX_PAYLOAD
    for payload in messages:
        await foreign.jetstream(timeout=60).publish(SUBJECT, payload)
    await foreign.close()
    rows = await rows_of(server, tmp_path, len(messages))
    assert [raw for _, raw in rows] == [one for one in messages if one != poison]
    async with Bus.connect(server.url) as bus:
        (letter,) = await DeadLetters(bus).list()
    assert letter.payload == poison
    assert letter.reason == "undecodable"
