"""For tests: exports of spans."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enchanted.ingest.otlp import TraceExport

BEGUN = 1_780_000_000 * 1_000_000_000
"""Nanoseconds; the start of the first span."""


def span_of(number: int, trace: int = 1, **fields: Any) -> Span:
    """Span ``number`` of a trace, a millisecond long; ``fields`` win."""
    start = BEGUN + number * 1_000_000
    told: dict[str, Any] = {
        "trace_id": trace.to_bytes(16, "big"),
        "span_id": number.to_bytes(8, "big"),
        "name": f"step {number}",
        "kind": "SPAN_KIND_INTERNAL",
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + 1_000_000,
    }
    return Span(**(told | fields))


def export_of(*spans: Span, service: str = "tests") -> TraceExport:
    """The spans of one service, as an exporter sends them."""
    export = TraceExport()
    resource = export.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", service))
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "enchanted.tests", "1.0"
    scope.spans.extend(spans)
    return export


def attribute(key: str, text: str) -> KeyValue:
    """A text attribute."""
    return KeyValue(key=key, value=AnyValue(string_value=text))
