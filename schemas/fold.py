"""Fold a run's events to its state at a sequence: files, tasks, agents. Pure; nothing is executed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from enchanted.schemas.events import StoredEvent, kind_of, role_of

MAIN_WORKSPACE = "main"
FILE_SYSTEM = "FILE_SYSTEM"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileState:
    """One file of a workspace."""

    path: str
    mode: str
    """Git mode in octal digits."""
    blob: str
    """Git blob id (SHA-256 object format)."""
    size: int
    seq: int
    """Stream sequence of the change that last touched it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceState:
    """The files of one workspace and the git tree they make."""

    tree: str = ""
    files: dict[str, FileState] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskState:
    """Where a task stands."""

    task_id: str
    state: str
    reason: str
    details: str
    seq: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentState:
    """What an agent has done so far."""

    agent_id: str
    name: str
    role: str
    status: str = ""
    events: int = 0
    decisions: int = 0
    changes: int = 0
    output_tokens: int = 0
    last_seq: int = 0
    last_decision: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """Everything known about a run at one stream sequence."""

    seq: int = 0
    time: datetime | None = None
    state: str = ""
    reason: str = ""
    details: str = ""
    """JSON of the transition into the current state."""
    workspaces: dict[str, WorkspaceState] = field(default_factory=dict)
    tasks: dict[str, TaskState] = field(default_factory=dict)
    agents: dict[str, AgentState] = field(default_factory=dict)


def fold(events: Iterable[StoredEvent], *, at: int | None = None, start: RunState | None = None) -> RunState:
    """The state after every event with a sequence up to ``at`` (all of them by default), in stream order."""
    state = start or RunState()
    for stored in events:
        if at is not None and stored.seq > at:
            break
        state = apply(state, stored)
    return state


def apply(state: RunState, stored: StoredEvent) -> RunState:
    """The state after one more event."""
    state = replace(state, seq=stored.seq, time=stored.time, agents=_agents(state, stored))
    match kind_of(stored.event):
        case "state_change":
            return _state_change(state, stored)
        case "run_transition":
            return _transition(state, stored)
    return state


def _state_change(state: RunState, stored: StoredEvent) -> RunState:
    change = stored.event.state_change
    if change.target_type != FILE_SYSTEM:
        return state
    name = stored.event.workspace_id or MAIN_WORKSPACE
    # A workspace begins as a copy of the main one; its first event lists only what it changed.
    known = state.workspaces.get(name) or _with_tree(state, change.previous_state_hash)
    files = dict(known.files)
    for entry in change.files:
        if entry.new_blob:
            files[entry.path] = FileState(
                path=entry.path, mode=entry.new_mode, blob=entry.new_blob, size=entry.size, seq=stored.seq
            )
        else:
            files.pop(entry.path, None)
    workspace = WorkspaceState(tree=change.new_state_hash, files=files)
    return replace(state, workspaces={**state.workspaces, name: workspace})


def _with_tree(state: RunState, tree: str) -> WorkspaceState:
    return next((space for space in state.workspaces.values() if space.tree == tree), WorkspaceState())


def _transition(state: RunState, stored: StoredEvent) -> RunState:
    step, task_id = stored.event.run_transition, stored.event.task_id
    if step.subject == "task":
        task = TaskState(task_id=task_id, state=step.to_state, reason=step.reason, details=step.details, seq=stored.seq)
        return replace(state, tasks={**state.tasks, task_id: task})
    return replace(state, state=step.to_state, reason=step.reason, details=step.details)


def _agents(state: RunState, stored: StoredEvent) -> dict[str, AgentState]:
    event = stored.event
    agent = state.agents.get(event.agent_id) or AgentState(
        agent_id=event.agent_id, name=event.agent_name or event.agent_id, role=role_of(event)
    )
    agent = replace(agent, events=agent.events + 1, last_seq=stored.seq)
    match kind_of(event):
        case "decision":
            agent = replace(agent, decisions=agent.decisions + 1, last_decision=event.decision.rationale)
        case "state_change":
            agent = replace(agent, changes=agent.changes + 1)
        case "model_call":
            agent = replace(agent, output_tokens=agent.output_tokens + event.model_call.output_tokens)
        case "system_signal":
            agent = replace(agent, status=event.system_signal.status)
    return {**state.agents, event.agent_id: agent}
