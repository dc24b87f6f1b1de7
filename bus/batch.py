"""Messages, batches of them, and how both are spelled on the wire. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from enchanted.bus.link import Frame

MAX_BATCH_MESSAGES = 1000
"""The server refuses larger atomic batches."""
MAX_BATCH_BYTES = 4 * 1024 * 1024

_NEWLINES = str.maketrans({"\r": " ", "\n": " "})

HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_MSG_ID = "Nats-Msg-Id"
_EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """A message to publish."""

    subject: str
    payload: bytes
    event_id: str
    """The stream stores an id once within its duplicate window."""
    headers: Mapping[str, str] = field(default_factory=dict)
    expected_last: int | None = None
    """Publish only if the last sequence on ``expected_subject`` is this one; 0 for none."""
    expected_subject: str = ""
    """A subject, or a filter with wildcards; empty for ``subject`` itself."""
    size: int = field(init=False, repr=False, compare=False)
    """Bytes on the wire, within a few tens; batch headers included."""

    def __post_init__(self) -> None:
        headers = sum(len(name) + len(value) + 4 for name, value in self.headers.items()) if self.headers else 0
        object.__setattr__(self, "size", len(self.payload) + headers + len(self.event_id) + len(self.subject) + 300)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ack:
    """Where the stream stored a message."""

    seq: int
    duplicate: bool
    """The id was there already; ``seq`` is the sequence it has."""
    spooled: bool = False
    """Durable on this machine's disk and not in the stream yet; ``seq`` is 0. Only from a Publisher with a spool."""


def split(
    messages: Sequence[Outgoing], *, max_messages: int = MAX_BATCH_MESSAGES, max_bytes: int = MAX_BATCH_BYTES
) -> Iterator[list[Outgoing]]:
    """Cut into runs within both bounds, in order; a message larger than ``max_bytes`` is a run of its own."""
    part: list[Outgoing] = []
    size = 0
    for message in messages:
        if part and (len(part) >= max_messages or size + message.size > max_bytes):
            yield part
            part, size = [], 0
        part.append(message)
        size += message.size
    if part:
        yield part


def single_frame(message: Outgoing) -> Frame:
    """One message by itself."""
    headers = {_MSG_ID: message.event_id, **message.headers}
    if message.expected_last is not None:
        headers[_EXPECTED_SEQUENCE] = str(message.expected_last)
        headers[_EXPECTED_SUBJECT] = message.expected_subject or message.subject
    return Frame(message.subject, message.payload, headers)


def batch_frames(messages: Sequence[Outgoing], batch_id: str) -> list[Frame]:
    """One atomic batch; only the first and the last are answered, the first for early refusals."""
    last = len(messages)
    frames = []
    for number, message in enumerate(messages, 1):
        headers = {
            _MSG_ID: message.event_id,
            **message.headers,
            "Nats-Batch-Id": batch_id,
            "Nats-Batch-Sequence": str(number),
        }
        if number == last:
            headers["Nats-Batch-Commit"] = "1"
        frames.append(Frame(message.subject, message.payload, headers, number in (1, last)))
    return frames


def encode_batch(messages: Sequence[Outgoing], batch_id: str, reply: str) -> bytes:
    """What nats-py writes for `batch_frames`, or for `single_frame` of one message, in one piece."""
    if len(messages) == 1:
        headers = "".join(
            f"{name}: {_value(value)}\r\n" for name, value in (single_frame(messages[0]).headers or {}).items()
        )
        return b"".join(_hpub(messages[0], f"NATS/1.0\r\n{headers}\r\n".encode(), reply))
    last, parts = len(messages), list[bytes]()
    batch = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: "
    for number, message in enumerate(messages, 1):
        own = f"{_MSG_ID}: {_value(message.event_id)}\r\n"
        if message.headers:
            named = {_MSG_ID: message.event_id, **message.headers}
            own = "".join(f"{name}: {_value(value)}\r\n" for name, value in named.items())
        end = "\r\nNats-Batch-Commit: 1\r\n\r\n" if number == last else "\r\n\r\n"
        header = f"NATS/1.0\r\n{own}{batch}{number}{end}".encode()
        parts += _hpub(message, header, reply if number in (1, last) else "")
    return b"".join(parts)


def _hpub(message: Outgoing, header: bytes, reply: str) -> tuple[bytes, bytes, bytes, bytes]:
    total = len(header) + len(message.payload)
    return f"HPUB {message.subject} {reply} {len(header)} {total}\r\n".encode(), header, message.payload, b"\r\n"


def _value(value: str) -> str:
    # A line break in a value would end the header and begin another; nats-py replaces it too.
    value = value.strip()
    return value.translate(_NEWLINES) if "\n" in value or "\r" in value else value


def batch_acks(last_seq: int, count: int) -> list[Ack]:
    """The stream stores a batch without gaps, so the commit's sequence gives all of them."""
    return [Ack(seq=last_seq - count + number, duplicate=False) for number in range(1, count + 1)]


def has_valid_headers(message: Outgoing) -> bool:
    """Whether the client takes the header names; one bad name would fail everybody in the same batch."""
    return all(HEADER_NAME.fullmatch(name) for name in message.headers)
