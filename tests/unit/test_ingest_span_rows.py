"""Spans before they reach anything: OTLP read, checked and cut, and the rows the collector's exporter would write."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from enchanted.bus.delivery import Delivery
from enchanted.ingest.attributes import attribute_map, attribute_text
from enchanted.ingest.errors import NotAnExport
from enchanted.ingest.otlp import (
    LATEST_NANOSECONDS,
    TraceExport,
    pieces,
    read_json,
    read_protobuf,
    spans_of,
    without_faulty,
)
from enchanted.ingest.span_rows import COLUMNS, columns_of, rows_of
from enchanted.ingest.span_writer import MOST_DAYS, by_days, token
from enchanted.ingest.spans import decoded
from enchanted.ingest.testing import BEGUN, attribute, export_of, span_of
from enchanted.schemas.ddl import migrations

# What the exporter's documentation says of its table (exporter/clickhouseexporter, default DDL).
EXPORTER_COLUMNS = """
Timestamp DateTime64(9); TraceId String; SpanId String; ParentSpanId String; TraceState String;
SpanName LowCardinality(String); SpanKind LowCardinality(String); ServiceName LowCardinality(String);
ResourceAttributes Map(LowCardinality(String), String); ScopeName String; ScopeVersion String;
SpanAttributes Map(LowCardinality(String), String); Duration UInt64; StatusCode LowCardinality(String);
StatusMessage String; Events.Timestamp Array(DateTime64(9)); Events.Name Array(LowCardinality(String));
Events.Attributes Array(Map(LowCardinality(String), String)); Links.TraceId Array(String); Links.SpanId Array(String);
Links.TraceState Array(String); Links.Attributes Array(Map(LowCardinality(String), String))
"""


def exporter_columns() -> dict[str, str]:
    pairs = (" ".join(column.split()).partition(" ") for column in EXPORTER_COLUMNS.split(";"))
    return {name: kind for name, _, kind in pairs}


def test_the_columns_are_those_of_the_collectors_exporter_in_its_order() -> None:
    ours = {name: kind.replace(", 'UTC'", "") for name, kind in COLUMNS.items()}
    assert list(ours.items()) == list(exporter_columns().items())


def test_the_table_has_the_same_columns() -> None:
    sql = next(migration.sql for migration in migrations() if migration.name == "spans")
    for name, kind in exporter_columns().items():
        inner = name.rpartition(".")[2]
        plain = kind.removeprefix("Array(").removesuffix(")") if "." in name else kind
        assert re.search(rf"\b{inner} {re.escape(plain).replace('9', '9(, .UTC.)?')}", sql), name


def test_the_exporters_own_sample_gives_its_own_row() -> None:
    export = TraceExport()
    resource = export.resource_spans.add(schema_url="https://opentelemetry.io/schemas/1.4.0")
    resource.resource.attributes.append(attribute("service.name", "test-service"))
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "io.opentelemetry.contrib.clickhouse", "1.0.0"
    span = scope.spans.add(
        trace_id=bytes([1, 2, 3]).ljust(16, b"\0"),
        span_id=bytes([1, 2, 3]).ljust(8, b"\0"),
        parent_span_id=bytes([1, 2, 4]).ljust(8, b"\0"),
        trace_state="trace state",
        name="call db",
        kind="SPAN_KIND_INTERNAL",
        start_time_unix_nano=BEGUN,
        end_time_unix_nano=BEGUN + 60_000_000_000,
        attributes=[attribute("service.name", "v")],
        status=Status(code=Status.STATUS_CODE_ERROR, message="error"),
    )
    span.events.add(name="event1", time_unix_nano=BEGUN, attributes=[attribute("level", "info")])
    link = span.links.add(trace_id=bytes([1, 2, 5]).ljust(16, b"\0"), span_id=bytes([1, 2, 5]).ljust(8, b"\0"))
    link.trace_state = "error"
    link.attributes.append(attribute("k", "v"))

    ((row,), faults) = rows_of(export, 1)

    assert faults == []
    assert dict(zip(COLUMNS, row.values, strict=True)) == {
        "Timestamp": BEGUN,
        "TraceId": "01020300000000000000000000000000",
        "SpanId": "0102030000000000",
        "ParentSpanId": "0102040000000000",
        "TraceState": "trace state",
        "SpanName": "call db",
        "SpanKind": "Internal",
        "ServiceName": "test-service",
        "ResourceAttributes": {"service.name": "test-service"},
        "ScopeName": "io.opentelemetry.contrib.clickhouse",
        "ScopeVersion": "1.0.0",
        "SpanAttributes": {"service.name": "v"},
        "Duration": 60_000_000_000,
        "StatusCode": "Error",
        "StatusMessage": "error",
        "Events.Timestamp": [BEGUN],
        "Events.Name": ["event1"],
        "Events.Attributes": [{"level": "info"}],
        "Links.TraceId": ["01020500000000000000000000000000"],
        "Links.SpanId": ["0102050000000000"],
        "Links.TraceState": ["error"],
        "Links.Attributes": [{"k": "v"}],
    }


@pytest.mark.parametrize(
    ("field", "number", "column", "text"),
    [
        *(
            ("kind", number, "SpanKind", text)
            for number, text in enumerate(["Unspecified", "Internal", "Server", "Client", "Producer", "Consumer", ""])
        ),
        *(("status", number, "StatusCode", text) for number, text in enumerate(["Unset", "Ok", "Error", ""])),
        ("kind", -1, "SpanKind", ""),
    ],
)
def test_kinds_and_codes_are_words_and_unknown_ones_are_empty(field: str, number: Any, column: str, text: str) -> None:
    fields: dict[str, Any] = {field: Status(code=number) if field == "status" else number}
    span = span_of(1, **fields)
    ((row,), _) = rows_of(export_of(span), 1)
    assert dict(zip(COLUMNS, row.values, strict=True))[column] == text


def test_a_span_that_never_ended_or_ended_too_early_has_no_duration() -> None:
    rows, _ = rows_of(export_of(span_of(1, end_time_unix_nano=0), span_of(2, end_time_unix_nano=BEGUN - 1)), 1)
    assert columns_of(rows)[list(COLUMNS).index("Duration")] == [0, 0]


def value(content: Any) -> AnyValue:
    match content:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=content)
        case int():
            return AnyValue(int_value=content)
        case float():
            return AnyValue(double_value=content)
        case bytes():
            return AnyValue(bytes_value=content)
        case list():
            return AnyValue(array_value=ArrayValue(values=[value(one) for one in content]))
        case dict():
            pairs = [KeyValue(key=key, value=value(one)) for key, one in content.items()]
            return AnyValue(kvlist_value=KeyValueList(values=pairs))
    return AnyValue(string_value=content)


# What Go's pcommon.Value.AsString gives: ECMAScript's numbers, and JSON that may stand within HTML.
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ("plain <b>", "plain <b>"),
        (True, "true"),
        (-(2**63), "-9223372036854775808"),
        (1.0, "1"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e-7, "1.5e-7"),
        (1e-6, "0.000001"),
        (1e-100, "1e-100"),
        (float("nan"), "json: unsupported value: NaN"),
        (float("-inf"), "json: unsupported value: -Inf"),
        (b"\xff\0", "/wA="),
        ([], "[]"),
        ({}, "{}"),
        (["a", 1, 2.5, False, None, b"\xff\0"], '["a",1,2.5,false,null,"/wA="]'),
        ({"b": [{"c": 1}], "a": "x"}, '{"a":"x","b":[{"c":1}]}'),
        (['<&>\u2028"\\\n\x01é'], '["\\u003c\\u0026\\u003e\\u2028\\"\\\\\\n\\u0001é"]'),
        ([float("inf")], ""),
    ],
)
def test_an_attribute_is_the_text_the_collector_makes_of_it(content: Any, text: str) -> None:
    assert attribute_text(value(content)) == text


def test_of_an_attribute_that_comes_twice_the_last_counts() -> None:
    assert attribute_map([attribute("a", "1"), attribute("b", "2"), attribute("a", "3")]) == {"a": "3", "b": "2"}


def test_json_has_hexadecimal_ids_and_unknown_fields_do_no_harm() -> None:
    document = {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]},
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                "spanId": "eee19b7ec3c1b174",
                                "parentSpanId": "eee19b7ec3c1b173",
                                "name": "I'm a server span",
                                "startTimeUnixNano": "1544712660000000000",
                                "endTimeUnixNano": 1544712661000000000,
                                "kind": 2,
                                "fromTheFuture": {"a": [1]},
                                "links": [
                                    {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174"}
                                ],
                            }
                        ]
                    }
                ],
            }
        ]
    }
    ((_, _, span),) = spans_of(read_json(json.dumps(document).encode()))
    assert span.trace_id.hex() == span.links[0].trace_id.hex() == "5b8efff798038103d269b633813fc60c"
    assert (span.parent_span_id.hex(), span.kind) == ("eee19b7ec3c1b173", Span.SPAN_KIND_SERVER)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_000_000_000


def _with(**fields: Any) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"resourceSpans": 1}',
        b'{"resourceSpans": [1]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": "x"}]}]}',
        _with(traceId="xyz"),
        _with(traceId=7),
        _with(name=7),
        _with(startTimeUnixNano="soon"),
        _with(startTimeUnixNano=-1),
        _with(startTimeUnixNano=2**70),
        _with(attributes={"a": 1}),
        b'{"resourceSpans":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
def test_what_is_no_export_is_refused(raw: bytes) -> None:
    with pytest.raises(NotAnExport, match="ExportTraceServiceRequest"):
        read_json(raw)


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x04\x12\x02\x12\x09", b'{"resourceSpans": []}'])
def test_what_protobuf_rejects_is_no_export(raw: bytes) -> None:
    with pytest.raises(NotAnExport):
        read_protobuf(raw)


def test_spans_that_cannot_be_stored_are_named_and_the_others_stay() -> None:
    bad = [
        span_of(2, trace_id=b""),
        span_of(3, trace_id=bytes(16)),
        span_of(4, span_id=bytes(8)),
        span_of(5, span_id=b"\1" * 7),
        span_of(6, parent_span_id=b"\1" * 9),
        span_of(7, start_time_unix_nano=LATEST_NANOSECONDS + 1),
        span_of(8, end_time_unix_nano=2**64 - 1),
    ]
    export = export_of(span_of(1), *bad, span_of(9, parent_span_id=bytes(8)))
    rows, found = rows_of(export, 1)
    faults = without_faulty(export)
    assert faults == found
    assert len(faults) == len(bad)
    assert [span.name for _, _, span in spans_of(export)] == [row.values[5] for row in rows] == ["step 1", "step 9"]
    assert rows[1].values[3] == ""


def test_an_export_is_cut_into_messages_that_hold_every_span_once_with_what_it_belongs_to() -> None:
    export = export_of(*(span_of(n, attributes=[attribute("k", "x" * (n % 50))]) for n in range(1, 400)), service="a")
    export.MergeFrom(export_of(*(span_of(n, trace=2) for n in range(1, 100)), service="b"))
    whole, none = pieces(export, 1 << 20)
    assert (len(whole), none) == (1, 0)
    for most in (400, 1_000, 10_000):
        payloads, too_large = pieces(export, most)
        assert too_large == 0
        assert max(map(len, payloads)) <= most
        assert len(payloads) > 1
        assert payloads == pieces(TraceExport.FromString(export.SerializeToString()), most)[0]
        found = [row.values for payload in payloads for row in rows_of(read_protobuf(payload), 1)[0]]
        assert found == [row.values for row in rows_of(export, 1)[0]]


def test_a_span_that_fits_no_message_is_counted_and_left_out() -> None:
    export = export_of(span_of(1), span_of(2, name="x" * 2_000), span_of(3))
    payloads, too_large = pieces(export, 1_000)
    assert too_large == 1
    names = [span.name for payload in payloads for _, _, span in spans_of(read_protobuf(payload))]
    assert names == ["step 1", "step 3"]
    assert pieces(export_of(span_of(1), service="x" * 2_000), 1_000) == ([], 1)


def test_a_days_worth_of_partitions_is_never_exceeded() -> None:
    day = 86_400 * 1_000_000_000
    rows, _ = rows_of(export_of(*(span_of(n, start_time_unix_nano=(n * 7 % 300) * day) for n in range(1, 400))), 1)
    batches = list(by_days(rows))
    assert sum(len(batch) for batch in batches) == len(rows)
    assert max(len({row.start // day for row in batch}) for batch in batches) == MOST_DAYS


def test_a_token_is_the_same_for_the_same_spans_of_one_attempt_only() -> None:
    rows, _ = rows_of(export_of(span_of(1), span_of(2)), 1)
    assert token(rows, "a") == token(list(rows), "a")
    assert len({token(rows, "a"), token(rows, "b"), token(rows[:1], "a"), token(rows[::-1], "a")}) == 4


def test_what_protobufs_own_json_holds_is_what_ours_reads() -> None:
    export = export_of(span_of(1, attributes=[attribute("k", "v")]))
    document = MessageToDict(export)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span, (_, _, original) in zip(scope["spans"], spans_of(export), strict=True):
                span |= {"traceId": original.trace_id.hex(), "spanId": original.span_id.hex()}
    assert read_json(json.dumps(document).encode()) == export


def test_rows_know_whether_their_message_was_delivered_before() -> None:
    payload = export_of(span_of(1)).SerializeToString()
    replies = [b"$JS.ACK.SPANS.ingest-spans.%d.%d.1.1700000000000000000.0" % (times, times + 10) for times in (1, 2)]
    rows, _ = decoded([Delivery("otlp", reply, b"", payload, cast(Any, None)) for reply in replies])
    assert [(row.seq, row.redelivered) for row in rows] == [(11, False), (12, True)]
