"""Traces: the spans of the table as a tree, with the events that were published in each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter

from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.traces import TraceDocument
from enchanted.serve.errors import TraceNotFound
from enchanted.serve.queries.events import rfc3339_of, row_document
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import TraceId

router = APIRouter(tags=["traces"])
TRACE_LIMIT = 10_000
"""Events, and spans, of one trace that are shown at most."""


@router.get("/api/v1/traces/{trace_id}", response_model=None, responses=described(TraceDocument))
async def read_trace(trace_id: TraceId, deps: Deps) -> JsonResponse:
    """A trace: each span with its parent, its children and the events that were published in it."""
    (rows, more), (stored, more_spans) = await asyncio.gather(
        deps.store.fitting_events("trace_events", TRACE_LIMIT, trace=trace_id), stored_spans(deps, [trace_id.lower()])
    )
    if not rows and not stored:
        raise TraceNotFound(trace_id)
    spans: dict[str, dict[str, Any]] = {}
    for row in rows:
        document = row_document(row)
        span = spans.setdefault(document.get("span_id", ""), _span_of_event(document))
        span["ended_at"] = document["stream_time"]
        span["events"].append(document)
    for one in stored:
        span = spans.setdefault(one["SpanId"], _span_of_row(one))
        span |= _told(one)
    roots = relate(spans)
    meta = {
        "events": len(rows),
        "stored_spans": len(stored),
        "truncated": more,
        "spans_truncated": more_spans,
    }
    return JsonResponse({"trace_id": trace_id, "spans": list(spans.values()), "roots": roots, "meta": meta})


def relate(spans: Mapping[str, dict[str, Any]]) -> list[str]:
    """Give each span its children, in the order they started; returns those without a parent among the spans.

    Spans whose parents lead back to themselves have no root: the earliest of them is taken for one.
    """
    for span in spans.values():
        span["children"] = []
    ordered = sorted(spans.values(), key=lambda span: (span["start_time"] or span["started_at"], span["span_id"]))
    roots: list[str] = []
    for span in ordered:
        # Events that name no span are together under an empty id, which is nobody's parent.
        parent = spans.get(span["parent_span_id"]) if span["parent_span_id"] else None
        (roots if parent is None else parent["children"]).append(span["span_id"])
    reached = set(_below(spans, roots))
    for span in ordered:
        if span["span_id"] not in reached:
            spans[span["parent_span_id"]]["children"].remove(span["span_id"])
            roots.append(span["span_id"])
            reached |= set(_below(spans, [span["span_id"]]))
    return roots


def _below(spans: Mapping[str, dict[str, Any]], roots: Iterable[str]) -> Iterable[str]:
    """The spans themselves and all under them."""
    waiting, seen = list(roots), set[str]()
    while waiting:
        span_id = waiting.pop()
        if span_id not in seen:
            seen.add(span_id)
            waiting += spans[span_id]["children"]
            yield span_id


async def stored_spans(
    deps: Dependencies, trace_ids: Sequence[str], span_ids: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], bool]:
    """The spans of traces, each named once, in this order and by start, and whether there are more.

    With ``span_ids`` one of each trace.
    """
    return await deps.store.fitting("trace_spans", TRACE_LIMIT, traces=list(trace_ids), spans=list(span_ids))


def _span_of_event(first: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "span_id": first.get("span_id", ""),
        "agent_id": first.get("agent_id", ""),
        "agent_name": first.get("agent_name", ""),
        "role": first.get("agent_role", "ROLE_UNSPECIFIED"),
        "started_at": first["stream_time"],
        "ended_at": first["stream_time"],
        "events": [],
        "stored": False,
        "parent_span_id": "",
        "name": "",
        "start_time": "",
    }


def _span_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    attributes = row["SpanAttributes"]
    return {
        "span_id": row["SpanId"],
        "agent_id": attributes.get("gen_ai.agent.id", ""),
        "agent_name": attributes.get("gen_ai.agent.name", ""),
        "role": "ROLE_UNSPECIFIED",
        "started_at": rfc3339_of(row["start"]),
        "ended_at": rfc3339_of(row["start"] + row["Duration"]),
        "events": [],
    }


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the span's exporter said of it."""
    return {
        "stored": True,
        "parent_span_id": row["ParentSpanId"],
        "name": row["SpanName"],
        "kind": row["SpanKind"],
        "service": row["ServiceName"],
        "start_time": rfc3339_of(row["start"]),
        "end_time": rfc3339_of(row["start"] + row["Duration"]),
        "duration_ns": row["Duration"],
        "status": row["StatusCode"],
        "status_message": row["StatusMessage"],
        "attributes": row["SpanAttributes"],
        "resource": row["ResourceAttributes"],
        "scope": {"name": row["ScopeName"], "version": row["ScopeVersion"]},
        "span_events": [
            {"time": rfc3339_of(time), "name": name, "attributes": attributes}
            for time, name, attributes in zip(
                row["event_times"], row["event_names"], row["event_attributes"], strict=True
            )
        ],
        "links": [
            {"trace_id": trace, "span_id": span, "attributes": attributes}
            for trace, span, attributes in zip(
                row["link_traces"], row["link_spans"], row["link_attributes"], strict=True
            )
        ],
    }
