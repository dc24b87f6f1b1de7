"""Which events ClickHouse may read by itself."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from enchanted.schemas.events import SwarmEvent

_GROUP = 3


def is_plain(event: SwarmEvent, raw: bytes) -> bool:
    """Whether ClickHouse reads these bytes as protobuf does; ``event`` is used up.

    It reads a field that comes twice as empty, and refuses the whole batch for two payloads in one event, a group or a
    field of another wire type. Bytes that are written again as they were have none of the first two; the others are
    unknown fields.
    """
    event.DiscardUnknownFields()
    if event.SerializeToString() == raw:
        return True
    whole = SwarmEvent.FromString(raw)
    return whole.SerializeToString() == raw and not _has_awkward(whole)


def _has_awkward(message: Message) -> bool:
    known, unknown = message.DESCRIPTOR.fields_by_number, UnknownFieldSet(message)
    for index in range(len(unknown)):
        if unknown[index].wire_type == _GROUP or unknown[index].field_number in known:
            return True
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if any(_has_awkward(one) for one in (value if isinstance(value, Sequence) else (value,))):
            return True
    return False
