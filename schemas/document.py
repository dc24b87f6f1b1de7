"""A protobuf message as plain values, as protobuf's own JSON has them, at half of its cost.

`google.protobuf.json_format.MessageToDict` asks every field of every message for its kind; here that is asked once for
each message type. What events do not have is left out: maps, bytes, wrappers, groups, extensions. A property test holds
both against each other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Convert = Callable[[Any], Any]
_FLOAT = struct.Struct("<f")


def to_document(message: Message) -> dict[str, Any]:
    """The fields that are set, by their names in the .proto; a timestamp outside the calendar as its two numbers."""
    fields = _fields(message.DESCRIPTOR)
    document = {}
    for field, value in message.ListFields():
        name, convert = fields[field.number]
        document[name] = value if convert is None else convert(value)
    return document


@cache
def _fields(descriptor: Descriptor) -> dict[int, tuple[str, Convert | None]]:
    """Name and conversion of each field by number; None for what is plain already."""
    return {field.number: (field.name, _conversion(field)) for field in descriptor.fields}


def _conversion(field: FieldDescriptor) -> Convert | None:
    convert = _conversion_of_one(field)
    if not field.is_repeated:
        return convert
    return list if convert is None else lambda values: [convert(value) for value in values]


def _conversion_of_one(field: FieldDescriptor) -> Convert | None:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return _moment if field.message_type is Timestamp.DESCRIPTOR else to_document
        case FieldDescriptor.CPPTYPE_ENUM:
            return _name_in(field.enum_type)
        case FieldDescriptor.CPPTYPE_FLOAT:
            return _shortest
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return _double
        case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
            return str  # JavaScript's numbers are too narrow.
    return None


def _moment(timestamp: Timestamp) -> str | dict[str, Any]:
    seconds, nanos = timestamp.seconds, timestamp.nanos
    second = _second(seconds) if 0 <= nanos < 1_000_000_000 else None
    if second is None:
        return {"seconds": str(seconds), "nanos": nanos}
    if not nanos:
        return f"{second}Z"
    if not nanos % 1_000:
        return f"{second}.{nanos // 1_000:06d}Z" if nanos % 1_000_000 else f"{second}.{nanos // 1_000_000:03d}Z"
    return f"{second}.{nanos:09d}Z"


# Events that are shown together are of a few seconds, and their scores of a few values.
@lru_cache(maxsize=4_096)
def _second(seconds: int) -> str | None:
    """As RFC 3339 has it, without what follows; None outside of the calendar."""
    try:
        return Timestamp(seconds=seconds).ToJsonString().removesuffix("Z")
    except ValueError:
        return None


def _name_in(enum: EnumDescriptor | None) -> Convert:
    names = {value.number: value.name for value in enum.values} if enum else {}
    return lambda number: names.get(number, number)


def _double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _shortest(value: float) -> float | str:
    """The number of fewest digits that is this float32; 9 always are enough (IEEE 754-2019, 5.12.2)."""
    if not math.isfinite(value) or not value:
        return _double(value)
    return _fewest_digits(value)


@lru_cache(maxsize=4_096)
def _fewest_digits(value: float) -> float:
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if _FLOAT.unpack(_FLOAT.pack(short))[0] == value:
            return short
    return float(f"{value:.9g}")
