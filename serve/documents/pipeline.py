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


class WorkerFigures(BaseModel):
    """What a worker has done since it was started, which a fault of bus or table may make happen again."""

    seconds: float
    """How long ago that was."""
    rows: int
    """Inserted, later copies included."""
    rows_per_second: float
    """Over the last 60 seconds, or since the start where that is less."""
    batches: int
    mean_batch: float
    """Messages per batch."""
    last_batch: int
    """Messages of the latest batch."""
    mean_insert_seconds: float
    """Until the table confirmed a batch, with looking up what was there already; tries that failed do not count."""
    last_insert_seconds: float
    present: int
    """Delivered again although they were in the table: dropped."""
    dead_letters: int
    retries: int
    """Tries that failed because bus or table were away."""
    rebuilds: int
    """How often the consumer was made again because it had fallen silent."""


class EventWorkerFigures(WorkerFigures):
    """The same of a worker that stores events."""

    duplicates: int
    """Of the rows, later copies of an event id."""
    conflicting: int
    """Of those, copies with other bytes than the first, which is the one that is shown."""


class PipelineWorker(BaseModel):
    """One ingest worker."""

    name: str
    events: EventWorkerFigures | None
    """Absent while it does not answer, or has not begun."""
    spans: WorkerFigures | None
    """Only the first of the pool stores spans."""


class PipelineDocument(BaseModel):
    """Where events and spans are between stream and table."""

    stream: PipelineStream
    ingest: PipelineIngest
    table: PipelineTable
    spans: PipelineSpans
    dead_letters: int
    workers: list[PipelineWorker] | None
    """Absent where nobody knows of workers, or does not say in time."""
    reconciliation: dict[str, Any] | None
    """What `enchanted reconcile --json` says, as of its ``at``; absent before the first, and where no ingest runs."""
