"""The shapes of the API's answers, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from enchanted.schemas.events import Role


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class ListedEvent(BaseModel):
    """Every field of SwarmEvent by its name in the .proto (unset ones are left out), and these; or those asked for."""

    model_config = ConfigDict(extra="allow")

    seq: int
    """JetStream stream sequence."""
    kind: str
    event_id: str = ""
    stream_time: str = ""
    """When the stream stored it."""
    subject: str = ""
    sha256: str = ""
    """Of the published bytes."""
    corrupted: bool = False
    """The stored bytes are not the published ones."""


class EventDocument(ListedEvent):
    """A whole event."""

    stream_time: str
    subject: str
    sha256: str


class PageMeta(BaseModel):
    """Where the next page is."""

    cursor: str | None
    """Absent at the end."""


class EventPage(BaseModel):
    """Events in stream order."""

    data: list[ListedEvent]
    meta: PageMeta


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


class RunDocument(BaseModel):
    """Where a run stands."""

    run_id: str
    trace_id: str
    state: str
    """Empty for producers that send no transitions."""
    closed: bool
    reason: str
    details: Any = None
    """Of the transition into the current state."""
    request: Any = None
    """Of the run's first transition."""
    started_at: str
    updated_at: str
    """Both by the stream's clock."""
    seconds: float
    """From the first transition to the close, by the clocks of who wrote them; of an open run, what the stream saw."""
    first_seq: int
    last_seq: int
    events: int
    agents: int
    decisions: int
    changes: int
    model_calls: int
    tool_calls: int
    input_tokens: int
    output_tokens: int


class ListedRun(RunDocument):
    """A run in a list."""

    activity: list[int]
    """How many events fell into each of 24 equal stretches of its time."""


class RunPage(BaseModel):
    """Runs, the newest first."""

    data: list[ListedRun]
    meta: PageMeta


class StartedRun(BaseModel):
    """A run that was accepted."""

    run_id: str
    """Empty for a dry run, as is the address."""
    url: str


class FileDocument(BaseModel):
    """A file of a workspace."""

    path: str
    mode: str
    size: int
    blob: str
    """Git blob id (SHA-256 object format)."""
    seq: int
    """The change that last touched it."""
    path_hex: str
    """Hex of its name where that is not UTF-8; `path` is then a readable form."""


class ValueDocument(BaseModel):
    """A variable, or an object of a database schema."""

    name: str
    value: Any
    """JSON of a variable, definition of a schema object; absent where it is stored apart."""
    hash: str
    seq: int
    """The change that last set it."""
    stored_apart: bool
    """It was too large for its event, which names the object that holds it."""


class WorkspaceDocument(BaseModel):
    """The files of one workspace, and what was set in it."""

    tree: str
    files: list[FileDocument]
    variables: list[ValueDocument]
    schema_objects: list[ValueDocument]


class TaskDocument(BaseModel):
    """Where a task stands."""

    task_id: str
    state: str
    reason: str
    details: Any = None
    seq: int


class AgentDocument(BaseModel):
    """What an agent had done."""

    agent_id: str
    name: str
    role: Role
    status: str
    events: int
    decisions: int
    changes: int
    output_tokens: int
    last_seq: int
    agent_seq: int
    """Its highest number in its own chain; 0 for a producer without."""
    last_decision: str


class StateDocument(BaseModel):
    """A run folded to a sequence."""

    run_id: str
    at: int
    """The last event that is in it; 0 before the first."""
    time: str | None
    state: str
    reason: str
    details: Any = None
    checkpoint: int
    """The sequence folding began after; 0 is the run's beginning."""
    workspaces: dict[str, WorkspaceDocument]
    tasks: list[TaskDocument]
    agents: list[AgentDocument]


class ContentDocument(FileDocument):
    """A file with its content."""

    run_id: str
    workspace: str
    at: int
    encoding: Literal["utf-8", "base64"]
    content: str


class FaultDocument(BaseModel):
    """What is wrong, and where."""

    seq: int
    """0 where the event itself is missing."""
    agent_id: str
    agent_seq: int
    why: str


class StreamCheck(BaseModel):
    """The comparison of the table with the stream."""

    checked: bool
    why: str = ""
    """Why it was not checked."""
    events: int = 0
    only_in_stream: list[int] = []
    only_in_table: list[int] = []
    differing: list[int] = []


class VerifyDocument(BaseModel):
    """Both verdicts over a run."""

    run_id: str
    intact: bool
    complete: bool
    checked: int
    closed: bool
    unanchored: int
    """Chained events that no closing transition vouches for."""
    first_bad: FaultDocument | None
    missing: list[FaultDocument]
    stream: StreamCheck


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


class Health(BaseModel):
    """Alive."""

    status: Literal["ok"]


class DependencyState(BaseModel):
    """One service the API leans on."""

    ok: bool
    detail: str = ""
    milliseconds: float


class Readiness(BaseModel):
    """Every dependency's state."""

    ready: bool
    dependencies: dict[str, DependencyState]


def described(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route that renders its own JSON tells OpenAPI."""
    return {status: {"model": model, "description": model.__doc__ or ""}}
