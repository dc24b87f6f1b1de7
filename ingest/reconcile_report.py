"""What a reconciliation found. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from enchanted.ingest.ranges import Ranges
from enchanted.ingest.scrub_report import Scrub


@dataclass(frozen=True, slots=True)
class FormerStream:
    """Rows of a stream of the same name that was there before."""

    created: datetime
    rows: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class AgentGap:
    """Events an agent numbered that the table does not have."""

    agent_id: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Agents:
    """The counters of all agents that number their events."""

    agents: int = 0
    emitted: int = 0
    """Sum of each agent's highest number."""
    stored: int = 0
    """Different numbers in the table."""
    gaps: tuple[AgentGap, ...] = ()
    """At most LISTED."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Whether emitted = acknowledged = in the stream = in the table, and exactly where not."""

    at: datetime
    seconds: float
    """How long it took."""
    stream_created: datetime
    first_seq: int
    last_seq: int
    acknowledged: int
    """Every message up to here is acknowledged by ingest; 0 while there is no consumer. Compared is up to here."""
    in_stream: int = 0
    """Messages of the stream among the compared sequences."""
    rows: int = 0
    """Of them in the table, later copies included; after healing."""
    duplicates: int = 0
    """Of the rows, later copies of an event id."""
    conflicting: Ranges = field(default_factory=Ranges)
    """Of those, copies with other bytes than the first, which is the one that is shown. All are kept: no fault."""
    dead_letters: int = 0
    """Of them among the dead letters and not in the table; after healing."""
    missing: Ranges = field(default_factory=Ranges)
    """Were neither row nor dead letter."""
    healed: int = 0
    """Of the missing, written from the stream into the table."""
    buried: int = 0
    """Of the missing, put among the dead letters."""
    settled: int = 0
    """Rows that counted as the first copy of an event that had an earlier one, and count as later ones now."""
    unhealed: Ranges = field(default_factory=Ranges)
    """Missing now."""
    stream_gaps: Ranges = field(default_factory=Ranges)
    """Not in the stream although nothing may delete there: the stream is damaged."""
    twofold: Ranges = field(default_factory=Ranges)
    """Both row and dead letter."""
    beyond: Ranges = field(default_factory=Ranges)
    """Rows above the stream's last sequence: the stream has lost its end."""
    former_streams: tuple[FormerStream, ...] = ()
    agents: Agents = field(default_factory=Agents)
    scrub: Scrub = field(default_factory=Scrub)
    """Damage in stream and table, as far as they were read again."""

    @property
    def sound(self) -> bool:
        """Nothing is wrong now. Rows of former streams are history, not a fault."""
        there = self.unhealed or self.stream_gaps or self.twofold or self.beyond or self.agents.gaps
        return self.scrub.sound and not there

    def as_dict(self) -> dict[str, Any]:
        """For JSON: times as RFC 3339."""
        document = {"sound": self.sound, **asdict(self)}
        document["at"] = self.at.isoformat()
        document["stream_created"] = self.stream_created.isoformat()
        for former in document["former_streams"]:
            former["created"] = former["created"].isoformat()
        return document
