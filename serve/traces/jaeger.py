"""Spans in the form of Jaeger's query service, after the collector's translation of OTLP. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MICROSECOND = 1_000


def jaeger_trace(trace_id: str, rows: Sequence[Mapping[str, Any]], *, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """One trace: its spans, and the processes they ran in."""
    processes: dict[str, dict[str, Any]] = {}
    names: dict[tuple[str, ...], str] = {}
    spans = []
    for row in rows:
        resource = row["ResourceAttributes"]
        key = (row["ServiceName"], *(f"{name}={value}" for name, value in sorted(resource.items())))
        process = names.setdefault(key, f"p{len(names) + 1}")
        tags = {name: value for name, value in resource.items() if name != "service.name"}
        processes[process] = {"serviceName": row["ServiceName"], "tags": _tags(tags)}
        spans.append(_span(trace_id, row, process))
    return {"traceID": trace_id, "spans": spans, "processes": processes, "warnings": list(warnings) or None}


def _span(trace_id: str, row: Mapping[str, Any], process: str) -> dict[str, Any]:
    references = [] if not row["ParentSpanId"] else [_reference("CHILD_OF", trace_id, row["ParentSpanId"])]
    references += [
        _reference("FOLLOWS_FROM", trace, span)
        for trace, span in zip(row["link_traces"], row["link_spans"], strict=True)
    ]
    logs = zip(row["event_times"], row["event_names"], row["event_attributes"], strict=True)
    return {
        "traceID": trace_id,
        "spanID": row["SpanId"],
        "operationName": row["SpanName"],
        "references": references,
        "startTime": row["start"] // _MICROSECOND,
        "duration": row["Duration"] // _MICROSECOND,
        "tags": _tags(row["SpanAttributes"]) + _tags(_meaning(row)) + _error(row),
        "logs": [
            {"timestamp": time // _MICROSECOND, "fields": _tags({"event": name, **attributes})}
            for time, name, attributes in logs
        ],
        "processID": process,
        "warnings": None,
    }


def _meaning(row: Mapping[str, Any]) -> dict[str, str]:
    """What OTLP has as fields and Jaeger as tags."""
    told = {
        "span.kind": row["SpanKind"].lower() if row["SpanKind"] not in ("", "Unspecified") else "",
        "otel.scope.name": row["ScopeName"],
        "otel.scope.version": row["ScopeVersion"],
        "otel.status_code": row["StatusCode"].upper() if row["StatusCode"] in ("Ok", "Error") else "",
        "otel.status_description": row["StatusMessage"],
        "w3c.tracestate": row["TraceState"],
    }
    return {name: value for name, value in told.items() if value}


def _error(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": "error", "type": "bool", "value": True}] if row["StatusCode"] == "Error" else []


def _tags(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": name, "type": "string", "value": value} for name, value in values.items()]


def _reference(kind: str, trace_id: str, span_id: str) -> dict[str, str]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}
