"""A trace and its spans."""

from __future__ import annotations

from pydantic import BaseModel

from enchanted.serve.documents.events import EventDocument


class SpanEvent(BaseModel):
    """What OpenTelemetry calls an event of a span."""

    time: str
    name: str
    attributes: dict[str, str]


class SpanLink(BaseModel):
    """Another span that this one has to do with."""

    trace_id: str
    span_id: str
    attributes: dict[str, str]


class SpanDocument(BaseModel):
    """One span: the events published in it and, once its exporter sent it, what it was."""

    span_id: str
    agent_id: str
    agent_name: str
    role: str
    started_at: str
    """The stream's time of its first event; its own where it has none."""
    ended_at: str
    events: list[EventDocument]
    stored: bool
    """The span was exported; all below but ``children`` is known only then."""
    parent_span_id: str
    name: str
    children: list[str]
    """Span ids, in the order they started."""
    start_time: str
    """Nanoseconds shown; empty while it is not stored."""
    end_time: str | None = None
    duration_ns: int | None = None
    kind: str | None = None
    """Internal, Server, Client, Producer, Consumer or Unspecified."""
    service: str | None = None
    status: str | None = None
    """Unset, Ok or Error."""
    status_message: str | None = None
    attributes: dict[str, str] | None = None
    resource: dict[str, str] | None = None
    scope: dict[str, str] | None = None
    span_events: list[SpanEvent] | None = None
    links: list[SpanLink] | None = None


class TraceMeta(BaseModel):
    """How much of the trace is shown."""

    events: int
    truncated: bool
    """There are more events."""
    stored_spans: int
    spans_truncated: bool


class TraceDocument(BaseModel):
    """A trace: its spans in order of first event, then those without events by start, related by ids."""

    trace_id: str
    spans: list[SpanDocument]
    roots: list[str]
    """Span ids of those whose parent is not among the spans."""
    meta: TraceMeta
