"""The shapes of what the API says of one file's past, and of receipts."""

from __future__ import annotations

from pydantic import BaseModel


class FileVersion(BaseModel):
    """What one change did to a file."""

    seq: int
    event_id: str
    workspace: str
    path: str
    """Its name then."""
    path_hex: str
    reason: str
    """base, edit, merge or rollback."""
    parent_event_id: str
    decision_id: str
    """The nearest decision among the causes; empty where there is none."""
    agent_id: str
    agent_name: str
    task_id: str
    trace_id: str
    span_id: str
    old_mode: str
    new_mode: str
    old_blob: str
    """Empty where the change made the file."""
    new_blob: str
    """Empty where the change removed it."""
    size: int


class FileHistoryDocument(BaseModel):
    """Every change of a file, the newest last."""

    run_id: str
    at: int
    path: str
    path_hex: str
    workspace: str
    data: list[FileVersion]


class BlamedLine(BaseModel):
    """One line, and the change that wrote it."""

    line: int
    run_id: str
    """The run whose change it is: this one, or one that it was forked from."""
    seq: int
    event_id: str
    decision_id: str
    agent_id: str
    agent_name: str
    trace_id: str
    span_id: str
    text: str
    """Bytes that are not UTF-8 as `\\xNN`."""


class BlameDocument(BaseModel):
    """The lines of a file."""

    run_id: str
    at: int
    path: str
    path_hex: str
    workspace: str
    blob: str
    lines: list[BlamedLine]


class ReceiptAgent(BaseModel):
    """Where an agent's events ended."""

    agent_id: str
    events: int
    head: str
    """SHA-256 of the published bytes of its last event."""


class ReceiptDocument(BaseModel):
    """What a run was at one moment; `enchanted verify --against` holds it against the run."""

    format: int
    run_id: str
    made_at: str
    stream_created: str
    """Which stream the sequences are of; empty where the bus did not answer."""
    last_seq: int
    digest: str
    """SHA-256 over the lines `<seq>:<sha256>` of every event, in stream order."""
    closing_hash: str
    """SHA-256 of the event that closed the run; empty while it is open."""
    agents: list[ReceiptAgent]
    events: list[tuple[int, int, int, str]]
    """Sequence, place in `agents`, agent_seq, first 16 digits of the SHA-256."""
    checksum: str
    """SHA-256 of all this, without it, as JSON with sorted keys and no spaces."""


class OutlineDocument(BaseModel):
    """The events of a run in stream order, each a line; every column has an entry for every event."""

    seq: list[int]
    time: list[int]
    """Microseconds since 1970 by the agent's own clock; the stream's where the event names no time."""
    event_id: list[str]
    kind: list[str]
    role: list[str]
    agent: list[str]
    """The agent's name; its id where it has none."""
    task_id: list[str]
    parent: list[str]
    """Id of the event that caused it; empty where none is named."""
    name: list[str]
    """What a decision answered, the file of a change, the tool or the model of a call."""
    result: list[str]
    """Why the files changed, the outcome of a call, the state after a transition, a process' status."""
    text: list[str]
    """The begin of what the event mainly says: rationale, patch, completion, output or reason."""
    confidence: list[float | None]
    input_tokens: list[int]
    output_tokens: list[int]
    duration_ms: list[float | None]
