"""Opaque page cursors: a direction and a place, bound to the filters they were given out for."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Literal, Self, cast

from enchanted.schemas.canonical import Json, canonical_json, sha256_hex
from enchanted.serve.errors import BadCursor
from enchanted.serve.sources.parameters import LAST_MICROSECOND

Order = Literal["a", "d"]
_VERSION = "1"
_WITH_TIME = "2"
"""Of a cursor that names a time too. The first is still read: somebody may go on with one from before an update."""
_PARTS = {_VERSION: 1, _WITH_TIME: 2}
_DIGITS = 20


def digest_of(filters: Json) -> str:
    """What ties a cursor to its filters."""
    return sha256_hex(canonical_json(filters))[:12]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where the next page begins."""

    order: Order
    """Ascending or descending."""
    seq: int
    """The last sequence that was given out."""
    digest: str
    time: int = 0
    """When the stream stored that event, in microseconds since 1970; 0 for whatever has this sequence.

    Where a stream was made again, two events may have one sequence: it tells which of them was given out. All that
    the later stream has was stored after what the former had, so it does what the stream's own age would.
    """

    def encode(self) -> str:
        """The text for ``meta.cursor``."""
        if self.time:
            text = f"{_WITH_TIME}.{self.order}.{self.seq}.{self.time}.{self.digest}"
        else:
            text = f"{_VERSION}.{self.order}.{self.seq}.{self.digest}"
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, digest: str) -> Self:
        """Read a cursor back.

        Raises:
            BadCursor: not one of ours, or for other filters.
        """
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            version, order, *place, found = urlsafe_b64decode(padded).decode("ascii").split(".")
        except (ValueError, binascii.Error) as error:
            raise BadCursor from error
        if len(place) != _PARTS.get(version) or order not in ("a", "d") or found != digest:
            raise BadCursor
        seq, time = (*map(_number, place), 0)[:2]
        if seq >= 2**64 or time > LAST_MICROSECOND:
            raise BadCursor
        return cls(order=cast("Order", order), seq=seq, digest=found, time=time)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > _DIGITS:
        raise BadCursor
    return int(text)
