"""Large fields of an event move to the blob store and come back: no blob in an event.

A string field is named by its dotted path ("tool_call.output"). The file list of a state change moves as one
StateChange message that holds only the list ("state_change.files").
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from enchanted.bus.errors import BlobUnfit
from enchanted.bus.ports import BlobPort
from enchanted.schemas.events import SwarmEvent
from enchanted.schemas.gen.events_pb2 import FieldBlob, StateChange

FIELD_LIMIT = 256 * 1024
"""Bytes of a string field; what is larger moves."""
EVENT_LIMIT = 960 * 1024
"""Bytes of an event; leaves room for the subject and headers below the stream's 1 MiB."""

_WORTH_MOVING = 4 * 1024
FILES = "state_change.files"
"""The path of a state change's list of files among what was moved."""


async def deflate(event: SwarmEvent, blobs: BlobPort) -> None:
    """Move large fields of ``event`` out, in place; what then is still too large loses its next larger ones."""
    for size, path in sorted(_strings(event), reverse=True):
        if size > FIELD_LIMIT:
            await _move_string(event, path, blobs)
    if event.ByteSize() > EVENT_LIMIT and event.state_change.files:
        files = StateChange(files=event.state_change.files)
        await _move(event, FILES, files.SerializeToString(deterministic=True), blobs)
        event.state_change.ClearField("files")
    for size, path in sorted(_strings(event), reverse=True):
        if event.ByteSize() > EVENT_LIMIT and size > _WORTH_MOVING:
            await _move_string(event, path, blobs)


async def inflate(event: SwarmEvent, blobs: BlobPort) -> SwarmEvent:
    """A copy of ``event`` with what `deflate` moved put back.

    Raises:
        BlobMissing, BlobCorrupt: the content is gone or not what was stored.
        BlobUnfit: it is not of this event, which anybody may have written.
    """
    copy = SwarmEvent()
    copy.CopyFrom(event)
    copy.ClearField("blobs")
    for blob in event.blobs:
        # Before anything is set: to set a field of another payload would remove the event's own.
        if blob.field not in _movable(event):
            raise BlobUnfit(blob.field, "the event has no such field")
        data = await blobs.get(blob.sha256)
        try:
            _put_back(copy, blob.field, data)
        except (DecodeError, UnicodeDecodeError) as error:
            raise BlobUnfit(blob.field, f"its content does not read: {error}") from error
    return copy


def _movable(event: SwarmEvent) -> set[str]:
    """The paths that `deflate` may move out of an event with this payload."""
    kind = event.WhichOneof("payload")
    if kind is None:
        return set()
    found = {f"{kind}.{field.name}" for field in getattr(event, kind).DESCRIPTOR.fields if _is_string(field)}
    return found | {FILES} if kind == "state_change" else found


def _put_back(event: SwarmEvent, path: str, data: bytes) -> None:
    if path == FILES:
        event.state_change.files.extend(StateChange.FromString(data).files)
        return
    parent, name = _locate(event, path)
    setattr(parent, name, data.decode())


async def _move_string(event: SwarmEvent, path: str, blobs: BlobPort) -> None:
    parent, name = _locate(event, path)
    await _move(event, path, getattr(parent, name).encode(), blobs)
    parent.ClearField(name)


async def _move(event: SwarmEvent, path: str, data: bytes, blobs: BlobPort) -> None:
    event.blobs.append(FieldBlob(field=path, sha256=await blobs.put(data), size=len(data)))


def _strings(event: SwarmEvent) -> Iterator[tuple[int, str]]:
    """Size and path of every string field of the payload that is set; lists stay where they are."""
    kind = event.WhichOneof("payload")
    if kind is None:
        return
    for field, value in getattr(event, kind).ListFields():
        if _is_string(field):
            yield len(value.encode()), f"{kind}.{field.name}"


def _is_string(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


def _locate(event: SwarmEvent, path: str) -> tuple[Message, str]:
    message: Message = event
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    return message, name
