"""The shapes of the answers of statistics, SQL and the ledger, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class SqlColumn(BaseModel):
    """A column of an answer."""

    name: str
    type: str
    """As ClickHouse names it."""


class SqlMeta(BaseModel):
    """How the question went."""

    elapsed_ms: float
    truncated: bool
    """There are more rows than were asked for."""


class SqlDocument(BaseModel):
    """The answer to one SELECT."""

    columns: list[SqlColumn]
    rows: list[list[Any]]
    """One value for each column; times as RFC 3339, texts that are not UTF-8 with replacement characters."""
    meta: SqlMeta


class Latency(BaseModel):
    """Milliseconds; absent where there was no such call, approximate where there were many."""

    p50: float | None
    p95: float | None


class Latencies(BaseModel):
    """By kind of call."""

    model_call: Latency
    tool_call: Latency


class AgentStats(BaseModel):
    """What an agent did in a bucket of time."""

    agent: str
    """Its id, or the name or role asked for by `by`."""
    name: str
    role: str
    start: str
    """Of the bucket; of the first event where there are no buckets."""
    end: str
    """The bucket ends before it; the last event where there are no buckets."""
    first_at: str
    last_at: str
    last_seq: int
    agents: int
    """Agent ids."""
    runs: int
    events: int
    decisions: int
    changes: int
    """State changes, reverts among them."""
    reverts: int
    """State changes that take others back: rollbacks and undos."""
    model_calls: int
    tool_calls: int
    errors: int
    """The three below."""
    failed_model_calls: int
    failed_tool_calls: int
    """Failed, denied or timed out."""
    critical_failures: int
    """System signals with this status."""
    error_rate: float | None
    """Failed calls among all calls; absent without calls."""
    confidence: float | None
    """Mean over the decisions, those of producers that give none counted as 0; absent without decisions."""
    input_tokens: int
    output_tokens: int
    latency_ms: Latencies


class AgentStatsMeta(BaseModel):
    """What was asked for."""

    bucket: Literal["hour", "day", "whole"]
    by: Literal["agent", "name", "role"]
    truncated: bool
    """There are more rows: ask for an agent, a run, or a shorter time."""


class AgentStatsPage(BaseModel):
    """Statistics in order of time, then agent."""

    data: list[AgentStats]
    meta: AgentStatsMeta


class RevertedChange(BaseModel):
    """A change that was taken back."""

    seq: int
    event_id: str
    reverted_at: int
    """Sequence of the first undo or rollback that took it back."""
    reverted_by: str
    """Its event id."""


class RevertedDecision(BaseModel):
    """A decision that led to changes which were taken back."""

    run: str
    seq: int
    event_id: str
    stream_time: str
    role: str
    agent_id: str
    agent_name: str
    task_id: str
    confidence: float | None
    """Absent where the producer's number was none."""
    rationale: str
    """Its first 200 characters."""
    hops: int
    """Steps from the nearest of the changes to the decision: 1 for its direct cause."""
    reverted: int
    """Changes that were taken back."""
    changes: list[RevertedChange]
    """The first hundred of them."""


class LedgerMeta(BaseModel):
    """What was asked for."""

    below: float
    truncated: bool


class RevertedDecisions(BaseModel):
    """In stream order."""

    data: list[RevertedDecision]
    meta: LedgerMeta


class FacetValue(BaseModel):
    """A value, and the events that have it."""

    value: str
    events: int
    first_seq: int
    last_seq: int


class FacetValues(BaseModel):
    """Of each facet the most frequent values."""

    kind: list[FacetValue]
    role: list[FacetValue]
    agent: list[FacetValue]
    """Names."""
    tool: list[FacetValue]
    outcome: list[FacetValue]
    """Of calls."""
    model: list[FacetValue]
    change_reason: list[FacetValue]
    to_state: list[FacetValue]
    """Of transitions."""
    status: list[FacetValue]
    """Of signals."""


class FacetMeta(BaseModel):
    """What the facets are of."""

    events: int
    """Those that the filter finds."""
    truncated: list[str]
    """Facets that have more values than are shown."""


class Facets(BaseModel):
    """Which values the events of a filter have."""

    data: FacetValues
    meta: FacetMeta
