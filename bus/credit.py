"""What a pull consumer may ask for: memory stays within two bounds, and the next pull is sent before one runs dry.

The server deals messages out to the open pulls in turn and does not say whose one was. What they may still bring is
therefore known as an upper bound: never less than it is, because memory depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

_PULLS = 2
"""Open at a time: while one ends, and the next one is on its way, the other goes on."""


@dataclass(frozen=True, slots=True)
class Pull:
    """One request for messages; ``number`` is the last token of its reply subject."""

    number: int
    messages: int
    bytes: int
    """As the server counts: subject, reply subject, headers and payload."""


class Credit:
    """What was asked for and what waits to be taken, together never more than ``messages`` and ``size`` bytes."""

    def __init__(self, messages: int, size: int) -> None:
        self._messages = messages
        self._bytes = size
        self._open: dict[int, Pull] = {}
        self._numbers = count(1)
        self._asked_messages = 0
        self._asked_bytes = 0
        self._waiting_messages = 0
        self._waiting_bytes = 0
        self._needs_all = False

    @property
    def asking(self) -> bool:
        """Whether the server has a pull of ours."""
        return bool(self._open)

    def ask(self) -> Pull | None:
        """The pull to send now, counted as sent; None when enough is asked for, or too little was taken."""
        messages = self._messages - self._asked_messages - self._waiting_messages
        size = self._bytes - self._asked_bytes - self._waiting_bytes
        if self._needs_all:
            if self._open or self._waiting_messages:
                return None
            self._needs_all = False
        else:
            if len(self._open) == _PULLS or messages < max(1, self._messages // 4) or size < max(1, self._bytes // 4):
                return None
            share = self._share()
            messages = min(messages, max(1, int(self._messages * share)))
            size = min(size, max(1, int(self._bytes * share)))
        pull = Pull(next(self._numbers), messages, size)
        self._open[pull.number] = pull
        self._asked_messages += messages
        self._asked_bytes += size
        return pull

    def arrived(self, size: int) -> None:
        """One message of ``size`` bytes came and waits."""
        self._asked_messages -= 1
        self._asked_bytes -= size
        self._waiting_messages += 1
        self._waiting_bytes += size
        if self._asked_messages <= 0 or self._asked_bytes <= 0:
            # The server ends a pull without a word when nothing at all is left of it.
            self._none_open()

    def taken(self, messages: int, size: int) -> None:
        """These do not wait any more."""
        self._waiting_messages -= messages
        self._waiting_bytes -= size

    def ended(self, number: int, messages: int = 0, size: int = 0, *, too_small: bool = False) -> bool:
        """A pull is over, with so much left of it (0 if that is not known); returns whether it had brought anything.

        ``too_small``: because the next message is larger than what is left of it.
        """
        pull = self._open.pop(number, None)
        if pull is None:
            return False
        unused = messages == pull.messages
        # Larger than a whole pull: the next one is given all there is.
        self._needs_all = self._needs_all or (too_small and unused)
        self._asked_messages = min(self._asked_messages - messages, sum(one.messages for one in self._open.values()))
        self._asked_bytes = min(self._asked_bytes - size, sum(one.bytes for one in self._open.values()))
        if self._asked_messages <= 0 or self._asked_bytes <= 0:
            self._none_open()
        return not unused

    def _share(self) -> float:
        """Of both bounds, for the next pull: half, but far from what is left of the other one, or both end together."""
        # Of the other's messages and bytes, those that run out first.
        left = min(self._asked_messages / self._messages, self._asked_bytes / self._bytes)
        return 0.5 if left <= 0.25 else left / 2

    def _none_open(self) -> None:
        self._open.clear()
        self._asked_messages = self._asked_bytes = 0
