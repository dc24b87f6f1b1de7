"""How far the pipeline is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class PipelineStream(BaseModel):
    """What a stream holds."""

    created: str
    first_seq: int
    last_seq: int
    messages: int
    bytes: int
    max_bytes: int
    """A stream that reaches it refuses what comes."""


class PipelineIngest(BaseModel):
    """How far ingest is."""

    connected: bool
    """Ingest has been here: its consumer exists."""
    acknowledged_seq: int
    """Every message up to here is dealt with."""
    pending: int
    """Messages not delivered to ingest yet."""
    ack_pending: int
    """Delivered, and not in the table for certain."""
    lag_seconds: float
    """Age of the oldest message that is not acknowledged."""


class PipelineTable(BaseModel):
    """What the table holds; copies of a row that are not merged yet count."""

    rows: int
    highest_seq: int
    """Of the stream as it is now."""
    duplicates: int
    """Of the rows, later copies of an event id."""


class PipelineSpans(BaseModel):
    """The same of OpenTelemetry spans; one message holds many."""

    stream: PipelineStream
    ingest: PipelineIngest
    rows: int
    """Spans in the table."""


class PipelineDocument(BaseModel):
    """Where events and spans are between stream and table."""

    stream: PipelineStream
    ingest: PipelineIngest
    table: PipelineTable
    spans: PipelineSpans
    dead_letters: int
    reconciliation: dict[str, Any] | None
    """What `enchanted reconcile --json` says, as of its ``at``; absent before the first, and where no ingest runs."""
