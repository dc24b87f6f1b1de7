"""Events: the words of the contract, and what odd bytes become."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.schemas import events, generate
from enchanted.schemas.canonical import canonical_json, sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import SwarmEvent
from enchanted.schemas.gen import events_pb2 as pb

FROZEN = {
    "SwarmEvent": {
        "event_id": 1, "timestamp": 2, "trace_id": 3, "span_id": 4, "agent_role": 5, "agent_id": 6,
        "decision": 10, "state_change": 11, "system_signal": 12,
    },
    "AgentDecision": {
        "context_hash": 1, "input_trigger": 2, "rationale": 3, "rejected_alternatives": 4, "memory_ids": 5,
        "confidence_score": 6,
    },
    "StateChange": {
        "target_type": 1, "target_resource": 2, "previous_state_hash": 3, "new_state_hash": 4, "diff_patch": 5,
        "is_reversible": 6,
    },
    "SystemSignal": {"status": 1, "cpu_load_percent": 2, "memory_usage_mb": 3},
}  # fmt: skip


@pytest.mark.parametrize("message", FROZEN)
def test_the_frozen_part_has_the_numbers_of_the_contract(message: str) -> None:
    fields = getattr(pb, message).DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in FROZEN[message]} == FROZEN[message]


def test_the_generated_code_is_what_the_proto_gives() -> None:
    assert generate.stale() == []


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused_by_name(raw: bytes) -> None:
    try:
        event = events.parse_event(raw)
    except NotAnEvent:
        return
    document = events.event_to_dict(event)
    assert isinstance(document, dict)
    assert events.kind_of(event) in (*events.KINDS, "unknown")


@pytest.mark.parametrize("seconds", [-62135596800 - 1, 253402300800, 2**62])
def test_a_timestamp_outside_the_calendar_is_kept_as_numbers(seconds: int) -> None:
    event = SwarmEvent(event_id="x")
    event.timestamp.seconds = seconds
    assert events.timestamp_of(event) is None
    assert events.event_to_dict(event)["timestamp"] == {"seconds": str(seconds), "nanos": 0}


def test_a_timestamp_is_read_in_utc() -> None:
    event = SwarmEvent()
    event.timestamp.FromDatetime(datetime(2026, 11, 23, tzinfo=UTC))
    assert events.timestamp_of(event) == datetime(2026, 11, 23, tzinfo=UTC)
    assert events.timestamp_of(SwarmEvent()) is None


def test_an_event_without_a_run_belongs_to_its_trace() -> None:
    assert events.run_of(SwarmEvent(trace_id="t")) == "t"
    assert events.run_of(SwarmEvent(trace_id="t", run_id="r")) == "r"


def test_the_context_hash_is_the_hash_of_the_recorded_messages() -> None:
    call = events.model_call(
        model="m", messages=[{"role": "user", "content": "é"}], parameters={}, completion="", finish_reason="stop"
    ).model_call
    assert call.context_hash == sha256_hex(call.messages)


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53), max_size=5))
def test_canonical_json_does_not_depend_on_order(value: dict[str, int]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


def test_unknown_fields_survive_the_round_trip() -> None:
    newer = SwarmEvent(event_id="x").SerializeToString() + b"\xfa\x7f\x03abc"
    assert events.parse_event(newer).SerializeToString() == newer
