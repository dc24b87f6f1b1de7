"""The words of the API's paths and queries, with their limits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import AfterValidator, StringConstraints

from enchanted.schemas.gen import events_pb2 as pb

MAX_SEQ = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MICROSECOND = 4_102_444_800_000_000
"""Since 1970; the tables compare times up to about there."""
META_FIELDS = ("seq", "stream_time", "kind", "subject", "sha256")
"""What an event document has beside the fields of the .proto."""


def printable(text: str) -> str:
    """``text``, if it has no control characters; for pydantic."""
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ValueError("control characters are not allowed")
    return text


def _field_path(text: str) -> str:
    for path in text.split(","):
        if path not in META_FIELDS:
            _check_field(path)
    return text


def _check_field(path: str) -> None:
    descriptor: Any = pb.SwarmEvent.DESCRIPTOR
    for part in path.split("."):
        names = [] if descriptor is None else sorted(field.name for field in descriptor.fields)
        if part not in names:
            raise ValueError(f"no field {part!r} in {path!r}; here are {', '.join((*META_FIELDS, *names))}")
        descriptor = descriptor.fields_by_name[part].message_type


Identifier = Annotated[str, StringConstraints(max_length=256), AfterValidator(printable)]
Sequence = Annotated[int, Query(ge=0, le=MAX_SEQ)]
PathHex = Annotated[str, Query(max_length=8_192, pattern="^([0-9a-f]{2})*$")]
"""The bytes of a file's name that is not UTF-8."""
Fields = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_field_path)]
RunId = Annotated[str, Path(min_length=1, max_length=256), AfterValidator(printable)]
EventId = Annotated[str, Path(min_length=1, max_length=256), AfterValidator(printable)]
TraceId = Annotated[str, Path(min_length=1, max_length=256), AfterValidator(printable)]
ServiceName = Annotated[str, Path(min_length=1, max_length=256), AfterValidator(printable)]


def microseconds(moment: datetime | None) -> int:
    """Microseconds since 1970 in UTC (naive times are UTC); 0 for none, held within what the table can store."""
    if moment is None:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = aware - _EPOCH
    return min(LAST_MICROSECOND, max(1, (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds))
