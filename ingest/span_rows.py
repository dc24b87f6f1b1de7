"""Spans as rows, column for column what the OpenTelemetry collector's ClickHouse exporter writes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from enchanted.ingest.attributes import attribute_map
from enchanted.ingest.otlp import LATEST_NANOSECONDS, TraceExport, fault_of

_MAP = "Map(LowCardinality(String), String)"
_TIME = "DateTime64(9, 'UTC')"

COLUMNS: dict[str, str] = {
    "Timestamp": _TIME,
    "TraceId": "String",
    "SpanId": "String",
    "ParentSpanId": "String",
    "TraceState": "String",
    "SpanName": "LowCardinality(String)",
    "SpanKind": "LowCardinality(String)",
    "ServiceName": "LowCardinality(String)",
    "ResourceAttributes": _MAP,
    "ScopeName": "String",
    "ScopeVersion": "String",
    "SpanAttributes": _MAP,
    "Duration": "UInt64",
    "StatusCode": "LowCardinality(String)",
    "StatusMessage": "String",
    "Events.Timestamp": f"Array({_TIME})",
    "Events.Name": "Array(LowCardinality(String))",
    "Events.Attributes": f"Array({_MAP})",
    "Links.TraceId": "Array(String)",
    "Links.SpanId": "Array(String)",
    "Links.TraceState": "Array(String)",
    "Links.Attributes": f"Array({_MAP})",
}
"""The table's columns in the order of `SpanRow.values`, with their types."""

_KINDS = ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")
_STATUS_CODES = ("Unset", "Ok", "Error")


@dataclass(frozen=True, slots=True)
class SpanRow:
    """One span on its way into the table."""

    seq: int
    """Stream sequence of the message it came in."""
    start: int
    """Nanoseconds since 1970."""
    values: tuple[Any, ...]
    redelivered: bool = False
    """Its message was delivered before, so whoever had it then may still be at work."""

    @property
    def identity(self) -> str:
        """Trace id and span id."""
        return f"{self.values[1]}{self.values[2]}"

    @property
    def place(self) -> tuple[str, str, int]:
        """Service, name and second: where the table has it, by its sorting key."""
        return self.values[7], self.values[5], self.start // 1_000_000_000


def rows_of(export: TraceExport, seq: int, *, redelivered: bool = False) -> tuple[list[SpanRow], list[str]]:
    """The rows of a message, and why some of its spans are none."""
    rows: list[SpanRow] = []
    faults: list[str] = []
    for resource in export.resource_spans:
        attributes = attribute_map(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                if fault := fault_of(span):
                    faults.append(fault)
                else:
                    values = _values(resource, attributes, scope, span)
                    rows.append(SpanRow(seq, span.start_time_unix_nano, values, redelivered))
    return rows, faults


def columns_of(rows: Iterable[SpanRow]) -> list[Sequence[Any]]:
    """The rows turned on their side: one sequence for each of COLUMNS."""
    return [list(column) for column in zip(*(row.values for row in rows), strict=True)]


def _values(resource: ResourceSpans, attributes: dict[str, str], scope: ScopeSpans, span: Span) -> tuple[Any, ...]:
    # A span that ends before it starts, or never ended, gets no duration; the collector's would be 584 years.
    duration = max(0, span.end_time_unix_nano - span.start_time_unix_nano)
    return (
        span.start_time_unix_nano,
        span.trace_id.hex(),
        span.span_id.hex(),
        _id_text(span.parent_span_id),
        span.trace_state,
        span.name,
        _word(_KINDS, span.kind),
        attributes.get("service.name", ""),
        attributes,
        scope.scope.name,
        scope.scope.version,
        attribute_map(span.attributes),
        duration,
        _word(_STATUS_CODES, span.status.code),
        span.status.message,
        [min(event.time_unix_nano, LATEST_NANOSECONDS) for event in span.events],
        [event.name for event in span.events],
        [attribute_map(event.attributes) for event in span.events],
        [_id_text(link.trace_id) for link in span.links],
        [_id_text(link.span_id) for link in span.links],
        [link.trace_state for link in span.links],
        [attribute_map(link.attributes) for link in span.links],
    )


def _word(words: Sequence[str], number: int) -> str:
    """The name of an enum's value; empty for one we do not know."""
    return words[number] if 0 <= number < len(words) else ""


def _id_text(raw: bytes) -> str:
    return raw.hex() if any(raw) else ""
