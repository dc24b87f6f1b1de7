"""The headers of a dead letter: the producer's as far as they fit, and ours. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from enchanted.bus.batch import HEADER_NAME

SUBJECT = "Enchanted-Subject"
SEQ = "Enchanted-Sequence"
TIME = "Enchanted-Time"
REASON = "Enchanted-Reason"
DETAIL = "Enchanted-Detail"
MSG_ID = "Enchanted-Msg-Id"
LEFT_OUT = "Enchanted-Headers-Left-Out"

_RESERVED = ("Nats-", "Enchanted-")
_ROOM = 65_535 - 512
"""Bytes; the server takes 64 KiB less one, and the letter's own id and those of a batch are among them."""
_LEFT_OUT_SIZE = len(LEFT_OUT) + 10
_MAX_DETAIL = 1024


class Original(Protocol):
    """What is dead-lettered: a Delivery or a RawMessage."""

    @property
    def seq(self) -> int: ...
    @property
    def time(self) -> datetime: ...
    @property
    def subject(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


def letter_headers(original: Original, reason: str, detail: str) -> dict[str, str]:
    """What a dead letter says about its original.

    A message may have as many bytes of headers as the server takes, and bytes that are no UTF-8 come back as three
    each. So the largest of the producer's headers are left out until the rest fits, and `LEFT_OUT` says how many.
    """
    ours = {
        SUBJECT: original.subject.encode(errors="surrogateescape").decode(errors="backslashreplace"),
        SEQ: str(original.seq),
        TIME: original.time.isoformat(),
        REASON: reason,
        DETAIL: _one_line(detail),
    }
    left_out = 0
    if msg_id := _encodable(original.headers.get("Nats-Msg-Id", "")):
        if _size(ours) + _size({MSG_ID: msg_id}) + _LEFT_OUT_SIZE <= _ROOM:
            ours[MSG_ID] = msg_id
        else:
            left_out += 1
    theirs = producers(original.headers)
    fitting = _fitting(theirs, _ROOM - _size(ours) - _LEFT_OUT_SIZE)
    left_out += len(theirs) - len(fitting)
    return fitting | ours | ({LEFT_OUT: str(left_out)} if left_out else {})


def producers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the producer, without the server's and ours."""
    return {
        name: _encodable(value)
        for name, value in headers.items()
        if HEADER_NAME.fullmatch(name) and not name.startswith(_RESERVED)
    }


def _fitting(headers: Mapping[str, str], room: int) -> dict[str, str]:
    by_size = sorted(headers.items(), key=lambda item: _size(dict([item])))
    kept = set[str]()
    for name, value in by_size:
        room -= _size({name: value})
        if room < 0:
            break
        kept.add(name)
    return {name: value for name, value in headers.items() if name in kept}


def _size(headers: Mapping[str, str]) -> int:
    """Bytes on the wire."""
    return sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def _encodable(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def _one_line(text: str) -> str:
    return " ".join(_encodable(text[:_MAX_DETAIL]).split())
