"""A stored event as the values of one row of the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from enchanted.ingest.plain import is_plain
from enchanted.ingest.single import is_single
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of, parse_event, role_of, run_of

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(2299, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
"""The range of DateTime64(6). A producer's time outside it is moved to the edge; the bytes keep what it said."""
HASH = 64
"""Characters of a SHA-256 in hex."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US = (EARLIEST - _EPOCH) // timedelta(microseconds=1)
_LATEST_US = (LATEST - _EPOCH) // timedelta(microseconds=1)

COLUMNS: dict[str, str] = {
    "stream_created": "DateTime64(6, 'UTC')",
    "stream_seq": "UInt64",
    "stream_time": "DateTime64(6, 'UTC')",
    "subject": "LowCardinality(String)",
    "run": "String",
    "event_id": "String",
    "event_time": "DateTime64(6, 'UTC')",
    "trace_id": "String",
    "span_id": "String",
    "role": "LowCardinality(String)",
    "kind": "LowCardinality(String)",
    "agent_id": "String",
    "agent_name": "LowCardinality(String)",
    "agent_seq": "UInt64",
    "task_id": "String",
    "workspace_id": "String",
    "parent_event_id": "String",
    "duplicate_of": "UInt64",
    "sha256": "FixedString(32)",
    "body": "String",
    "cut_at": "UInt32",
    "text_at": "UInt32",
    "text_size": "UInt32",
    "previous_at": "UInt32",
    "confidence": "Float32",
    "input_trigger": "String",
    "target_resource": "String",
    "new_state_hash": "String",
    "change_reason": "LowCardinality(String)",
    "status": "LowCardinality(String)",
    "model": "LowCardinality(String)",
    "input_tokens": "UInt32",
    "output_tokens": "UInt32",
    "duration_ms": "Float64",
    "tool": "LowCardinality(String)",
    "outcome": "LowCardinality(String)",
    "to_state": "LowCardinality(String)",
}
"""The table's columns in the order `values` gives them, with their types."""
SEEN = ("raw", "payload_sha256", "previous_event_hash", "text", "rationale")
"""What the table shows besides, made of these when it is asked for."""


@dataclass(slots=True)
class Row:
    """An event on its way into the table; one is made for every message, so it is flat and made once."""

    seq: int
    """Stream sequence."""
    micros: int
    """When the stream stored it, in microseconds since 1970."""
    subject: str
    raw: bytes
    """The published bytes."""
    digest: bytes
    """SHA-256 of ``raw``."""
    event_id: str
    """Empty for producers that give none."""
    plain: bool
    """ClickHouse may read the bytes by itself."""
    redelivered: bool
    """It may be in the table already."""
    single: bool = False
    """The stream guarantees that it has no other copy of this event id."""
    duplicate_of: int = 0
    """Sequence of the first copy of this event id; 0 for the first itself."""

    @property
    def time(self) -> datetime:
        """When the stream stored it (UTC)."""
        return _EPOCH + timedelta(microseconds=self.micros)

    @property
    def sha256(self) -> str:
        """The digest in hex, as the table has it."""
        return self.digest.hex()


def read_row(seq: int, micros: int, subject: str, raw: bytes, *, redelivered: bool, msg_id: bytes = b"") -> Row:
    """A message of the stream as a row; ``msg_id`` is the id it was published under.

    Raises:
        NotAnEvent: protobuf rejects the bytes.
    """
    event = parse_event(raw)
    event_id = event.event_id
    single = bool(msg_id) and is_single(event_id, msg_id, micros)
    return Row(seq, micros, subject, raw, sha256(raw).digest(), event_id, is_plain(event, raw), redelivered, single)


def row_of(stored: StoredEvent, *, redelivered: bool) -> Row:
    """The same for an event that was read before."""
    micros = (stored.time - _EPOCH) // timedelta(microseconds=1)
    return read_row(stored.seq, micros, stored.subject, stored.raw, redelivered=redelivered)


def columns_of(rows: Iterable[Row], stream_created: datetime) -> list[Sequence[object]]:
    """The rows turned on their side: one sequence for each of COLUMNS."""
    return [list(column) for column in zip(*(values(row, stream_created) for row in rows), strict=True)]


def values(row: Row, stream_created: datetime) -> tuple[object, ...]:
    """One row in the order of COLUMNS; what ClickHouse makes of a plain row by itself is exactly this."""
    return event_values(parse_event(row.raw), row, stream_created)


def event_values(event: SwarmEvent, row: Row, stream_created: datetime) -> tuple[object, ...]:
    """The same for a row whose event is at hand."""
    text = main_text(event).encode()
    hashed = event.previous_event_hash if len(event.previous_event_hash) == HASH else ""
    return (
        stream_created,
        row.seq,
        row.time,
        row.subject.encode(errors="surrogateescape"),
        run_of(event),
        event.event_id,
        event_time(event, row.time),
        event.trace_id,
        event.span_id,
        role_of(event),
        kind_of(event),
        event.agent_id,
        event.agent_name,
        event.agent_seq,
        event.task_id,
        event.workspace_id,
        event.parent_event_id,
        row.duplicate_of,
        row.digest,
        row.raw,
        0,
        row.raw.find(text) + 1,
        len(text),
        row.raw.find(hashed.encode()) + 1 if hashed else 0,
        *_search_values(event),
    )


def event_time(event: SwarmEvent, stream_time: datetime) -> datetime:
    """The producer's time within the column's range; the stream's where it gave none."""
    if not event.HasField("timestamp"):
        return stream_time
    # In whole numbers: a producer may send seconds no datetime can hold.
    told = event.timestamp.seconds * 1_000_000 + event.timestamp.nanos // 1000
    return _EPOCH + timedelta(microseconds=min(_LATEST_US, max(_EARLIEST_US, told)))


def _search_values(event: SwarmEvent) -> tuple[object, ...]:
    # Unset payloads read as empty messages, so every column has a value for every kind.
    decision, change, model, tool = event.decision, event.state_change, event.model_call, event.tool_call
    return (
        decision.confidence_score,
        decision.input_trigger,
        change.target_resource,
        change.new_state_hash,
        change.reason,
        event.system_signal.status,
        model.model,
        model.input_tokens,
        model.output_tokens,
        model.duration_ms or tool.duration_ms,
        tool.tool,
        _outcome(event),
        event.run_transition.to_state,
    )


def _outcome(event: SwarmEvent) -> str:
    if kind_of(event) == "model_call":
        return "FAILED" if event.model_call.error else "OK"
    return event.tool_call.outcome


def main_text(event: SwarmEvent) -> str:
    """What an event mainly says; it stands in the event's bytes as it is."""
    match kind_of(event):
        case "decision":
            return event.decision.rationale
        case "state_change":
            return event.state_change.diff_patch
        case "system_signal":
            return event.system_signal.detail
        case "model_call":
            return event.model_call.completion
        case "tool_call":
            return event.tool_call.output
        case "run_transition":
            return event.run_transition.reason
    return ""
