"""Per-agent chains: each event names the hash of the published bytes of the one before it.

A chain has one writer, so it needs no coordination. `verify` gives two verdicts: *intact* (no event is altered,
inserted or moved) and *complete* (none is missing, the tail included). What no chain can show, a rewritten chain or the
end of a run that is not closed, a receipt kept elsewhere does: `enchanted.schemas.receipt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import AgentHead, StoredEvent, SwarmEvent, run_of
from enchanted.schemas.links import Anchor, Chain, Fault, earliest

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
class Verdict:
    """What `verify` found."""

    intact: bool
    complete: bool
    checked: int
    """Events looked at, also those of producers without chains."""
    closed: bool
    """The run has a closing transition, so its tail is anchored."""
    unanchored: int
    """Chained events that no closing transition vouches for: all of an open run, those after the close of another."""
    first_bad: Fault | None = None
    missing: tuple[Fault, ...] = ()


class _Close:
    """A closing transition and the heads it names."""

    def __init__(self, stored: StoredEvent) -> None:
        self.seq = stored.seq
        self.agent_id = stored.event.agent_id
        self.agent_seq = stored.event.agent_seq
        self.anchors: dict[str, Anchor] = {}
        for head in stored.event.run_transition.heads:
            self.anchors[head.agent_id] = Anchor(stored.seq, head.agent_seq, head.event_hash)

    def fault(self, why: str) -> Fault:
        return Fault(seq=self.seq, agent_id=self.agent_id, agent_seq=self.agent_seq, why=why)


class ChainVerifier:
    """Feed it events in stream order, then ask for the verdict; ``run`` is the one they should all belong to."""

    def __init__(self, run: str = "") -> None:
        self._run = run
        self._chains: dict[str, Chain] = {}
        self._elsewhere: set[str] = set()
        self._unnumbered: dict[str, int] = {}
        self._closes: list[_Close] = []
        self._strangers: list[Fault] = []
        self._ids: set[str] = set()
        self._early: dict[str, Fault] = {}
        self._moved: list[Fault] = []
        self._checked = 0

    def add(self, stored: StoredEvent, *, digest: str | None = None) -> None:
        """Take in one event; ``digest`` is the SHA-256 of its bytes where the caller has it."""
        event = stored.event
        self._checked += 1
        if self._run and run_of(event) != self._run:
            self._strangers.append(_fault(stored, f"it belongs to run {run_of(event)!r}"))
            return
        number, agent_id = event.agent_seq, event.agent_id
        if not number:
            self._unnumbered.setdefault(agent_id, stored.seq)
            return
        chain = self._chains.get(agent_id)
        if chain is None:
            chain = self._chains[agent_id] = Chain()
            # The heads are read from the run's own subjects; who publishes elsewhere cannot be among them.
            if not event.run_id or f".{event.run_id}" not in stored.subject:
                self._elsewhere.add(agent_id)
        chain.add(stored.seq, number, digest or sha256(stored.raw).hexdigest(), event.previous_event_hash)
        event_id, cause = event.event_id, event.parent_event_id
        if event_id in self._early or (cause and cause not in self._ids):
            self._follow_cause(stored)
        self._ids.add(event_id)
        if event.WhichOneof("payload") == "run_transition":
            self._transition(stored)

    def verdict(self) -> Verdict:
        """Both verdicts over everything added so far."""
        bad, missing = [*self._strangers, *self._without_number()], []
        for agent_id in self._chains.keys() | {agent for close in self._closes for agent in close.anchors}:
            anchors = [close.anchors[agent_id] for close in self._closes if agent_id in close.anchors]
            wrong, gaps = self._chains.get(agent_id, Chain()).faults(agent_id, anchors)
            bad += wrong
            missing += gaps
        for close in self._closes:
            bad += self._not_anchored(close)
        # An effect before its cause tells only that one of them was moved; a chain tells which.
        first_bad = earliest(bad or self._moved)
        return Verdict(
            intact=first_bad is None,
            complete=not missing,
            checked=self._checked,
            closed=any(close.anchors for close in self._closes),
            unanchored=self._unanchored(),
            first_bad=first_bad,
            missing=tuple(sorted(missing, key=lambda fault: (fault.agent_id, fault.agent_seq))),
        )

    def _follow_cause(self, stored: StoredEvent) -> None:
        """A cause is stored before what it causes: this is how chains of two agents are ordered."""
        event_id, cause = stored.event.event_id, stored.event.parent_event_id
        if event_id in self._early:
            self._moved.append(self._early.pop(event_id))
        if cause and cause not in self._ids:
            why = f"reordered: it comes before the event that caused it, {cause[:64]}"
            self._early.setdefault(cause, _fault(stored, why))

    def _transition(self, stored: StoredEvent) -> None:
        step = stored.event.run_transition
        if step.heads or (step.subject != "task" and step.to_state in CLOSED_STATES):
            self._closes.append(_Close(stored))

    def _without_number(self) -> Iterator[Fault]:
        for agent_id, seq in self._unnumbered.items():
            if agent_id in self._chains:
                why = "it has no number in the chain of its agent"
                yield Fault(seq=seq, agent_id=agent_id, agent_seq=0, why=why)

    def _not_anchored(self, close: _Close) -> Iterator[Fault]:
        """Events that were there when the heads were read, and are not among them."""
        if not close.anchors:
            if close.agent_id not in self._elsewhere:
                yield close.fault("the close names no heads")
            return
        # What came between the reading of the log for the heads and the close itself is in none of them.
        read = max(
            (self._chains[agent].seq_of(anchor) for agent, anchor in close.anchors.items() if agent in self._chains),
            default=0,
        )
        for agent_id, chain in self._chains.items():
            known = close.anchors[agent_id].number if agent_id in close.anchors else 0
            if agent_id in self._elsewhere or len(chain) == known:
                continue
            for link in chain.links():
                if link.number > known and link.seq <= read:
                    why = f"inserted: it is not among the heads of the close (sequence {close.seq})"
                    yield Fault(seq=link.seq, agent_id=agent_id, agent_seq=link.number, why=why)

    def _unanchored(self) -> int:
        known: dict[str, int] = {}
        for close in self._closes:
            known[close.agent_id] = max(known.get(close.agent_id, 0), close.agent_seq)
            for agent_id, anchor in close.anchors.items():
                known[agent_id] = max(known.get(agent_id, 0), anchor.number)
        return sum(max(0, len(chain) - known.get(agent_id, 0)) for agent_id, chain in self._chains.items())


def _fault(stored: StoredEvent, why: str) -> Fault:
    return Fault(seq=stored.seq, agent_id=stored.event.agent_id, agent_seq=stored.event.agent_seq, why=why)


def verify(events: Iterable[StoredEvent], *, run: str = "") -> Verdict:
    """Both verdicts over events in stream order; with ``run``, an event of another one is a fault."""
    verifier = ChainVerifier(run)
    for stored in events:
        verifier.add(stored)
    return verifier.verdict()


def heads_of(events: Iterable[StoredEvent]) -> list[AgentHead]:
    """Each agent's count and head, for the transition that closes a run."""
    last: dict[str, StoredEvent] = {}
    for stored in events:
        number, agent_id = stored.event.agent_seq, stored.event.agent_id
        # A copy that the stream took in late is no head.
        if number and (agent_id not in last or number > last[agent_id].event.agent_seq):
            last[agent_id] = stored
    return [
        AgentHead(
            agent_id=agent_id, agent_seq=last[agent_id].event.agent_seq, event_hash=sha256_hex(last[agent_id].raw)
        )
        for agent_id in sorted(last)
    ]
