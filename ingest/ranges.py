"""Stream sequences as ranges. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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

    def then(self, more: Ranges) -> Ranges:
        """With others that come after these, of which some may only be counted."""
        return Ranges(self.count + more.count, self.plus(more.spans).spans)

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.spans)
        return f"{text}, …" if size_of(self.spans) < self.count else text


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
