"""What reading everything again found: damage, where it is, and whether another copy healed it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from enchanted.ingest.ranges import Ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedPart:
    """A part of the table that cannot be read as it was written."""

    name: str
    why: str
    rows: int
    holds: Ranges = field(default_factory=Ranges)
    """Stream sequences of its rows."""
    damaged: Ranges = field(default_factory=Ranges)
    """Of them, those whose bytes do not have the SHA-256 recorded with them; none where that cannot be said."""
    healed: bool = False
    """It is set aside, and its rows are written again from the stream."""
    kept_because: str = ""
    """Why it is not."""


@dataclass(frozen=True, slots=True)
class DetachedPart:
    """A part that does not belong to the table any more and lies beside it."""

    name: str
    reason: str
    """``broken-on-start`` where ClickHouse found it damaged; empty where someone, or this, set it aside."""
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scrub:
    """What was read again, and what of it is damaged now."""

    stream_seconds: float | None = None
    """How long reading the whole stream took the last time, pauses included; None while the first time goes on."""
    stream_reached: int = 0
    """The round that goes on has read up to here."""
    bytes_reached: int = 0
    """As far as the stream's bytes are compared with the table's hashes."""
    parts: int = 0
    parts_read: int = 0
    """Of the parts, those that were read whole and found good since they were made."""
    unreadable: Ranges = field(default_factory=Ranges)
    """The stream says it has them and cannot give them back."""
    altered: Ranges = field(default_factory=Ranges)
    """The stream's bytes do not have the SHA-256 recorded in the table."""
    kept: Ranges = field(default_factory=Ranges)
    """Of these two, those whose row in the table has its bytes: the table is the copy that is left."""
    replaced: Ranges = field(default_factory=Ranges)
    """The stream had other messages under these sequences before: it lost its end and went on."""
    lost: Ranges = field(default_factory=Ranges)
    """Older than the stream and not in the table either, while a part that was found broken lies beside it."""
    damaged_parts: tuple[DamagedPart, ...] = ()
    """Found now, healed ones included."""
    detached: tuple[DetachedPart, ...] = ()

    @property
    def left(self) -> tuple[DamagedPart, ...]:
        """The damaged parts that are not healed."""
        return tuple(part for part in self.damaged_parts if not part.healed)

    @property
    def sound(self) -> bool:
        """No damage is left. A detached part is none: whether rows are missing is counted, not guessed."""
        return not (self.unreadable or self.altered or self.replaced or self.lost or self.left)
