"""What a reconciliation found, and the ranges of sequences it speaks in. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

Span = tuple[int, int]
"""First and last sequence, both included."""
LISTED = 1_000
"""Ranges a report names; further ones are only counted."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Sequences as ranges in order: all of them counted, the first LISTED ranges named."""

    count: int = 0
    spans: tuple[Span, ...] = ()

    def plus(self, more: Sequence[Span]) -> Ranges:
        """With ranges that come after these."""
        listed = list(self.spans)
        for first, last in more:
            if listed and listed[-1][1] == first - 1:
                listed[-1] = (listed[-1][0], last)
            elif len(listed) < LISTED:
                listed.append((first, last))
        return Ranges(self.count + size_of(more), tuple(listed))

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.spans)
        return f"{text}, …" if size_of(self.spans) < self.count else text


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
    dead_letters: int = 0
    """Of them among the dead letters and not in the table; after healing."""
    missing: Ranges = field(default_factory=Ranges)
    """Were neither row nor dead letter."""
    healed: int = 0
    """Of the missing, written from the stream into the table."""
    buried: int = 0
    """Of the missing, put among the dead letters."""
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

    @property
    def sound(self) -> bool:
        """Nothing is wrong now. Rows of former streams are history, not a fault."""
        return not (self.unhealed or self.stream_gaps or self.twofold or self.beyond or self.agents.gaps)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: times as RFC 3339."""
        document = {"sound": self.sound, **asdict(self)}
        document["at"] = self.at.isoformat()
        document["stream_created"] = self.stream_created.isoformat()
        for former in document["former_streams"]:
            former["created"] = former["created"].isoformat()
        return document


def size_of(spans: Iterable[Span]) -> int:
    """How many sequences."""
    return sum(last - first + 1 for first, last in spans)


def spans_of(seqs: Iterable[int]) -> list[Span]:
    """Ascending sequences as ranges."""
    spans: list[Span] = []
    for seq in seqs:
        if spans and seq <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], max(seq, spans[-1][1]))
        else:
            spans.append((seq, seq))
    return spans


def pieces(first: int, last: int, size: int) -> Iterator[Span]:
    """A range cut at the multiples of ``size``."""
    while first <= last:
        end = min(last, first - first % size + size - 1)
        yield first, end
        first = end + 1


def without(whole: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """What is left of ``whole`` when ``taken`` is away; both ascending."""
    left: list[Span] = []
    place = 0
    for first, last in whole:
        while place < len(taken) and taken[place][1] < first:
            place += 1
        at = place
        while at < len(taken) and taken[at][0] <= last:
            if taken[at][0] > first:
                left.append((first, taken[at][0] - 1))
            first = taken[at][1] + 1
            at += 1
        if first <= last:
            left.append((first, last))
    return left


def joined(spans: Sequence[Span], slack: int) -> list[Span]:
    """Ranges at most ``slack`` apart as one: what is cheaper to read in one go."""
    together: list[Span] = []
    for first, last in spans:
        if together and first - together[-1][1] - 1 <= slack:
            together[-1] = (together[-1][0], last)
        else:
            together.append((first, last))
    return together


def contains(spans: Sequence[Span], seq: int) -> bool:
    """Whether a sequence is in one of the ascending ranges."""
    place = bisect_right(spans, seq, key=lambda span: span[0]) - 1
    return place >= 0 and seq <= spans[place][1]
