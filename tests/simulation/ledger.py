"""What producers were told about each publish, kept outside of every process."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from tests.simulation.stream import Message

Outcome = Literal["unknown", "ok", "failed"]

_KEY = re.compile(rb"key-(\d+);")


@dataclass(slots=True)
class Attempt:
    """One publish: its messages, and what became of them as far as its caller knows."""

    writer: str
    """Whose order counts: an agent, or one foreign producer."""
    keys: list[int]
    ordered: bool = True
    outcome: Outcome = "unknown"
    stored: list[tuple[int, bytes]] = field(default_factory=list)
    """Sequence and bytes, for ``ok``; an empty sequence where the producer was not told."""


class Ledger:
    """Every attempt, in the order they were begun."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.forgotten: set[int] = set()
        """Keys of messages sent again after the server had forgotten their ids: they may be there twice."""
        self._keys = 0

    def key(self) -> int:
        """A new one."""
        self._keys += 1
        return self._keys

    def begin(self, writer: str, keys: list[int], *, ordered: bool = True) -> Attempt:
        """Note an attempt before it is made."""
        attempt = Attempt(writer, keys, ordered)
        self.attempts.append(attempt)
        return attempt


def mark(key: int) -> str:
    """How a key is written into a message."""
    return f"key-{key};"


def key_of(message: Message) -> int:
    """The key of a message: in its headers, else in its payload; 0 for none."""
    found = _KEY.search(message.headers) or _KEY.search(message.payload)
    return int(found[1]) if found else 0
