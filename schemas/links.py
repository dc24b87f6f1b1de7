"""One agent's chain, judged: which link is wrong, what is missing, and where. Pure.

A link is *witnessed* by whoever names its hash: the next link of its chain, or the heads of a closing transition. So of
two links that contradict each other the one without a witness is wrong, and of two events with one number the one
that is witnessed is the real one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Link(NamedTuple):
    """What a chain needs of one event."""

    seq: int
    """Stream sequence."""
    number: int
    """agent_seq."""
    event_hash: str
    previous_hash: str


class Anchor(NamedTuple):
    """What a closing transition says of one agent."""

    seq: int
    """Stream sequence of the transition."""
    number: int
    event_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that is wrong with a chain, and where."""

    seq: int
    """Stream sequence of the event, 0 where the event itself is missing."""
    agent_id: str
    agent_seq: int
    why: str


class Chain:
    """The links of one agent as they come: two lists while each continues the chain, whole links from there on."""

    __slots__ = ("_hashes", "_last", "_rest", "_seqs")

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self._hashes: list[str] = []
        self._last = ""
        self._rest: list[Link] = []

    def __len__(self) -> int:
        return len(self._hashes) + len(self._rest)

    def add(self, seq: int, number: int, event_hash: str, previous_hash: str) -> None:
        """The next link in stream order."""
        if previous_hash == self._last and not self._rest and number == len(self._hashes) + 1:
            self._seqs.append(seq)
            self._hashes.append(event_hash)
            self._last = event_hash
        else:
            self._rest.append(Link(seq, number, event_hash, previous_hash))

    def links(self) -> list[Link]:
        """All of them, in stream order."""
        previous = ["", *self._hashes]
        whole = zip(self._seqs, range(1, len(self._hashes) + 1), self._hashes, previous, strict=False)
        return [*map(Link._make, whole), *self._rest]

    def faults(self, agent_id: str, anchors: Sequence[Anchor]) -> tuple[list[Fault], list[Fault]]:
        """What is wrong and what is missing under the anchors that name this agent: one fault for each gap."""
        if not self._rest and all(map(self._holds, anchors)):
            return [], []
        return _Judgement(agent_id, self.links(), anchors).faults()

    def _holds(self, anchor: Anchor) -> bool:
        place = anchor.number - 1
        return (
            0 <= place < len(self._hashes)
            and self._hashes[place] == anchor.event_hash
            and self._seqs[place] < anchor.seq
        )

    def seq_of(self, anchor: Anchor) -> int:
        """Stream sequence of the event that is anchored; 0 where it is not there."""
        if not self._rest:
            return self._seqs[anchor.number - 1] if self._holds(anchor) else 0
        named = (link for link in self.links() if link.event_hash == anchor.event_hash and link.seq < anchor.seq)
        return max((link.seq for link in named), default=0)


class _Judgement:
    """The links of one agent, one of which is wrong, or not what is anchored."""

    def __init__(self, agent_id: str, links: Sequence[Link], anchors: Sequence[Anchor]) -> None:
        self._agent_id = agent_id
        self._links = links
        self._anchors = anchors
        self._anchored: dict[int, Anchor] = {}
        for anchor in anchors:
            self._anchored.setdefault(anchor.number, anchor)
        self._by_number: dict[int, list[Link]] = {}
        self._real: dict[int, Link] = {}

    def faults(self) -> tuple[list[Fault], list[Fault]]:
        """What is wrong, and what is missing."""
        for link in self._links:
            self._by_number.setdefault(link.number, []).append(link)
        self._choose()
        bad = [*self._broken(), *self._inserted(), *self._reordered(), *self._denied()]
        return bad, list(self._missing())

    def _choose(self) -> None:
        """Of the links with one number the real one, from the end back: witnessed, else continuing, else first."""
        for number in sorted(self._by_number, reverse=True):
            links = self._by_number[number]
            anchor, above = self._anchored.get(number), self._real.get(number + 1)
            below = {link.event_hash for link in self._by_number.get(number - 1, ())} or {""}
            choices = (
                *(link for link in links if anchor and link.event_hash == anchor.event_hash),
                *(link for link in links if above and link.event_hash == above.previous_hash),
                *(link for link in links if link.previous_hash in below),
                links[0],
            )
            self._real[number] = choices[0]

    def _witnessed(self, number: int) -> bool | None:
        """Whether this link's hash is the one that is named; None where nobody names it."""
        anchor, above = self._anchored.get(number), self._real.get(number + 1)
        if anchor is not None:
            return self._real[number].event_hash == anchor.event_hash
        return None if above is None else self._real[number].event_hash == above.previous_hash

    def _broken(self) -> Iterator[Fault]:
        for number, link in sorted(self._real.items()):
            if number == 1 and link.previous_hash:
                yield self._fault(link, "agent_seq 1 names an event before it")
            before = self._real.get(number - 1)
            if before is None or link.previous_hash == before.event_hash:
                continue
            if self._holds(number - 1):
                yield self._fault(link, "altered: previous_event_hash is not the hash of the event before it")
            elif self._witnessed(number) is not False:
                yield self._fault(before, f"altered: its hash is not the one that sequence {link.seq} names")
        yield from self._altered_in_between()

    def _holds(self, number: int) -> bool:
        anchor = self._anchored.get(number)
        return anchor is not None and self._real[number].event_hash == anchor.event_hash

    def _altered_in_between(self) -> Iterator[Fault]:
        """Links that contradict the one before and are contradicted by the one after: their own bytes were changed."""
        for number, link in sorted(self._real.items()):
            before, above = self._real.get(number - 1), self._real.get(number + 1)
            wrong = before is not None and link.previous_hash != before.event_hash
            if wrong and above is not None and above.previous_hash != link.event_hash and not self._holds(number):
                yield self._fault(link, f"altered: its hash is not the one that sequence {above.seq} names")

    def _inserted(self) -> Iterator[Fault]:
        for number, links in self._by_number.items():
            real = self._real[number]
            for link in links:
                if link is not real:
                    what = "repeated" if link.event_hash == real.event_hash else "inserted"
                    yield self._fault(link, f"{what}: agent_seq {number} is sequence {real.seq}")

    def _reordered(self) -> Iterator[Fault]:
        """The fewest links whose move explains the order: those outside of a longest run of rising numbers."""
        in_stream = [link for link in self._links if link is self._real[link.number]]
        in_order = _longest_rising([link.number for link in in_stream])
        for place, link in enumerate(in_stream):
            if place not in in_order:
                where = f"after agent_seq {link.number - 1}" if link.number > 1 else "first"
                yield self._fault(link, f"reordered: its place is {where}")

    def _denied(self) -> Iterator[Fault]:
        """Where the anchors and the events do not agree."""
        for anchor in self._anchors:
            link = self._real.get(anchor.number)
            if link is not None and link.event_hash != anchor.event_hash:
                yield self._fault(link, f"the event is not the one anchored at the close (sequence {anchor.seq})")
            elif link is not None and link.seq > anchor.seq:
                yield self._fault(link, f"reordered: it comes after the close that anchors it (sequence {anchor.seq})")
            elif anchor.number == 0:
                why = "the close names an agent without events"
                yield Fault(seq=anchor.seq, agent_id=self._agent_id, agent_seq=0, why=why)

    def _missing(self) -> Iterator[Fault]:
        present = sorted(self._real)
        for before, number in pairwise([0, *present]):
            if number > before + 1:
                yield self._gap(before + 1, number - 1, f"before sequence {self._real[number].seq}")
        last = present[-1] if present else 0
        anchored = max((anchor.number for anchor in self._anchors), default=0)
        if anchored > last:
            yield self._gap(last + 1, anchored, "tail")

    def _gap(self, first: int, last: int, where: str) -> Fault:
        why = f"missing: agent_seq {first} to {last} ({where})"
        return Fault(seq=0, agent_id=self._agent_id, agent_seq=first, why=why)

    def _fault(self, link: Link, why: str) -> Fault:
        return Fault(seq=link.seq, agent_id=self._agent_id, agent_seq=link.number, why=why)


def _longest_rising(numbers: Sequence[int]) -> set[int]:
    """Places of a longest subsequence that rises."""
    ends: list[int] = []
    places: list[int] = []
    before: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect_left(ends, number)
        before.append(places[length - 1] if length else -1)
        if length == len(ends):
            ends.append(number)
            places.append(place)
        else:
            ends[length], places[length] = number, place
    found, place = set(), places[-1] if places else -1
    while place >= 0:
        found.add(place)
        place = before[place]
    return found


def earliest(faults: Iterable[Fault]) -> Fault | None:
    """The fault that comes first in the stream."""
    return min(faults, key=lambda fault: fault.seq or 2**64, default=None)
