"""Opaque page cursors: a direction and a sequence, bound to the filters they were given out for."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Literal, Self, cast

from enchanted.schemas.canonical import Json, canonical_json, sha256_hex
from enchanted.serve.errors import BadCursor

Order = Literal["a", "d"]
_VERSION = "1"


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

    def encode(self) -> str:
        """The text for ``meta.cursor``."""
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
            version, order, seq, found = urlsafe_b64decode(padded).decode("ascii").split(".")
            number = int(seq) if seq.isdecimal() and len(seq) <= 20 else -1
        except (ValueError, binascii.Error) as error:
            raise BadCursor from error
        if version != _VERSION or order not in ("a", "d") or not 0 <= number < 2**64 or found != digest:
            raise BadCursor
        return cls(order=cast("Order", order), seq=number, digest=found)
