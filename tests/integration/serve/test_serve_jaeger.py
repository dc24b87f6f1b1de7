"""Stock clients: spans sent by OpenTelemetry's own exporter are read by the calls Jaeger's page and Grafana make."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode, set_span_in_context

from enchanted.ingest.testing import attribute, export_of, span_of
from enchanted.serve.sources import store
from enchanted.serve.testing import World, until
from enchanted.serve.traces import trace as traces_module

# Field by field what Jaeger's query service marshals (its package model/json and its structuredResponse).
ANSWER = {"data", "total", "limit", "offset", "errors"}
TRACE = {"traceID": str, "spans": list, "processes": dict, "warnings": (list, type(None))}
SPAN = {
    "traceID": str, "spanID": str, "operationName": str, "references": list, "startTime": int, "duration": int,
    "tags": list, "logs": list, "processID": str, "warnings": (list, type(None)),
}  # fmt: skip
REFERENCE = {"refType": str, "traceID": str, "spanID": str}
LOG = {"timestamp": int, "fields": list}
PROCESS = {"serviceName": str, "tags": list}
KEY_VALUE = {"key": str, "type": str, "value": (str, bool, int, float)}
VALUE_TYPES = {"string": str, "bool": bool, "int64": int, "float64": float, "binary": str}


@dataclass(frozen=True)
class Shop:
    """Two services that were traced."""

    front: str
    back: str
    buy: str
    """Trace id of a purchase: front calls back, which fails."""
    look: str
    """Trace id of a look, within front, later."""
    before: int
    """Microseconds since 1970."""
    after: int


def _trace_a_shop(url: str, authorization: str) -> tuple[str, str, str, str]:
    end = secrets.token_hex(4)
    front, back = f"front-{end}", f"back end/{end}"

    def tracer(service: str) -> tuple[TracerProvider, Any]:
        exporter = OTLPSpanExporter(f"{url}/v1/traces", headers={"Authorization": authorization}, timeout=60)
        provider = TracerProvider(resource=Resource.create({"service.name": service, "deployment": "blue"}))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return provider, provider.get_tracer("shop", "1.2")

    (front_provider, in_front), (back_provider, in_back) = tracer(front), tracer(back)
    with in_front.start_as_current_span("GET /buy", kind=SpanKind.SERVER, attributes={"http.status_code": 500}) as root:
        with (
            in_front.start_as_current_span("call", kind=SpanKind.CLIENT),
            in_back.start_as_current_span("charge", kind=SpanKind.SERVER) as charge,
        ):
            charge.add_event("declined", {"card": "4:2"})
            charge.set_status(StatusCode.ERROR, "no money")
            time.sleep(0.02)
        with in_back.start_as_current_span("mail", kind=SpanKind.CONSUMER, links=[Link(charge.get_span_context())]):
            pass
    alone, begun = set_span_in_context(None), time.time_ns()  # type: ignore[arg-type]
    look = in_front.start_span("GET /look", alone, attributes={"http.status_code": 200}, start_time=begun)
    look.end(begun + 1_000_000)
    for provider in (front_provider, back_provider):
        assert provider.force_flush(60_000)
        provider.shutdown()
    return front, back, f"{root.get_span_context().trace_id:032x}", f"{look.get_span_context().trace_id:032x}"


@pytest.fixture(scope="module")
async def shop(world: World) -> Shop:
    before = time.time_ns() // 1_000
    found = await asyncio.to_thread(_trace_a_shop, world.url, world.http.headers["Authorization"])
    shop = Shop(*found, before, time.time_ns() // 1_000)

    async def there() -> bool:
        buy = await world.http.get(f"/api/traces/{shop.buy}")
        look = await world.http.get(f"/api/traces/{shop.look}")
        return look.status_code == buy.status_code == 200 and len(buy.json()["data"][0]["spans"]) == 4

    await until(there)
    return shop


async def asked(world: World, path: str, **parameters: Any) -> list[Any]:
    """The data of an answer in Jaeger's envelope."""
    response = await world.http.get(f"/api/{path}", params=parameters)
    assert response.status_code == 200, response.text
    document = response.json()
    assert document.keys() == ANSWER
    assert document["errors"] is None
    data: list[Any] = document["data"]
    return data


def has_form(value: Mapping[str, Any], form: Mapping[str, Any]) -> None:
    assert value.keys() == form.keys()
    for name, kind in form.items():
        assert isinstance(value[name], kind), (name, value[name])


def all_tags(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    spans = trace["spans"]
    logs = [field for span in spans for log in span["logs"] for field in log["fields"]]
    processes = [tag for process in trace["processes"].values() for tag in process["tags"]]
    return [*(tag for span in spans for tag in span["tags"]), *logs, *processes]


async def test_a_trace_has_every_field_of_jaegers_model_and_no_other(world: World, shop: Shop) -> None:
    (trace,) = await asked(world, f"traces/{shop.buy}", prettyPrint="true")
    has_form(trace, TRACE)
    for span in trace["spans"]:
        has_form(span, SPAN)
        assert span["traceID"] == shop.buy
        assert span["processID"] in trace["processes"]
        assert shop.before <= span["startTime"] <= shop.after
        for reference in span["references"]:
            has_form(reference, REFERENCE)
            assert reference["refType"] in ("CHILD_OF", "FOLLOWS_FROM")
        for log in span["logs"]:
            has_form(log, LOG)
    for process in trace["processes"].values():
        has_form(process, PROCESS)
    for tag in all_tags(trace):
        has_form(tag, KEY_VALUE)
        assert type(tag["value"]) is VALUE_TYPES[tag["type"]]


async def test_a_trace_tells_what_was_sent(world: World, shop: Shop) -> None:
    (trace,) = await asked(world, f"traces/{shop.buy}")
    spans = {span["operationName"]: span for span in trace["spans"]}
    parents = {
        name: [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
        for name, span in spans.items()
    }
    assert parents == {
        "GET /buy": [],
        "call": [spans["GET /buy"]["spanID"]],
        "charge": [spans["call"]["spanID"]],
        "mail": [spans["GET /buy"]["spanID"]],
    }
    follows = [one for one in spans["mail"]["references"] if one["refType"] == "FOLLOWS_FROM"]
    assert [(one["spanID"], one["traceID"]) for one in follows] == [(spans["charge"]["spanID"], shop.buy)]
    services = {name: trace["processes"][span["processID"]]["serviceName"] for name, span in spans.items()}
    assert services == {"GET /buy": shop.front, "call": shop.front, "charge": shop.back, "mail": shop.back}
    tags = {tag["key"]: tag["value"] for tag in spans["charge"]["tags"]}
    assert tags == {
        "span.kind": "server", "otel.scope.name": "shop", "otel.scope.version": "1.2", "otel.status_code": "ERROR",
        "otel.status_description": "no money", "error": True,
    }  # fmt: skip
    assert [{field["key"]: field["value"] for field in log["fields"]} for log in spans["charge"]["logs"]] == [
        {"event": "declined", "card": "4:2"}
    ]
    assert spans["charge"]["duration"] >= 20_000


async def test_a_trace_is_found_by_an_id_without_its_zeros_and_in_capitals(world: World, shop: Shop) -> None:
    for name in (shop.buy.upper(), shop.buy.lstrip("0")):
        (trace,) = await asked(world, f"traces/{name}", start=shop.before, end=shop.after)
        assert trace["traceID"] == shop.buy


async def test_services_and_their_operations_are_listed(world: World, shop: Shop) -> None:
    assert {shop.front, shop.back} <= set(await asked(world, "services"))
    quoted = shop.back.replace(" ", "%20").replace("/", "%2F")
    assert await asked(world, f"services/{shop.front}/operations") == ["GET /buy", "GET /look", "call"]
    assert await asked(world, f"services/{quoted}/operations") == ["charge", "mail"]
    assert await asked(world, "services/nobody/operations") == []
    assert await asked(world, "operations", service=shop.back) == [
        {"name": "charge", "spanKind": "server"},
        {"name": "mail", "spanKind": "consumer"},
    ]
    assert [one["name"] for one in await asked(world, "operations", service=shop.back, spanKind="server")] == ["charge"]
    assert (await world.http.get("/api/operations")).status_code == 422


SEARCHES: list[tuple[dict[str, Any], str]] = [
    # As Grafana's data source asks.
    ({"limit": 20}, "buy look"),
    ({"operation": "GET /buy", "tags": '{"http.status_code":"500"}'}, "buy"),
    ({"tags": '{"error":"true"}'}, ""),
    ({"minDuration": "15ms", "maxDuration": "10s", "lookback": "custom"}, "buy"),
    ({"maxDuration": "1ns"}, ""),
    # As Jaeger's page asks, empty fields included.
    ({"limit": 20, "lookback": "1h", "maxDuration": "", "minDuration": "", "operation": ""}, "buy look"),
    ({"tags": '{"span.kind":"server","deployment":"blue"}'}, "buy"),
    ({"tag": ["http.status_code:200"]}, "look"),
    ({"tag": ["http.status_code:200", "deployment:green"]}, ""),
    ({"limit": 1}, "look"),
    ({"tags": '{"absent":""}'}, ""),
    ({"tags": '{"a\\u0000\\n\'\\"\\\\":"\\u0000\\t%{x:String}\'"}'}, ""),
    ({"tag": ["a\0:\0", "]':,["]}, ""),
]


@pytest.mark.parametrize(("search", "found"), SEARCHES)
async def test_traces_are_found_by_what_clients_ask_for(
    world: World, shop: Shop, search: dict[str, Any], found: str
) -> None:
    times = {"start": shop.before, "end": shop.after}
    traces = await asked(world, "traces", service=shop.front, **times, **search)
    assert {trace["traceID"] for trace in traces} == {getattr(shop, name) for name in found.split()}
    for trace in traces:
        assert len(trace["spans"]) == (4 if trace["traceID"] == shop.buy else 1), "whole traces are shown"


async def test_the_tags_of_a_search_are_those_that_traces_show(world: World, shop: Shop) -> None:
    (trace,) = await asked(world, f"traces/{shop.buy}")
    for span in trace["spans"]:
        process = trace["processes"][span["processID"]]
        shown = span["tags"] + process["tags"] + [field for log in span["logs"] for field in log["fields"]]
        for tag in (one for one in shown if one["key"] != "event"):
            value = "true" if tag["value"] is True else tag["value"]
            service, tags = process["serviceName"], json.dumps({tag["key"]: value})
            found = await asked(world, "traces", service=service, operation=span["operationName"], tags=tags)
            assert [one["traceID"] for one in found] == [shop.buy], tag


async def test_a_search_without_times_looks_at_the_last_days_and_the_newest_comes_first(
    world: World, shop: Shop
) -> None:
    assert [trace["traceID"] for trace in await asked(world, "traces", service=shop.front)] == [shop.look, shop.buy]
    earlier = await asked(world, "traces", service=shop.front, start=shop.before - 10**9, end=shop.before - 1)
    assert earlier == []
    named = await asked(world, "traces", traceID=[shop.look, "0" * 32, shop.buy])
    assert [trace["traceID"] for trace in named] == [shop.look, shop.buy]


@pytest.mark.parametrize(
    "search",
    [
        {}, {"service": ""}, {"service": "a", "start": "x"}, {"service": "a", "start": -1},
        {"service": "a", "end": "9" * 30},
        {"service": "a", "limit": 0}, {"service": "a", "limit": 10**6}, {"service": "a", "minDuration": "fast"},
        {"service": "a", "minDuration": "2s", "maxDuration": "1s"}, {"service": "a", "tag": "no colon"},
        {"service": "a", "tags": '{"\\ud800":"a"}'}, {"service": "a", "tags": "{"},
        {"service": "a", "tags": '{"a":1}'}, {"service": "a", "tags": "[" * 700}, {"service": "a", "tags": "a" * 900},
        {"service": "\0"}, {"service": "a" * 300},
    ],
)  # fmt: skip
async def test_a_search_that_makes_no_sense_is_refused(world: World, search: dict[str, Any]) -> None:
    response = await world.http.get("/api/traces", params=search)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


async def test_who_calls_whom_is_counted(world: World, shop: Shop) -> None:
    now = {"endTs": int(time.time() * 1_000) + 1_000, "lookback": 3_600_000}
    expected = {"parent": shop.front, "child": shop.back, "callCount": 2}
    assert expected in await asked(world, "dependencies", **now)
    assert await asked(world, "dependencies", service=shop.back) == [expected]
    assert await asked(world, "dependencies", endTs=shop.before // 1_000 - 10, lookback=1_000, service=shop.back) == []
    assert (await world.http.get("/api/dependencies", params={"endTs": "x"})).status_code == 422


async def test_the_reads_need_the_token(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.url) as stranger:
        for path in ("services", "operations", "traces", "dependencies", "services/a/operations"):
            assert (await stranger.get(f"/api/{path}")).status_code == 401


BUSY_TRACES, BUSY_SPANS = 6, 8


@dataclass(frozen=True)
class Busy:
    """A service whose traces are too many for one answer, where a test makes the limits small."""

    service: str
    newest: list[str]
    """Trace ids, the newest first."""


@pytest.fixture(scope="module")
async def busy(world: World) -> Busy:
    """Each trace has the same span ids as the others, and begins after the one before."""
    service, first, now = f"busy-{secrets.token_hex(4)}", secrets.randbits(100) << 8, time.time_ns()
    spans = []
    for trace in range(1, BUSY_TRACES + 1):
        for number in range(1, BUSY_SPANS + 1):
            start = now - 10**9 + trace * 10**8 + number * 10**6
            times = {"start_time_unix_nano": start, "end_time_unix_nano": start + 10**6}
            spans.append(span_of(number, first + trace, attributes=[attribute("k", "x" * 4_000)], **times))
    body = export_of(*spans, service=service).SerializeToString()
    sent = await world.http.post("/v1/traces", content=body, headers={"Content-Type": "application/x-protobuf"})
    assert sent.status_code == 200, sent.text
    newest = [f"{first + trace:032x}" for trace in range(BUSY_TRACES, 0, -1)]

    async def there() -> bool:
        found = await asked(world, "traces", service=service)
        return [len(trace["spans"]) for trace in found] == [BUSY_SPANS] * BUSY_TRACES

    await until(there)
    return Busy(service, newest)


async def test_of_more_traces_than_an_answer_holds_the_newest_are_whole_and_of_each_other_its_first_span(
    world: World, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_module, "TRACE_LIMIT", 20)
    found = await asked(world, "traces", service=busy.service, limit=20)
    assert [trace["traceID"] for trace in found] == busy.newest
    shown = [[span["operationName"] for span in trace["spans"]] for trace in found]
    assert shown == [[f"step {number}" for number in range(1, count + 1)] for count in (8, 8, 4, 1, 1, 1)]
    assert [trace["warnings"] for trace in found[:2]] == [None, None]
    for trace, count in zip(found[2:], (4, 1, 1, 1), strict=True):
        (warning,) = trace["warnings"]
        assert f"the first {count} of 8 spans" in warning
        assert f"/api/traces/{trace['traceID']}" in warning
    for trace in found:
        has_form(trace, TRACE)
        (whole,) = await asked(world, f"traces/{trace['traceID']}")
        assert (len(whole["spans"]), whole["warnings"]) == (BUSY_SPANS, None)


async def test_of_large_traces_too_the_newest_are_shown_first(
    world: World, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE_BYTES", 60_000)
    monkeypatch.setattr(traces_module, "TRACE_LIMIT", 40)
    found = await asked(world, "traces", service=busy.service)
    assert [trace["traceID"] for trace in found] == busy.newest
    assert [len(trace["spans"]) for trace in found] == [8, 2, 1, 1, 1, 1]


async def test_traces_of_which_not_even_one_span_is_shown_are_named(
    world: World, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_module, "TRACE_LIMIT", 2)
    found = await asked(world, "traces", service=busy.service)
    shown, left_out = busy.newest[:3], busy.newest[3:]
    assert [trace["traceID"] for trace in found] == shown
    assert "the first 1 of 8 spans" in found[-1]["warnings"][0]
    assert all(one in found[-1]["warnings"][1] for one in left_out)


async def test_the_spans_of_a_trace_that_is_asked_for_alone_are_its_first(
    world: World, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_module, "TRACE_LIMIT", 5)
    for found in (
        await asked(world, f"traces/{busy.newest[0]}"),
        await asked(world, "traces", traceID=[busy.newest[0]] * 2),
    ):
        assert [span["operationName"] for span in found[0]["spans"]] == [f"step {number}" for number in range(1, 6)]
        assert found[0]["warnings"] == ["only the first 5 spans of this answer are shown"]
    document = await world.document(f"traces/{busy.newest[0]}")
    assert (document["meta"]["stored_spans"], document["meta"]["spans_truncated"]) == (5, True)
