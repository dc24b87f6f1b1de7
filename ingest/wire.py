"""Rows as ClickHouse reads them by itself: the published bytes untouched in a Protobuf message, columns made in SQL.

`rows.values` says what every column holds; SELECT here says the same in ClickHouse's words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from enchanted.ingest.rows import COLUMNS, EARLIEST, LATEST, SEARCHABLE, Row
from enchanted.schemas.events import KINDS, ROLE_NUMBERS

SCHEMA = """
syntax = "proto3";
message Row {
  Event event = 1;
  fixed64 stream_seq = 2;
  sfixed64 stream_time = 3;
  fixed64 duplicate_of = 4;
  bytes sha256 = 5;
  string subject = 6;
  bytes raw = 7;
}
message Time { int64 seconds = 1; int32 nanos = 2; }
message Event {
  string event_id = 1;
  oneof timed { Time timestamp = 2; }
  string trace_id = 3;
  string span_id = 4;
  int32 agent_role = 5;
  string agent_id = 6;
  string run_id = 7;
  uint64 agent_seq = 8;
  string previous_event_hash = 9;
  oneof payload {
    Decision decision = 10;
    Change state_change = 11;
    Signal system_signal = 12;
    Call model_call = 13;
    Tool tool_call = 14;
    Step run_transition = 15;
  }
  string task_id = 16;
  string workspace_id = 17;
  string parent_event_id = 18;
  string agent_name = 20;
}
message Decision {
  string input_trigger = 2;
  string rationale = 3;
  repeated string rejected_alternatives = 4;
  float confidence_score = 6;
  string action = 7;
}
message Change { string target_resource = 2; string new_state_hash = 4; repeated File files = 7; string reason = 8; }
message File { string path = 1; }
message Signal { string status = 1; string detail = 6; }
message Call {
  string model = 1;
  string completion = 4;
  uint32 input_tokens = 6;
  uint32 output_tokens = 7;
  double duration_ms = 8;
  string error = 10;
}
message Tool {
  string tool = 1;
  string arguments = 2;
  string outcome = 3;
  string output = 5;
  double duration_ms = 6;
  string reason = 7;
}
message Step { string from_state = 2; string to_state = 3; string reason = 4; string details = 5; }
"""
"""The part of the event contract that becomes columns, without imports; ClickHouse skips every other field."""

SETTINGS = {
    "format_schema_source": "string",
    "format_schema": SCHEMA,
    "format_schema_message_name": "Row",
    "input_format_protobuf_oneof_presence": "1",
}
"""How ClickHouse reads the rows. Presence tells an empty payload or timestamp from none."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FAR = 10**12
"""Seconds beyond the column's range on either side, whose microseconds an Int64 can hold."""


_FIXED = struct.Struct("<BQBqBQBB32s")
_OTHERS = _FIXED.size


def body(statement: str, rows: Iterable[Row]) -> bytes:
    """The statement and the rows behind it, each with its length before it; put together once, since it is large."""
    parts: list[bytes] = [statement.encode()]
    for row in rows:
        raw, subject = row.raw, _subject(row.subject)
        size = _length(len(raw))
        whole = _OTHERS + len(subject) + 2 * (1 + len(size) + len(raw))
        time = round(row.time.timestamp() * 1_000_000)
        fixed = _FIXED.pack(0x11, row.seq, 0x19, time, 0x21, row.duplicate_of, 0x2A, 32, row.digest)
        parts += (_length(whole), fixed, subject, b"\x0a", size, raw, b"\x3a", size, raw)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _subject(subject: str) -> bytes:
    encoded = subject.encode(errors="surrogateescape")
    return b"\x32" + _length(len(encoded)) + encoded


@lru_cache(maxsize=16_384)
def _length(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def insert(stream_created: datetime) -> str:
    """The statement before the body."""
    made = {**_MADE, "stream_created": f"fromUnixTimestamp64Micro(toInt64({_us(stream_created)}), 'UTC')"}
    selected = ", ".join(f"{made.get(name, name)} AS {name}_" for name in COLUMNS)
    columns = ", ".join(COLUMNS)
    return f"INSERT INTO events ({columns}) SELECT {selected} FROM input('{_STRUCTURE}') FORMAT Protobuf\n"


def _enum(first: str, numbers: dict[str, int]) -> str:
    members = ", ".join(rf"\'{name}\' = {number}" for name, number in numbers.items())
    return rf"Enum8(\'{first}\' = 0, {members})"


def _lines(array: str) -> str:
    return f"arrayStringConcat(arrayFilter(part -> part != '', {array}), '\\n')"


_READ = {
    "stream_seq": "UInt64",
    "stream_time": "Int64",
    "duplicate_of": "UInt64",
    "sha256": "String",
    "subject": "String",
    "raw": "String",
    "event.timed": _enum("no", {"timestamp": 2}),
    "event.timestamp.seconds": "Int64",
    "event.timestamp.nanos": "Int32",
    "event.agent_role": "Int32",
    "event.run_id": "String",
    "event.agent_seq": "UInt64",
    "event.payload": _enum("unknown", {name: number for number, name in enumerate(KINDS, 10)}),
    **{
        f"event.{name}": "String"
        for name in (
            "event_id", "trace_id", "span_id", "agent_id", "previous_event_hash", "task_id", "workspace_id",
            "parent_event_id", "agent_name", "decision.input_trigger", "decision.rationale", "decision.action",
            "state_change.target_resource", "state_change.new_state_hash", "state_change.reason",
            "system_signal.status", "system_signal.detail", "model_call.model", "model_call.completion",
            "model_call.error", "tool_call.tool", "tool_call.arguments", "tool_call.outcome", "tool_call.output",
            "tool_call.reason", "run_transition.from_state", "run_transition.to_state", "run_transition.reason",
            "run_transition.details",
        )
    },
    "event.decision.rejected_alternatives": "Array(String)",
    "event.decision.confidence_score": "Float32",
    "event.state_change.files.path": "Array(String)",
    "event.model_call.input_tokens": "UInt32",
    "event.model_call.output_tokens": "UInt32",
    "event.model_call.duration_ms": "Float64",
    "event.tool_call.duration_ms": "Float64",
}  # fmt: skip
_STRUCTURE = ", ".join(f"`{name}` {kind}" for name, kind in _READ.items())

_ROLES = {number: name for name, number in ROLE_NUMBERS.items() if number}
_TOLD = (
    f"least(greatest(`event.timestamp.seconds`, -{_FAR}), {_FAR}) * 1000000"
    " + toInt64(floor(`event.timestamp.nanos` / 1000))"
)
_TEXTS = {
    "decision": (
        "[`event.decision.rationale`, `event.decision.input_trigger`, `event.decision.action`]",
        "`event.decision.rejected_alternatives`",
    ),
    "state_change": (
        "[`event.state_change.target_resource`, `event.state_change.reason`]",
        "`event.state_change.files.path`",
    ),
    "system_signal": ("[`event.system_signal.status`, `event.system_signal.detail`]",),
    "model_call": ("[`event.model_call.completion`, `event.model_call.error`, `event.model_call.model`]",),
    "tool_call": (
        "[`event.tool_call.tool`, `event.tool_call.arguments`, `event.tool_call.output`, `event.tool_call.reason`]",
    ),
    "run_transition": (
        "[`event.run_transition.reason`, `event.run_transition.from_state`, `event.run_transition.to_state`,"
        " `event.run_transition.details`]",
    ),
}


def _text() -> str:
    choices = []
    for kind, arrays in _TEXTS.items():
        array = arrays[0] if len(arrays) == 1 else f"arrayConcat({', '.join(arrays)})"
        choices.append(f"`event.payload` = '{kind}', {_lines(array)}")
    return f"substringUTF8(multiIf({', '.join(choices)}, ''), 1, {SEARCHABLE})"


_MADE = {
    "stream_time": "fromUnixTimestamp64Micro(stream_time, 'UTC')",
    "run": "if(`event.run_id` != '', `event.run_id`, `event.trace_id`)",
    "event_time": (
        "fromUnixTimestamp64Micro(if(`event.timed` = 'timestamp',"
        f" least(greatest({_TOLD}, {_us(EARLIEST)}), {_us(LATEST)}), stream_time), 'UTC')"
    ),
    "role": f"transform(`event.agent_role`, {list(_ROLES)}, {list(_ROLES.values())}, 'unspecified')",
    "kind": "toString(`event.payload`)",
    **{
        name: f"`event.{name}`"
        for name in (
            "event_id", "trace_id", "span_id", "agent_id", "agent_name", "agent_seq", "previous_event_hash", "task_id",
            "workspace_id", "parent_event_id",
        )
    },
    "payload_sha256": "lower(hex(sha256))",
    "rationale": "`event.decision.rationale`",
    "confidence": "`event.decision.confidence_score`",
    "input_trigger": "`event.decision.input_trigger`",
    "target_resource": "`event.state_change.target_resource`",
    "new_state_hash": "`event.state_change.new_state_hash`",
    "change_reason": "`event.state_change.reason`",
    "status": "`event.system_signal.status`",
    "model": "`event.model_call.model`",
    "input_tokens": "`event.model_call.input_tokens`",
    "output_tokens": "`event.model_call.output_tokens`",
    "duration_ms": (
        "if(`event.model_call.duration_ms` != 0, `event.model_call.duration_ms`, `event.tool_call.duration_ms`)"
    ),
    "tool": "`event.tool_call.tool`",
    "outcome": (
        "if(`event.payload` = 'model_call', if(`event.model_call.error` != '', 'FAILED', 'OK'),"
        " `event.tool_call.outcome`)"
    ),
    "to_state": "`event.run_transition.to_state`",
    "text": _text(),
}  # fmt: skip
"""Each column that is not read as it stands."""
