"""The streams as frozen values: what they must be, and how a found one differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from enchanted.bus.errors import ApiRefused, StreamDiffers

EVENTS_STREAM = "ENCHANTED_SWARM"
DEAD_LETTERS_STREAM = "ENCHANTED_DEAD_LETTERS"
SPANS_STREAM = "ENCHANTED_SPANS"
BLOB_BUCKET = "enchanted-blobs"
BLOB_STREAM = f"OBJ_{BLOB_BUCKET}"

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message on the streams of events and spans."""
MAX_DEAD_LETTER = 2 * 1024 * 1024

_PREFIXES = {
    "swarm.events.": EVENTS_STREAM,
    "swarm.dead.": DEAD_LETTERS_STREAM,
    "swarm.spans.": SPANS_STREAM,
    f"$O.{BLOB_BUCKET}.": BLOB_STREAM,
}
_STREAM_NAME_TAKEN = 10058
_NANOSECONDS = 1_000_000_000
GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamLimits:
    """How much the streams may hold. A full stream refuses; it never drops what is old."""

    events_max_bytes: int = 8 * GIB
    blobs_max_bytes: int = 8 * GIB
    spans_max_bytes: int = 2 * GIB
    dead_letters_max_bytes: int = GIB
    max_age: timedelta = timedelta(days=30)
    duplicate_window: timedelta = timedelta(minutes=2)
    """How long a repeated event id is recognised; the server keeps about 200 bytes for each id in it."""
    replicas: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamInfo:
    """What a stream holds now."""

    created: datetime
    first_seq: int
    last_seq: int
    messages: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Durability:
    """What the server does before it acknowledges."""

    sync_always: bool | None
    """None: could not be read, so nothing is claimed."""
    detail: str


class Api(Protocol):
    """The part of a connection that asks JetStream's JSON interface."""

    async def api(self, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]: ...


def stream_configs(limits: StreamLimits) -> list[dict[str, Any]]:
    """The settings of every stream of ours, as JetStream's JSON spells them."""
    letters = _stream(DEAD_LETTERS_STREAM, ["swarm.dead.>"], limits.dead_letters_max_bytes, limits)
    blobs = _stream(BLOB_STREAM, [f"$O.{BLOB_BUCKET}.C.>", f"$O.{BLOB_BUCKET}.M.>"], limits.blobs_max_bytes, limits)
    # Blobs live as long as an event names them, and an object store's metadata replaces itself.
    blobs |= {"max_age": 0, "allow_rollup_hdrs": True, "deny_delete": False, "deny_purge": False}
    return [
        _stream(EVENTS_STREAM, ["swarm.events.>"], limits.events_max_bytes, limits),
        letters | {"max_msg_size": MAX_DEAD_LETTER},
        _stream(SPANS_STREAM, ["swarm.spans.>"], limits.spans_max_bytes, limits),
        blobs,
    ]


def _stream(name: str, subjects: list[str], max_bytes: int, limits: StreamLimits) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": subjects,
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": limits.replicas,
        "max_bytes": max_bytes,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_age": int(limits.max_age.total_seconds()) * _NANOSECONDS,
        "max_msg_size": MAX_MESSAGE,
        "duplicate_window": int(limits.duplicate_window.total_seconds()) * _NANOSECONDS,
        "allow_atomic": True,
        "allow_direct": True,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
        "deny_purge": True,
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """Setting → (found, wanted) for every setting we state that is otherwise; a setting left out is false or empty."""
    return {
        name: (found.get(name), want)
        for name, want in wanted.items()
        if found.get(name) != want and (want or found.get(name))
    }


async def ensure(api: Api, limits: StreamLimits) -> None:
    """Create the streams that are missing.

    Raises:
        StreamDiffers: one exists with other settings; nothing was altered.
    """
    for config in stream_configs(limits):
        name = config["name"]
        try:
            await api.api(f"STREAM.CREATE.{name}", config)
        except ApiRefused as error:
            if error.err_code != _STREAM_NAME_TAKEN:
                raise
            found = (await api.api(f"STREAM.INFO.{name}"))["config"]
            raise StreamDiffers(name, differences(found, config)) from error


def parse_info(response: Mapping[str, Any]) -> StreamInfo:
    """The answer to STREAM.INFO as a value."""
    state = response["state"]
    return StreamInfo(
        created=parse_time(response["created"]),
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        messages=state["messages"],
        bytes=state["bytes"],
    )


def parse_time(text: str) -> datetime:
    """RFC 3339 with nanoseconds, as NATS writes it, cut to microseconds."""
    return datetime.fromisoformat(text)


def stream_of(subject: str) -> str:
    """The stream of ours that takes a subject; empty for none."""
    for prefix, stream in _PREFIXES.items():
        if subject.startswith(prefix):
            return stream
    return ""
