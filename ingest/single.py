"""Which events need no look-up for copies of their id, since the stream itself has refused every other copy.

A message that carries its event id as message id, and whose id (UUIDv7) was made within the last minute, has no earlier
copy that was published in the same way: that one would be within the stream's duplicate window, and this one refused.
A later copy is refused too, or is older than a minute when it comes: then it is looked up, and this one is found. What
is left are earlier copies published without a message id, or with an id from the future: `YoungIds` remembers those.
"""

from __future__ import annotations

from collections.abc import Iterable

WINDOW = 60_000_000
"""Microseconds an id may be old; half of the stream's duplicate window."""
AHEAD = 1_000_000
"""Microseconds a producer's clock may be ahead of the server's."""
REMEMBERED = 100_000
"""Ids that are remembered; with more of them everything is looked up until the others cannot come again."""

_HEX = frozenset("0123456789abcdef")


def made_at(event_id: str) -> int | None:
    """Microseconds since 1970 at which a UUIDv7 was made (RFC 9562, to the millisecond); None for any other id."""
    if len(event_id) != 36 or event_id[14] != "7":
        return None
    digits = event_id[:8] + event_id[9:13]
    return int(digits, 16) * 1000 if _HEX.issuperset(digits) else None


def id_made_at(micros: int) -> str:
    """The lowest UUIDv7 of a moment, for comparing: ids sort by the time they were made."""
    digits = f"{max(0, micros) // 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-0000-000000000000"


def is_single(event_id: str, msg_id: bytes, stored: int) -> bool:
    """Whether the stream, which stored the message at ``stored`` (microseconds since 1970), refuses other copies."""
    if msg_id != event_id.encode():
        return False
    made = made_at(event_id)
    return made is not None and stored - WINDOW <= made <= stored + AHEAD


class YoungIds:
    """Ids that were stored in a way the stream does not guard, and are not older than a minute yet."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        """``ids``: where they are more than REMEMBERED, there may be others that were not made later than these."""
        self._made = {event_id: made for event_id in ids if (made := made_at(event_id)) is not None}
        self._unsure_until = 0
        self._forget()

    def may_have(self, event_id: str, stored: int) -> bool:
        """Whether an id that is single by itself, stored at ``stored``, may have been stored before."""
        return stored <= self._unsure_until or event_id in self._made

    def add(self, event_id: str, stored: int) -> None:
        """Remember an id that was stored at ``stored`` if it may still come again as a single one."""
        made = made_at(event_id)
        if made is None or made < stored - WINDOW:
            return
        self._made[event_id] = made
        self._forget()

    def _forget(self) -> None:
        """Of too many keep the younger half; as long as one of the others may come again, nothing is sure."""
        if len(self._made) <= REMEMBERED:
            return
        # Half at once: to look through all of them for each that is added would take minutes for a batch.
        ordered = sorted(self._made.items(), key=lambda item: item[1])
        half = len(ordered) - REMEMBERED // 2
        self._unsure_until = max(self._unsure_until, ordered[half - 1][1] + WINDOW)
        self._made = dict(ordered[half:])
