"""What is large passes Ray Serve whole, in both directions."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path

import httpx
import nats
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enchanted.cluster.testing import HomeUnderTest, eventually
from enchanted.schemas.gen.events_pb2 import ROLE_ARCHITECT, SwarmEvent

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024
EVENTS, SPANS = 40, 60
LONG = 320
LARGE = MIB // 2


@pytest.fixture
def api(swarm: HomeUnderTest) -> httpx.Client:
    status = swarm.status()
    token = Path(status["token_file"]).read_text().strip()
    return httpx.Client(base_url=status["api_url"], headers={"Authorization": f"Bearer {token}"}, timeout=60)


async def publish_large(nats_url: str, trace_id: str, events: int, size: int) -> None:
    client = await nats.connect(nats_url)
    try:
        for number in range(events):
            event = SwarmEvent(
                event_id=str(uuid.uuid4()), trace_id=trace_id, span_id=f"{number:016x}", agent_id="large"
            )
            event.agent_role = ROLE_ARCHITECT
            event.timestamp.GetCurrentTime()
            event.decision.rationale = str(number % 10) * size
            await client.jetstream().publish("swarm.events.architect.decision", event.SerializeToString(), timeout=60)
    finally:
        await client.close()


def test_an_answer_of_twenty_megabytes_comes_whole(swarm: HomeUnderTest, api: httpx.Client) -> None:
    trace_id = uuid.uuid4().hex
    asyncio.run(publish_large(swarm.status()["nats_url"], trace_id, events=EVENTS, size=LARGE))

    def shown(fields: str | None = None) -> httpx.Response:
        more = {"fields": fields} if fields else {}
        return api.get("/api/v1/events", params={"run": trace_id, "limit": str(EVENTS), **more})

    eventually(lambda: len(shown("seq").json()["data"]) == EVENTS, seconds=60, about="every event is in the table")
    answer = shown()
    assert answer.status_code == 200
    assert len(answer.content) > EVENTS * LARGE
    assert [len(event["decision"]["rationale"]) for event in answer.json()["data"]] == [LARGE] * EVENTS


def test_an_export_that_is_not_read_waits_in_the_table_and_not_in_memory(
    swarm: HomeUnderTest, api: httpx.Client
) -> None:
    status, trace_id = swarm.status(), uuid.uuid4().hex
    asyncio.run(publish_large(status["nats_url"], trace_id, events=LONG, size=LARGE))
    counted = {"query": f"SELECT toUInt32(count()) FROM events WHERE run = '{trace_id}'"}
    eventually(lambda: api.post("/api/v1/sql", json=counted).json()["rows"] == [[LONG]], seconds=60, about="all stored")
    replica = psutil.Process(swarm.replica().pid)
    before = replica.io_counters().read_chars
    with api.stream("GET", "/api/v1/export", params={"run": trace_id, "format": "ndjson"}) as answer:
        assert answer.status_code == 200
        for _ in range(50):
            time.sleep(0.1)
            assert api.get("/healthz").status_code == 200
        taken = replica.io_counters().read_chars - before
        lines = answer.read().splitlines()
    assert [len(json.loads(line)["decision"]["rationale"]) for line in lines] == [LARGE] * LONG
    print(f"{taken // MIB} MiB were taken from the table for an answer of {LONG * LARGE // MIB} MiB that nobody read")
    assert taken < LONG * LARGE * 3 // 4 < LONG * LARGE < replica.io_counters().read_chars - before


def test_an_export_of_six_megabytes_is_taken_whole(api: httpx.Client) -> None:
    trace_id, begun = uuid.uuid4(), time.time_ns()
    export = ExportTraceServiceRequest()
    spans = export.resource_spans.add().scope_spans.add().spans
    for number in range(1, SPANS + 1):
        span = spans.add(
            trace_id=trace_id.bytes,
            span_id=number.to_bytes(8),
            name="large",
            start_time_unix_nano=begun,
            end_time_unix_nano=begun + 1,
        )
        span.attributes.add(key="text").value.string_value = "x" * 100_000
    body = export.SerializeToString()
    assert len(body) > 5 * MIB

    answer = api.post("/v1/traces", content=body, headers={"Content-Type": "application/x-protobuf"})

    assert (answer.status_code, answer.content) == (200, b"")
    eventually(
        lambda: api.get(f"/api/v1/traces/{trace_id.hex}").json().get("meta", {}).get("stored_spans") == SPANS,
        seconds=60,
        about="every span is in the table",
    )
    stored = api.get(f"/api/v1/traces/{trace_id.hex}").json()["spans"]
    assert {len(span["attributes"]["text"]) for span in stored} == {100_000}
