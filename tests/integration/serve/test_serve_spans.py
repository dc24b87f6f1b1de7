"""Spans over HTTP: taken as OTLP says, stored once, and read back as a tree with the events of each span."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.streams import parse_info
from enchanted.bus.testing import SMALL_LIMITS, NatsServer
from enchanted.ingest.otlp import TraceExport, spans_of
from enchanted.ingest.testing import attribute, export_of, span_of
from enchanted.schemas.events import SwarmEvent
from enchanted.serve.app import create_app
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, served, until
from enchanted.serve.traces import otlp

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
_traces: Iterator[int] = itertools.count(0xE0000001)


def new_trace() -> tuple[int, str]:
    number = next(_traces)
    return number, number.to_bytes(16, "big").hex()


def as_json(export: TraceExport) -> bytes:
    """OTLP's JSON: protobuf's own, but for the ids."""
    document = MessageToDict(export, use_integers_for_enums=True)
    for resource, original in zip(document["resourceSpans"], export.resource_spans, strict=True):
        for scope, own in zip(resource["scopeSpans"], original.scope_spans, strict=True):
            for span, message in zip(scope["spans"], own.spans, strict=True):
                span |= {"traceId": message.trace_id.hex(), "spanId": message.span_id.hex()}
    return json.dumps(document).encode()


async def send(world: World, body: bytes, headers: Mapping[str, str] = PROTOBUF) -> httpx.Response:
    return await world.http.post("/v1/traces", content=body, headers=headers)


async def stored(world: World, trace: str, count: int) -> dict[str, Any]:
    """The trace, once so many of its spans are in the table."""

    async def there() -> bool:
        response = await world.get(f"traces/{trace}")
        return response.status_code == 200 and response.json()["meta"]["stored_spans"] >= count

    await until(there)
    return await world.document(f"traces/{trace}")


async def last_message(world: World) -> int:
    return parse_info(await world.bus.link.api("STREAM.INFO.ENCHANTED_SPANS")).last_seq


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("headers", [PROTOBUF, JSON, {"Content-Type": "application/JSON; charset=utf-8"}])
async def test_an_export_is_answered_in_its_own_encoding_and_stored(
    world: World, headers: dict[str, str], compressed: bool
) -> None:
    number, trace = new_trace()
    export = export_of(span_of(1, number), span_of(2, number))
    body = export.SerializeToString() if headers is PROTOBUF else as_json(export)
    if compressed:
        headers, body = {**headers, "Content-Encoding": "gzip"}, gzip.compress(body)
    response = await send(world, body, headers)
    assert response.status_code == 200
    if "protobuf" in headers["Content-Type"]:
        assert response.headers["content-type"] == "application/x-protobuf"
        assert not ExportTraceServiceResponse.FromString(response.content).HasField("partial_success")
    else:
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {}
    document = await stored(world, trace, 2)
    assert [span["name"] for span in document["spans"]] == ["step 1", "step 2"]


async def test_an_export_that_is_repeated_is_stored_once(world: World) -> None:
    number, trace = new_trace()
    export = export_of(*(span_of(n, number, attributes=[attribute("k", "x" * 4_000)]) for n in range(1, 600)))
    before = await last_message(world)
    for headers, body in ((PROTOBUF, export.SerializeToString()), (JSON, as_json(export)), (PROTOBUF, b"")):
        assert (await send(world, body, headers)).status_code == 200
    after = await last_message(world)
    assert after - before == 3, "2.4 MB are three messages of at most one"
    document = await stored(world, trace, 599)
    assert len(document["spans"]) == document["meta"]["stored_spans"] == 599


def _export_with_the_sdk(world: World) -> SpanContext:
    headers = {"Authorization": world.http.headers["Authorization"]}
    exporter = OTLPSpanExporter(f"{world.url}/v1/traces", headers=headers, compression=Compression.Gzip, timeout=60)
    provider = TracerProvider(resource=Resource.create({"service.name": "the-sdk", "host.cpus": 2}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("sdk-tests", "3.1")
    with tracer.start_as_current_span("root", kind=SpanKind.SERVER) as root:
        context = root.get_span_context()
        with tracer.start_as_current_span(
            "first", attributes={"tokens": 7, "stops": ["a", "b"], "ratio": 0.5}
        ) as first:
            first.add_event("thought", {"about": "it"})
        with tracer.start_as_current_span("second", kind=SpanKind.CLIENT, links=[Link(context)]) as second:
            second.set_status(StatusCode.ERROR, "went wrong")
    provider.shutdown()
    return context


async def test_the_real_exporter_delivers_a_tree_with_everything_on_it(world: World) -> None:
    context = await asyncio.to_thread(_export_with_the_sdk, world)
    trace = f"{context.trace_id:032x}"
    document = await stored(world, trace, 3)
    spans = {span["name"]: span for span in document["spans"]}
    assert document["roots"] == [spans["root"]["span_id"]] == [f"{context.span_id:016x}"]
    assert spans["root"]["children"] == [spans["first"]["span_id"], spans["second"]["span_id"]]
    assert spans["first"]["parent_span_id"] == spans["root"]["span_id"]
    assert [spans[name]["kind"] for name in ("root", "first", "second")] == ["Server", "Internal", "Client"]
    assert spans["first"]["attributes"] == {"tokens": "7", "stops": '["a","b"]', "ratio": "0.5"}
    assert [(event["name"], event["attributes"]) for event in spans["first"]["span_events"]] == [
        ("thought", {"about": "it"})
    ]
    assert (spans["second"]["status"], spans["second"]["status_message"]) == ("Error", "went wrong")
    assert spans["second"]["links"][0]["span_id"] == spans["root"]["span_id"]
    assert {span["service"] for span in spans.values()} == {"the-sdk"}
    assert spans["root"]["resource"]["host.cpus"] == "2"
    assert spans["root"]["scope"] == {"name": "sdk-tests", "version": "3.1"}
    assert spans["root"]["duration_ns"] >= spans["first"]["duration_ns"] > 0

    jaeger = (await world.http.get(f"/api/traces/{trace}")).json()
    (found,) = jaeger["data"]
    assert found["traceID"] == trace
    operations = {span["operationName"]: span for span in found["spans"]}
    assert operations["first"]["references"][0] == {
        "refType": "CHILD_OF",
        "traceID": trace,
        "spanID": operations["root"]["spanID"],
    }
    assert {"key": "error", "type": "bool", "value": True} in operations["second"]["tags"]
    assert found["processes"][operations["root"]["processID"]]["serviceName"] == "the-sdk"
    assert "the-sdk" in (await world.http.get("/api/services")).json()["data"]


async def test_events_and_spans_of_a_trace_meet_in_one_tree(world: World) -> None:
    number, trace = new_trace()
    spans = [span_of(1, number), span_of(2, number, parent_span_id=(1).to_bytes(8, "big")), span_of(3, number)]
    messages = []
    for n, span in enumerate(["0000000000000002", "00000000000000aa", ""]):
        event = SwarmEvent(event_id=f"{trace}-{n}", trace_id=trace, span_id=span, agent_id="a", agent_name="coder-1")
        event.decision.rationale = "because"
        messages.append(
            Outgoing(subject="swarm.events.coder.decision", payload=event.SerializeToString(), event_id=event.event_id)
        )
    await world.bus.publisher.publish_many(messages)
    assert (await send(world, export_of(*spans).SerializeToString())).status_code == 200

    async def complete() -> bool:
        response = await world.get(f"traces/{trace}")
        meta = response.json().get("meta", {})
        return (meta.get("events"), meta.get("stored_spans")) == (3, 3)

    await until(complete)
    document = await world.document(f"traces/{trace}")
    found = {span["span_id"]: span for span in document["spans"]}
    one, two, three, other = (f"{n:016x}" for n in (1, 2, 3, 0xAA))
    assert set(found) == {one, two, three, other, ""}
    assert set(document["roots"]) == {one, three, other, ""}
    assert found[one]["children"] == [two]
    assert [event["event_id"] for event in found[two]["events"]] == [f"{trace}-0"]
    assert (found[two]["stored"], found[two]["agent_name"], found[two]["name"]) == (True, "coder-1", "step 2")
    assert (found[other]["stored"], found[other]["name"], len(found[other]["events"])) == (False, "", 1)
    assert found[three]["events"] == []


async def test_spans_that_are_each_others_parents_are_shown_all_the_same(world: World) -> None:
    number, trace = new_trace()
    parents = {1: 2, 2: 1, 3: 3, 4: 2}
    spans = [span_of(n, number, parent_span_id=parent.to_bytes(8, "big")) for n, parent in parents.items()]
    assert (await send(world, export_of(*spans).SerializeToString())).status_code == 200
    document = await stored(world, trace, 4)
    children = {int(span["span_id"], 16): [int(one, 16) for one in span["children"]] for span in document["spans"]}
    assert [int(one, 16) for one in document["roots"]] == [1, 3]
    assert children == {1: [2], 2: [4], 3: [], 4: []}


async def test_a_span_that_is_in_the_table_twice_is_answered_once(world: World) -> None:
    number, trace = new_trace()
    await send(world, export_of(span_of(1, number), span_of(2, number)).SerializeToString())
    await stored(world, trace, 2)
    copied = f"INSERT INTO spans SELECT * FROM spans WHERE TraceId = '{trace}' SETTINGS insert_deduplicate = 0"
    await world.table.command(copied)
    counted = await world.table.query(f"SELECT count() FROM spans WHERE TraceId = '{trace}'")
    assert counted.result_rows == [(4,)]
    assert [span["name"] for span in (await stored(world, trace, 2))["spans"]] == ["step 1", "step 2"]
    (found,) = (await world.http.get(f"/api/traces/{trace}")).json()["data"]
    assert len(found["spans"]) == 2


async def test_a_very_deep_trace_is_answered(world: World) -> None:
    number, trace = new_trace()
    spans = [span_of(n, number, parent_span_id=(n - 1).to_bytes(8, "big")) for n in range(1, 2_001)]
    assert (await send(world, export_of(*spans).SerializeToString())).status_code == 200
    document = await stored(world, trace, 2_000)
    assert document["roots"] == [f"{1:016x}"]


@pytest.mark.parametrize("headers", [PROTOBUF, JSON])
async def test_spans_that_cannot_be_stored_are_rejected_and_the_others_taken(
    world: World, headers: dict[str, str]
) -> None:
    number, trace = new_trace()
    export = export_of(span_of(1, number), span_of(2, number, trace_id=bytes(16)), span_of(3, number, span_id=bytes(8)))
    body = export.SerializeToString() if headers is PROTOBUF else as_json(export)
    response = await send(world, body, headers)
    assert response.status_code == 200
    if headers is PROTOBUF:
        partial = ExportTraceServiceResponse.FromString(response.content).partial_success
        assert partial.rejected_spans == 2
        assert "trace id" in partial.error_message
    else:
        assert response.json()["partialSuccess"]["rejectedSpans"] == "2"
    assert [span["name"] for span in (await stored(world, trace, 1))["spans"]] == ["step 1"]


async def test_a_span_too_large_for_a_message_is_rejected_and_the_others_taken(world: World) -> None:
    number, trace = new_trace()
    large = span_of(2, number, attributes=[attribute("k", "x" * (1 << 20))])
    response = await send(world, export_of(span_of(1, number), large).SerializeToString())
    assert ExportTraceServiceResponse.FromString(response.content).partial_success.rejected_spans == 1
    await stored(world, trace, 1)


async def test_nothing_valid_is_answered_without_a_message(world: World) -> None:
    before = await last_message(world)
    response = await send(world, export_of(span_of(1, trace_id=b"")).SerializeToString())
    assert (response.status_code, await last_message(world)) == (200, before)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (PROTOBUF, b"\xff\xff\xff"),
        (PROTOBUF, b"{}"),
        (PROTOBUF | {"Content-Encoding": "gzip"}, b"no gzip"),
        (PROTOBUF | {"Content-Encoding": "gzip"}, gzip.compress(b"", mtime=0)[:-4]),
        (PROTOBUF | {"Content-Encoding": "gzip"}, gzip.compress(bytes(otlp.MAX_EXPORT + 1), mtime=0)),
        (JSON, b""),
        (JSON, b"[]"),
        (JSON, b'{"resourceSpans": 7}'),
        (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "zz"}]}]}]}'),
        (JSON, b"\xff"),
    ],
)
async def test_bad_bytes_are_a_status_that_forbids_a_retry(world: World, headers: dict[str, str], body: bytes) -> None:
    response = await send(world, body, headers)
    assert response.status_code == 400
    assert response.headers["content-type"] == headers["Content-Type"]
    if headers["Content-Type"] == PROTOBUF["Content-Type"]:
        assert Status.FromString(response.content).code == 3
    else:
        assert response.json()["code"] == 3
        assert "ExportTraceServiceRequest" in response.json()["message"]


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/plain"}, {"Content-Type": ""}, PROTOBUF | {"Content-Encoding": "br"}],
)
async def test_other_encodings_are_not_understood(world: World, headers: dict[str, str]) -> None:
    response = await send(world, b"", headers)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported-media")


async def test_an_export_larger_than_any_is_refused(world: World) -> None:
    deps = Dependencies(
        store=Store(world.store_url),
        bus=BusLink(world.nats.url),
        access=Access(token="t"),
        cache=world.folder / "large",
    )
    # In the same process: over a socket the answer may be lost with the connection that is cut.
    transport = httpx.ASGITransport(app=create_app(deps))
    headers = {**PROTOBUF, "Authorization": "Bearer t"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        assert (await client.post("/v1/traces", content=bytes(otlp.MAX_EXPORT + 1))).status_code == 413
        assert (await client.post("/v1/traces", content=bytes(otlp.MAX_EXPORT))).status_code == 400


async def test_no_garbage_gives_a_server_error(world: World) -> None:
    dice = random.Random(11)
    whole = export_of(*(span_of(n, 0xBAD, attributes=[attribute("k", "v")]) for n in range(1, 4)))
    originals = {PROTOBUF["Content-Type"]: whole.SerializeToString(), JSON["Content-Type"]: as_json(whole)}
    statuses = set()
    for _ in range(200):
        kind, body = dice.choice(list(originals.items()))
        garbled = bytearray(body)
        for _ in range(dice.randrange(1, 5)):
            garbled[dice.randrange(len(garbled))] = dice.randrange(256)
        kept = dice.choice([len(garbled), dice.randrange(len(garbled))])
        response = await send(world, bytes(garbled[:kept]), {"Content-Type": kind})
        statuses.add(response.status_code)
    assert statuses == {200, 400}


async def test_spans_need_the_token(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.url) as stranger:
        for method, path in (("POST", "/v1/traces"), ("GET", "/api/traces/a"), ("GET", "/api/services")):
            assert (await stranger.request(method, path, headers=PROTOBUF)).status_code == 401


async def test_a_trace_nobody_sent_is_not_found(world: World) -> None:
    for path in ("/api/v1/traces", "/api/traces"):
        response = await world.http.get(f"{path}/{'c' * 32}")
        assert (response.status_code, response.json()["code"]) == (404, "trace-not-found")


async def test_a_bus_that_is_away_is_tried_again_and_the_exporter_delivers_later(world: World) -> None:
    server = NatsServer(world.folder / "late")
    body = export_of(span_of(1)).SerializeToString()
    deps = Dependencies(
        store=Store(world.store_url), bus=BusLink(server.url), access=Access(token="t"), cache=world.folder / "away"
    )
    async with served(deps) as url, httpx.AsyncClient(headers={"Authorization": "Bearer t"}, timeout=30) as client:
        for headers in (PROTOBUF, JSON):
            sent = body if headers is PROTOBUF else as_json(TraceExport.FromString(body))
            response = await client.post(f"{url}/v1/traces", content=sent, headers=headers)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
        assert response.json()["code"] == 14
        try:
            await server.start()
            async with Bus.connect(server.url) as bus:
                await bus.ensure_streams(SMALL_LIMITS)
            response = await client.post(f"{url}/v1/traces", content=body, headers=PROTOBUF)
            assert response.status_code == 200
        finally:
            await server.stop()


async def test_the_pipeline_says_where_spans_are(world: World) -> None:
    before = (await world.document("pipeline"))["spans"]
    number, trace = new_trace()
    await send(world, export_of(*(span_of(n, number) for n in range(1, 6))).SerializeToString())
    await stored(world, trace, 5)

    async def settled() -> bool:
        spans = (await world.document("pipeline"))["spans"]
        return bool(spans["ingest"]["acknowledged_seq"] == spans["stream"]["last_seq"])

    await until(settled)
    after = (await world.document("pipeline"))["spans"]
    assert after["rows"] == before["rows"] + 5
    assert (after["ingest"]["connected"], after["ingest"]["lag_seconds"]) == (True, 0.0)
    assert after["stream"]["max_bytes"] > 0


async def test_what_is_published_is_what_was_sent(world: World) -> None:
    number, _ = new_trace()
    export = export_of(span_of(1, number), span_of(2, number))
    await send(world, as_json(export), JSON)
    message = await world.bus.link.api("STREAM.MSG.GET.ENCHANTED_SPANS", {"seq": await last_message(world)})
    assert message["message"]["subject"] == "swarm.spans.otlp"
    assert len(list(spans_of(export))) == 2
