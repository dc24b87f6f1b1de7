"""Per-agent chains: each event names the hash of the published bytes of the one before it.

A chain has one writer, so it needs no coordination. `verify` gives two verdicts: *intact* (no link is
wrong) and *complete* (no event is missing, the tail included).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import AgentHead, StoredEvent, SwarmEvent, kind_of

CLOSED_STATES = frozenset({"merged", "rejected", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: how many events it has and the hash of the last one."""

    seq: int = 0
    event_hash: str = ""

    def stamp(self, event: SwarmEvent) -> tuple[bytes, Head]:
        """Number ``event`` as the next of this chain; returns its bytes to publish and the new head."""
        event.agent_seq = self.seq + 1
        event.previous_event_hash = self.event_hash
        raw = event.SerializeToString(deterministic=True)
        return raw, Head(self.seq + 1, sha256_hex(raw))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The first thing that is wrong with a chain, and where."""

    seq: int
    """Stream sequence of the event, 0 where the event itself is missing."""
    agent_id: str
    agent_seq: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What `verify` found."""

    intact: bool
    complete: bool
    checked: int
    """Events looked at, also those of producers without chains."""
    closed: bool
    """The run has a closing transition, so its tail is anchored."""
    first_bad: Fault | None = None
    missing: tuple[Fault, ...] = ()


@dataclass(slots=True)
class _Chain:
    head: Head = field(default_factory=Head)
    hashes: dict[int, str] = field(default_factory=dict)
    gap: Fault | None = None


class ChainVerifier:
    """Feed it a run's events in stream order, then ask for the verdict."""

    def __init__(self) -> None:
        self._chains: dict[str, _Chain] = {}
        self._anchors: dict[str, Head] = {}
        self._first_bad: Fault | None = None
        self._checked = 0

    def add(self, stored: StoredEvent) -> None:
        """Check one event against its agent's chain so far."""
        event = stored.event
        self._checked += 1
        if event.agent_seq == 0:
            return
        chain = self._chains.setdefault(event.agent_id, _Chain())
        fault = self._compare(chain, stored)
        if fault is not None and fault.why.startswith("missing"):
            chain.gap = chain.gap or fault
        elif fault is not None:
            self._first_bad = self._first_bad or fault
        chain.head = Head(event.agent_seq, sha256_hex(stored.raw))
        chain.hashes[event.agent_seq] = chain.head.event_hash
        if kind_of(event) == "run_transition" and event.run_transition.heads:
            self._anchors = {h.agent_id: Head(h.agent_seq, h.event_hash) for h in event.run_transition.heads}

    @staticmethod
    def _compare(chain: _Chain, stored: StoredEvent) -> Fault | None:
        event, expected = stored.event, chain.head.seq + 1
        fault = partial(Fault, seq=stored.seq, agent_id=event.agent_id, agent_seq=event.agent_seq)
        if event.agent_seq > expected:
            return fault(why=f"missing: agent_seq {expected} to {event.agent_seq - 1}")
        if event.agent_seq < expected:
            return fault(why=f"agent_seq {event.agent_seq} after {chain.head.seq}: inserted or reordered")
        if event.previous_event_hash != chain.head.event_hash:
            return fault(why="previous_event_hash is not the hash of the event before it")
        return None

    def verdict(self) -> Verdict:
        """Both verdicts over everything added so far."""
        missing = [chain.gap for chain in self._chains.values() if chain.gap]
        first_bad = self._first_bad
        for agent_id, anchor in self._anchors.items():
            chain = self._chains.get(agent_id, _Chain())
            fault = partial(Fault, seq=0, agent_id=agent_id, agent_seq=anchor.seq)
            if chain.head.seq < anchor.seq:
                missing.append(fault(why=f"missing: agent_seq {chain.head.seq + 1} to {anchor.seq} (tail)"))
            elif chain.hashes.get(anchor.seq, anchor.event_hash) != anchor.event_hash:
                first_bad = first_bad or fault(why="the event is not the one anchored at the close")
        return Verdict(
            intact=first_bad is None,
            complete=not missing,
            checked=self._checked,
            closed=bool(self._anchors),
            first_bad=first_bad,
            missing=tuple(missing),
        )


def verify(events: Iterable[StoredEvent]) -> Verdict:
    """Both verdicts over a run's events in stream order."""
    verifier = ChainVerifier()
    for stored in events:
        verifier.add(stored)
    return verifier.verdict()


def heads_of(events: Iterable[StoredEvent]) -> list[AgentHead]:
    """Each agent's count and head, for the transition that closes a run."""
    heads: dict[str, AgentHead] = {}
    for stored in events:
        if stored.event.agent_seq:
            heads[stored.event.agent_id] = AgentHead(
                agent_id=stored.event.agent_id, agent_seq=stored.event.agent_seq, event_hash=sha256_hex(stored.raw)
            )
    return [heads[agent_id] for agent_id in sorted(heads)]
