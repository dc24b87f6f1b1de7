"""Take back the setting of a variable: what it was before is set again, where nobody has set it since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.errors import StateConflict
from enchanted.bus.ports import BusPort
from enchanted.bus.subjects import state_filter
from enchanted.schemas.events import StoredEvent, kind_of, variable_change
from enchanted.schemas.fold import ENV_VAR, workspace_of
from enchanted.serve.errors import UndoRefused
from enchanted.serve.queries.runs import parsed

CHANGED = "the workspace was changed meanwhile; look again, then repeat it"


@dataclass(frozen=True, kw_only=True, slots=True)
class VariableTarget:
    """The change, what the variable holds now and what it held before the change; hash and JSON, empty for not set."""

    change: StoredEvent
    now: tuple[str, str]
    former: tuple[str, str]
    known: frozenset[str]
    """See `newest_in_stream`."""

    @property
    def name(self) -> str:
        """The variable."""
        return self.change.event.state_change.target_resource


def find_variable(events: Sequence[StoredEvent], change: StoredEvent) -> VariableTarget:
    """What taking ``change`` back would do, by all the run's events.

    Raises:
        UndoRefused: the variable was set anew since, or nothing of the change is left, or what it was is not known.
    """
    step = change.event.state_change
    held = changes_of(events, workspace_of(change))
    same = [one for one in held if _is_of(one, step.target_resource)]
    newest, before = same[-1], [one for one in same if one.seq < change.seq]
    now = newest.event.state_change.new_state_hash
    if now == step.previous_state_hash:
        raise UndoRefused(f"nothing of this change is left: {step.target_resource!r:.100} is what it was before")
    if now != step.new_state_hash:
        raise UndoRefused(
            f"{step.target_resource!r:.100} was changed again since, by event {newest.event.event_id}; undo that first",
            (step.target_resource,),
        )
    former = _former(before, change) if step.previous_state_hash else ("", "")
    value = newest.event.state_change.diff_patch
    return VariableTarget(change=change, now=(now, value), former=former, known=ids_of(held))


def changes_of(events: Sequence[StoredEvent], workspace: str) -> list[StoredEvent]:
    """A workspace's changes, of files and of what is set in it."""
    return [one for one in events if kind_of(one.event) == "state_change" and workspace_of(one) == workspace]


def ids_of(events: Sequence[StoredEvent]) -> frozenset[str]:
    """Their event ids."""
    return frozenset(one.event.event_id for one in events)


async def newest_in_stream(bus: BusPort, run: str, workspace: str, known: frozenset[str]) -> int:
    """The sequence of a workspace's newest change that the stream still has (0: none), on which an undo depends.

    The table may have changes that the stream has let go since, and those of a stream before this one: their sequences
    are none that the stream could compare with. A main workspace may go without a name, and a foreign producer
    publishes to a subject without one: subjects of their own, which are none of what the condition is about.

    Raises:
        UndoRefused: it is not among ``known``, the ids of the changes that were looked at.
    """
    held = await bus.last_of_each(state_filter(run, workspace))
    newest = max(held, key=lambda one: one.seq, default=None)
    if newest is not None and newest.event.event_id not in known:
        raise UndoRefused(CHANGED)
    return newest.seq if newest else 0


def _former(before: Sequence[StoredEvent], change: StoredEvent) -> tuple[str, str]:
    """The value that the change replaced, from the newest event that set it."""
    wanted = change.event.state_change.previous_state_hash
    for stored in reversed(before):
        step = stored.event.state_change
        if step.new_state_hash == wanted and not stored.event.blobs:
            return wanted, step.diff_patch
    raise UndoRefused(
        f"the run's log does not tell what {change.event.state_change.target_resource!r:.100} was before; "
        "fork a state before it"
    )


async def record_variable(bus: BusPort, run: str, target: VariableTarget) -> StoredEvent:
    """Write an undo into the run's log.

    Raises:
        UndoRefused: the workspace was changed since ``target`` was looked at.
    """
    draft = variable_change(
        workspace_id=workspace_of(target.change),
        name=target.name,
        previous_hash=target.now[0],
        new_hash=target.former[0],
        value=target.former[1],
        reason="undo",
        parent=target.change.event.event_id,
    )
    log = AgentLog(bus, run_id=run, role="operator", agent_name="operator")
    newest = await newest_in_stream(bus, run, workspace_of(target.change), target.known)
    try:
        return await log.emit_change(draft, expected_last=newest)
    except StateConflict as error:
        raise UndoRefused(CHANGED) from error


def variable_document(run: str, target: VariableTarget) -> dict[str, Any]:
    """What the undo did, or would do; it has no files."""
    return {
        "run_id": run,
        "event_id": target.change.event.event_id,
        "workspace": workspace_of(target.change),
        "previous_tree": "",
        "tree": "",
        "files": [],
        "patch": "",
        "variable": {
            "name": target.name,
            "was_set": bool(target.now[0]),
            "before": parsed(target.now[1]),
            "is_set": bool(target.former[0]),
            "after": parsed(target.former[1]),
        },
        "undo_event_id": "",
        "seq": 0,
        "branch": "",
    }


def _is_of(stored: StoredEvent, name: str) -> bool:
    step = stored.event.state_change
    return step.target_type == ENV_VAR and step.target_resource == name
