"""One-time codes: a printed link carries one in its fragment, and the page exchanges it for the token.

A code is made from the token by whoever can read it, and asks nobody: time, nonce, and an HMAC-SHA256 over both.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

LIFETIME = 600.0
"""Seconds a code may wait to be used."""
AHEAD = 5.0
"""Seconds that the clock of whoever made a code may be ahead."""
NONCE = 12
MAC = 16
_HEAD = struct.Struct(f">Q{NONCE}s")
_PURPOSE = b"enchanted one-time code\0"


def new_code(token: str, *, now: float, nonce: bytes) -> str:
    """A code for the API with this token.

    ``now``: seconds since 1970. ``nonce``: 12 random bytes.
    """
    head = _HEAD.pack(int(now * 1_000), nonce)
    return (head + _mac(token, head)).hex()


def _mac(token: str, head: bytes) -> bytes:
    return hmac.digest(token.encode(), _PURPOSE + head, hashlib.sha256)[:MAC]


class Codes:
    """Which codes were used, for as long as they would be good."""

    def __init__(self, token: str, *, since: float) -> None:
        """``since``: when this began to count, in seconds since 1970; older codes may have been used before."""
        self._token = token
        self._since = since
        self._used: dict[str, float] = {}

    def redeem(self, code: str, now: float) -> bool:
        """Whether this code is good; it is only once."""
        head = _read(code)
        if head is None or not hmac.compare_digest(head[_HEAD.size :], _mac(self._token, head[: _HEAD.size])):
            return False
        made = _HEAD.unpack(head[: _HEAD.size])[0] / 1_000
        self._used = {used: until for used, until in self._used.items() if until > now}
        good = self._since <= made <= now + AHEAD and now < made + LIFETIME
        # As it is spelt canonically: hex has several spellings of one code.
        spelt = head.hex()
        if not good or spelt in self._used:
            return False
        self._used[spelt] = made + LIFETIME
        return True


def _read(code: str) -> bytes | None:
    try:
        found = bytes.fromhex(code)
    except ValueError:
        return None
    return found if len(found) == _HEAD.size + MAC else None
