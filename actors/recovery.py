"""The last valid state of a run: the newest whose checks passed, in a log that verifies up to there.

The orchestrator rolls back to it and goes by it when it takes a run up again; an operator asks for it when a run went
wrong. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from enchanted.actors.lifecycle import CLOSED_RUN, RunState
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.schemas.fold import FILE_SYSTEM, MAIN_WORKSPACE
from enchanted.schemas.links import Fault, earliest

UNCHECKED = "no check ran on it"


@dataclass(frozen=True, kw_only=True, slots=True)
class MainState:
    """The main workspace after one change of it."""

    seq: int
    """Stream sequence of the change."""
    event_id: str
    tree: str
    reason: str
    """Of the change: base, fork, merge, rollback, undo."""
    checked_at: int = 0
    """Sequence of the event that tells its checks; 0 where none does."""
    why_not: str
    """Why it is not valid; empty where it is."""

    @property
    def valid(self) -> bool:
        """Its checks passed, and the log verifies up to there."""
        return not self.why_not


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """What is left of a run."""

    states: tuple[MainState, ...]
    """Of its main workspace, in stream order, each with why it is not valid."""
    fault: Fault | None
    """Where the log does not verify first."""
    run_state: str

    @property
    def valid(self) -> MainState | None:
        """The last valid state."""
        return next((state for state in reversed(self.states) if state.valid), None)

    @property
    def later(self) -> tuple[MainState, ...]:
        """What came after it."""
        valid = self.valid
        return tuple(state for state in self.states if valid is None or state.seq > valid.seq)

    @property
    def at(self) -> int:
        """The sequence to restore or fork at: where the checks of the last valid state are known, if it is so long."""
        if (valid := self.valid) is None:
            return 0
        following = min((state.seq for state in self.later), default=valid.checked_at + 1)
        return valid.checked_at if valid.seq < valid.checked_at < following else valid.seq

    @property
    def base(self) -> MainState | None:
        """What the run began with, if the log verifies up to there; all there is where no state is valid."""
        first = next(iter(self.states), None)
        return first if first and first.reason == "base" and not self._is_doubtful(first.seq) else None

    @property
    def tree(self) -> str:
        """The tree to go back to; empty where there is none."""
        state = self.valid or self.base
        return state.tree if state else ""

    @property
    def closed(self) -> bool:
        """The run has its verdict."""
        return self.run_state in CLOSED_RUN

    def _is_doubtful(self, seq: int) -> bool:
        return self.fault is not None and seq >= self.fault.seq


class MainStates:
    """The states of the main workspace and what checks said of each, event by event.

    Details of another form than our orchestrator's say nothing.
    """

    def __init__(self) -> None:
        self._states: list[MainState] = []
        self._checked: dict[str, tuple[int, str]] = {}
        """Tree -> sequence of the event that tells its checks, and why it is not valid."""

    def add(self, stored: StoredEvent) -> None:
        """The next event in stream order."""
        match kind_of(stored.event):
            case "state_change" if is_main(stored):
                self._states.append(_state_of(stored))
            case "run_transition":
                self._told(stored)

    def all(self) -> tuple[MainState, ...]:
        """Every state so far, judged by the newest checks of its tree."""
        return tuple(self._judged(state) for state in self._states)

    @property
    def valid_tree(self) -> str:
        """The newest tree whose checks passed, else the one the run began with; empty while there is neither."""
        passed = (state.tree for state in reversed(self._states) if self._judged(state).valid)
        return next(passed, self._states[0].tree if self._states else "")

    def _judged(self, state: MainState) -> MainState:
        if state.tree not in self._checked:
            return state
        seq, why_not = self._checked[state.tree]
        return replace(state, checked_at=seq, why_not=why_not)

    def _told(self, stored: StoredEvent) -> None:
        step = stored.event.run_transition
        details = _object(step.details)
        if (report := _object(details.get("report"))) and isinstance(report.get("checks"), list):
            self._reported(report.get("tree"), list(_failing(report["checks"])), stored.seq)
        if step.subject == "task" or not self._states:
            return
        if step.to_state == RunState.MERGED and details.get("tree") == self._states[-1].tree:
            self._reported(self._states[-1].tree, [], stored.seq)
        # A fork says which of its states its parent had found valid; the base stands for none.
        if (valid := details.get("valid_tree")) and valid != self._states[0].tree:
            self._reported(valid, [], stored.seq)

    def _reported(self, tree: Any, failing: Sequence[str], seq: int) -> None:
        if not isinstance(tree, str):
            return
        why_not = f"its checks failed: {', '.join(failing)}" if failing else ""
        if self._checked.get(tree, (0, None))[1] != why_not:
            self._checked[tree] = seq, why_not


def recover(events: Sequence[StoredEvent], *, run: str = "", damage: Fault | None = None) -> Recovery:
    """Find the last valid state in a run's events, their moved-out fields put back, in stream order.

    ``run``: an event of another one is a fault. ``damage``: what the caller found in the place it read them from.
    """
    events = list(_once(events))
    fault = earliest(one for one in (_first_fault(events, run), damage) if one)
    states, doubtful, run_state = MainStates(), list[MainState](), ""
    for stored in events:
        step = stored.event.run_transition
        if kind_of(stored.event) == "run_transition" and step.subject != "task" and step.to_state != "cancelling":
            run_state = step.to_state
        if fault is None or stored.seq < fault.seq:
            states.add(stored)
        elif is_main(stored):
            why_not = f"the log does not verify from sequence {fault.seq} on: {fault.why}"
            doubtful.append(_state_of(stored, why_not))
    return Recovery(states=(*states.all(), *doubtful), fault=fault, run_state=run_state)


def _once(events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
    """Without later copies, which the stream takes in when an outcome was unknown for long: they are no tampering."""
    known: dict[str, bytes] = {}
    for stored in events:
        event_id = stored.event.event_id
        if event_id in known and known[event_id] == stored.raw:
            continue
        known.setdefault(event_id, stored.raw)
        yield stored


def is_main(stored: StoredEvent) -> bool:
    """Whether an event changes the files of the main workspace."""
    change = stored.event.state_change
    return change.target_type == FILE_SYSTEM and (stored.event.workspace_id or MAIN_WORKSPACE) == MAIN_WORKSPACE


def _first_fault(events: Sequence[StoredEvent], run: str) -> Fault | None:
    verdict = verify(events, run=run)
    found = [replace(gap, seq=_shown_by(events, gap)) for gap in verdict.missing]
    return earliest([*found, *_strays(events), *([verdict.first_bad] if verdict.first_bad else [])])


def _shown_by(events: Sequence[StoredEvent], gap: Fault) -> int:
    """The sequence of the event that shows a gap: up to there nobody can tell that something is missing."""
    for stored in events:
        event = stored.event
        if event.agent_id == gap.agent_id and event.agent_seq > gap.agent_seq:
            return stored.seq
        heads = event.run_transition.heads
        if any(head.agent_id == gap.agent_id and head.agent_seq >= gap.agent_seq for head in heads):
            return stored.seq
    return events[-1].seq + 1 if events else 0


def _strays(events: Iterable[StoredEvent]) -> Iterator[Fault]:
    """Changes of the main workspace that do not begin where the one before ended."""
    tree = ""
    for stored in filter(is_main, events):
        event, before = stored.event, stored.event.state_change.previous_state_hash
        if tree and before != tree:
            why = f"the change begins with tree {before[:12] or '(none)'}, the one before ended with {tree[:12]}"
            yield Fault(seq=stored.seq, agent_id=event.agent_id, agent_seq=event.agent_seq, why=why)
        tree = event.state_change.new_state_hash


def _state_of(stored: StoredEvent, why_not: str = UNCHECKED) -> MainState:
    change = stored.event.state_change
    return MainState(
        seq=stored.seq,
        event_id=stored.event.event_id,
        tree=change.new_state_hash,
        reason=change.reason,
        why_not=why_not,
    )


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, given or as text; an empty one for anything else."""
    if isinstance(value, str) and value:
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def _failing(checks: Sequence[Any]) -> Iterator[str]:
    for check in checks:
        found = _object(check)
        if found.get("passed") is not True:
            yield str(found.get("command", "a check"))
