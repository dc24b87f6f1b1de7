"""An event as plain values is what protobuf's own JSON makes of it."""

from __future__ import annotations

import struct
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from enchanted.schemas.document import to_document
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import SwarmEvent, parse_event

FLOATS = st.floats(width=32) | st.sampled_from([0.1, 1 / 3, 16777217.0, 3.4028235e38, 1e-45, -0.0]).map(
    lambda value: struct.unpack("<f", struct.pack("<f", value))[0]
)
OF_TYPE: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: st.text(max_size=20),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: FLOATS,
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 12),
}
MOMENTS = st.builds(
    Timestamp, seconds=st.integers(-62135596800, 253402300799), nanos=st.integers(0, 999_999_999) | st.just(500_000_000)
)


def messages(descriptor: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """What the constructor of a message takes: any of its fields, at most one of each oneof."""
    if descriptor is Timestamp.DESCRIPTOR:
        return cast("st.SearchStrategy[dict[str, Any]]", MOMENTS)
    return st.fixed_dictionaries({}, optional={field.name: values(field) for field in descriptor.fields})


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
    one = messages(field.message_type) if is_message else OF_TYPE[field.cpp_type]
    return st.lists(one, max_size=3) if field.is_repeated else one


@settings(max_examples=500)
@given(messages(SwarmEvent.DESCRIPTOR))
def test_an_event_has_the_values_of_protobufs_own_json(fields: dict[str, Any]) -> None:
    event = SwarmEvent.FromString(SwarmEvent(**fields).SerializeToString())
    # repr tells -0.0 from 0.0 and 1 from 1.0, which equality does not.
    assert repr(to_document(event)) == repr(MessageToDict(event, preserving_proto_field_name=True))


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_so_has_whatever_protobuf_reads(raw: bytes) -> None:
    try:
        event = parse_event(raw)
        expected = MessageToDict(event, preserving_proto_field_name=True)
    except (NotAnEvent, SerializeToJsonError):
        return
    assert repr(to_document(event)) == repr(expected)


@pytest.mark.parametrize("bits", [0x00000001, 0x007FFFFF, 0x3DCCCCCD, 0x4B800001, 0x7F7FFFFF, 0x3F7FFFFF, 0x80000000])
def test_a_float_is_shown_with_the_fewest_digits_that_mean_it(bits: int) -> None:
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    event = SwarmEvent()
    event.decision.confidence_score = value
    shown = to_document(event)["decision"].get("confidence_score", 0.0)
    assert struct.pack("<f", shown) == struct.pack("<f", value)
    assert shown == MessageToDict(event, preserving_proto_field_name=True)["decision"].get("confidence_score", 0.0)
