"""Rows as ClickHouse reads them by itself: the published bytes untouched in a Protobuf message, columns made in SQL.

`rows.values` says what every column holds; SELECT here says the same in ClickHouse's words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import BinaryIO, cast

from enchanted.ingest.rows import COLUMNS, EARLIEST, HASH, LATEST, Row
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
message Decision { string input_trigger = 2; string rationale = 3; float confidence_score = 6; }
message Change { string target_resource = 2; string new_state_hash = 4; string diff_patch = 5; string reason = 8; }
message Signal { string status = 1; string detail = 6; }
message Call {
  string model = 1;
  string completion = 4;
  uint32 input_tokens = 6;
  uint32 output_tokens = 7;
  double duration_ms = 8;
  string error = 10;
}
message Tool { string tool = 1; string outcome = 3; string output = 5; double duration_ms = 6; }
message Step { string to_state = 3; string reason = 4; }
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


def body(rows: Iterable[Row], statement: str = "") -> bytes:
    """The rows, each with its length before it, behind the statement; put together once, since it is large."""
    parts: list[bytes] = [statement.encode()]
    for row in rows:
        raw, subject = row.raw, _subject(row.subject)
        size = _length(len(raw))
        whole = _OTHERS + len(subject) + 2 * (1 + len(size) + len(raw))
        fixed = _FIXED.pack(0x11, row.seq, 0x19, row.micros, 0x21, row.duplicate_of, 0x2A, 32, row.digest)
        parts += (_length(whole), fixed, subject, b"\x0a", size, raw, b"\x3a", size, raw)
    return b"".join(parts)


def block(rows: Iterable[Row]) -> BinaryIO:
    """The rows alone, for clickhouse-connect to send as they are: a view, so that the statement goes into the URL."""
    return cast("BinaryIO", memoryview(body(rows)))


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


FORMAT = "Protobuf"


def insert(stream_created: datetime) -> str:
    """The statement before the body."""
    return f"INSERT INTO {target(stream_created)} FORMAT {FORMAT}\n"


@lru_cache(maxsize=16)
def target(stream_created: datetime) -> str:
    """What stands between INSERT INTO and FORMAT."""
    made = {**_MADE, "stream_created": f"fromUnixTimestamp64Micro(toInt64({_us(stream_created)}), 'UTC')"}
    selected = ", ".join(f"{made.get(name, name)} AS {name}_" for name in COLUMNS)
    columns = ", ".join(COLUMNS)
    return f"events ({columns}) SELECT {selected} FROM input('{_STRUCTURE}')"


def _enum(first: str, numbers: dict[str, int]) -> str:
    members = ", ".join(rf"\'{name}\' = {number}" for name, number in numbers.items())
    return rf"Enum8(\'{first}\' = 0, {members})"


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
            "parent_event_id", "agent_name", "decision.input_trigger", "decision.rationale",
            "state_change.target_resource", "state_change.new_state_hash", "state_change.diff_patch",
            "state_change.reason", "system_signal.status", "system_signal.detail", "model_call.model",
            "model_call.completion", "model_call.error", "tool_call.tool", "tool_call.outcome", "tool_call.output",
            "run_transition.to_state", "run_transition.reason",
        )
    },
    "event.decision.confidence_score": "Float32",
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
    "decision": "rationale",
    "state_change": "diff_patch",
    "system_signal": "detail",
    "model_call": "completion",
    "tool_call": "output",
    "run_transition": "reason",
}
_CHOICES = ", ".join(f"`event.payload` = '{kind}', `event.{kind}.{name}`" for kind, name in _TEXTS.items())
_HEAD = r"concat('\n$', `event.event_id`)"
_IDS = r"concat('\x1a ', `event.trace_id`, '\"\x10', `event.span_id`)"
"""The ids as they stand in an event's bytes: tag, length, characters. The table's `raw` puts the same back."""
_HEAD_SIZE, _IDS_SIZE = 2 + 36, 2 + 32 + 2 + 16

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
            "event_id", "trace_id", "span_id", "agent_id", "agent_name", "agent_seq", "task_id", "workspace_id",
            "parent_event_id",
        )
    },
    "sha256": "toFixedString(sha256, 32)",
    "cut_at": (
        f"if(length(`event.event_id`) = 36 AND length(`event.trace_id`) = 32 AND length(`event.span_id`) = 16"
        f" AND startsWith(raw, {_HEAD}), position(raw, {_IDS}, {_HEAD_SIZE + 1}), 0)"
    ),
    "body": (
        f"if(cut_at_ = 0, raw, concat(substring(raw, {_HEAD_SIZE + 1}, cut_at_ - {_HEAD_SIZE + 1}),"
        f" substring(raw, cut_at_ + {_IDS_SIZE})))"
    ),
    "text_at": "position(body_, text_)",
    "text_size": f"length(multiIf({_CHOICES}, '') AS text_)",
    "previous_at": f"if(length(`event.previous_event_hash`) = {HASH}, position(body_, `event.previous_event_hash`), 0)",
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
}  # fmt: skip
"""Each column that is not read as it stands."""
