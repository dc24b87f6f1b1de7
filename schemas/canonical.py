"""Canonical bytes and digests, so that two processes hash the same thing to the same value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

Json = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None


def canonical_json(value: Json) -> str:
    """Compact JSON with sorted keys; non-ASCII text stays as UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def sha256_hex(data: bytes | str) -> str:
    """SHA-256 as 64 lowercase hex digits; text is hashed as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
