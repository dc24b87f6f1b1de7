"""Fold a run's events to its state at a sequence: files, tasks, agents. Pure; nothing is executed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from enchanted.schemas.events import FileChange, StoredEvent, kind_of, role_of
from enchanted.schemas.gen.events_pb2 import StateChange

MAIN_WORKSPACE = "main"
FILE_SYSTEM, ENV_VAR, DB_SCHEMA = "FILE_SYSTEM", "ENV_VAR", "DB_SCHEMA"
STARTS = 200
"""Trees of the main workspace, the newest, that another workspace can begin with."""


class FileState(NamedTuple):
    """One file of a workspace."""

    path: str
    mode: str
    """Git mode in octal digits."""
    blob: str
    """Git blob id (SHA-256 object format)."""
    size: int
    seq: int
    """Stream sequence of the change that last touched it."""
    path_hex: str = ""
    """Hex of the raw path where it is not UTF-8; ``path`` is a readable form then."""


class MainStep(NamedTuple):
    """How the main workspace came to a tree, backwards."""

    tree: str
    """The tree before."""
    before: dict[str, FileState | None]
    """What the files that changed were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceState:
    """The files of one workspace and the git tree they make."""

    tree: str = ""
    files: dict[str, FileState] = field(default_factory=dict)
    """By path; a path that is not UTF-8 by ``hex:`` and its digits."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variable -> the JSON of its value."""
    schema_objects: dict[str, str] = field(default_factory=dict)
    """Database object -> its definition."""


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
    agent_seq: int = 0
    """Its highest number in its own chain; 0 for a producer without."""
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
    main_steps: tuple[MainStep, ...] = ()
    """The newest steps of the main workspace; another one may begin with any of these trees."""


def fold(events: Iterable[StoredEvent], *, at: int | None = None, start: RunState | None = None) -> RunState:
    """The state after every event with a sequence up to ``at`` (all of them by default), in stream order.

    ``start``: the state to go on from; it stays as it is.
    """
    folding = Fold(start)
    for stored in events:
        if at is not None and stored.seq > at:
            break
        folding.add(stored)
    return folding.state()


class Fold:
    """A state that moves; each event costs what it changes, whatever the run is like."""

    def __init__(self, start: RunState | None = None) -> None:
        start = start or RunState()
        self.seq, self.time = start.seq, start.time
        self._run = (start.state, start.reason, start.details)
        self._spaces = {name: _Space(space) for name, space in start.workspaces.items()}
        self._tasks = dict(start.tasks)
        self._agents = {agent_id: _Agent(agent) for agent_id, agent in start.agents.items()}
        self._steps = deque(start.main_steps, STARTS)

    def add(self, stored: StoredEvent) -> None:
        """Take one more event, the next in stream order, into account."""
        event = stored.event
        self.seq, self.time = stored.seq, stored.time
        agent = self._agents.get(event.agent_id)
        if agent is None:
            name = event.agent_name or event.agent_id
            first = AgentState(agent_id=event.agent_id, name=name, role=role_of(event))
            agent = self._agents[event.agent_id] = _Agent(first)
        kind = kind_of(event)
        agent.add(stored, kind)
        if kind == "state_change":
            self._changed(stored)
        elif kind == "run_transition":
            self._moved(stored)

    def state(self) -> RunState:
        """The state now, a copy."""
        state, reason, details = self._run
        return RunState(
            seq=self.seq,
            time=self.time,
            state=state,
            reason=reason,
            details=details,
            workspaces={name: space.state() for name, space in self._spaces.items()},
            tasks=dict(self._tasks),
            agents={agent_id: agent.state() for agent_id, agent in self._agents.items()},
            main_steps=tuple(self._steps),
        )

    def _changed(self, stored: StoredEvent) -> None:
        change = stored.event.state_change
        name = stored.event.workspace_id or MAIN_WORKSPACE
        space = self._spaces.get(name)
        if space is None:
            # A workspace begins as a copy of the main one; its first event lists only what it changed.
            space = self._spaces[name] = _Space(WorkspaceState(files=self._files_at(change.previous_state_hash)))
        if change.target_type == FILE_SYSTEM:
            step = space.change_files(stored.seq, change)
            if name == MAIN_WORKSPACE:
                self._steps.append(step)
        elif change.target_type == ENV_VAR:
            _set(space.variables, stored)
        elif change.target_type == DB_SCHEMA:
            _set(space.schema_objects, stored)

    def _files_at(self, tree: str) -> dict[str, FileState]:
        """The files of a tree that some workspace has, or the main one had lately."""
        for space in self._spaces.values():
            if space.tree == tree:
                return dict(space.files)
        main = self._spaces.get(MAIN_WORKSPACE)
        if main is None or all(step.tree != tree for step in self._steps):
            return {}
        files = dict(main.files)
        for step in reversed(self._steps):
            for path, file in step.before.items():
                if file is None:
                    files.pop(path, None)
                else:
                    files[path] = file
            if step.tree == tree:
                break
        return files

    def _moved(self, stored: StoredEvent) -> None:
        step, task_id = stored.event.run_transition, stored.event.task_id
        if step.subject == "task":
            self._tasks[task_id] = TaskState(
                task_id=task_id, state=step.to_state, reason=step.reason, details=step.details, seq=stored.seq
            )
        else:
            self._run = (step.to_state, step.reason, step.details)


class _Space:
    """A workspace that moves."""

    def __init__(self, start: WorkspaceState) -> None:
        self.tree = start.tree
        self.files = dict(start.files)
        self.variables = dict(start.variables)
        self.schema_objects = dict(start.schema_objects)

    def change_files(self, seq: int, change: StateChange) -> MainStep:
        before: dict[str, FileState | None] = {}
        for entry in change.files:
            key = file_key(entry)
            before.setdefault(key, self.files.get(key))
            if entry.new_blob:
                self.files[key] = FileState(entry.path, entry.new_mode, entry.new_blob, entry.size, seq, entry.path_hex)
            else:
                self.files.pop(key, None)
        step = MainStep(self.tree, before)
        self.tree = change.new_state_hash
        return step

    def state(self) -> WorkspaceState:
        return WorkspaceState(
            tree=self.tree,
            files=dict(self.files),
            variables=dict(self.variables),
            schema_objects=dict(self.schema_objects),
        )


class _Agent:
    """An agent that moves."""

    def __init__(self, start: AgentState) -> None:
        self._start = start
        self.status, self.last_decision = start.status, start.last_decision
        self.events, self.decisions, self.changes = start.events, start.decisions, start.changes
        self.output_tokens = start.output_tokens
        self.last_seq, self.agent_seq = start.last_seq, start.agent_seq

    def add(self, stored: StoredEvent, kind: str) -> None:
        event = stored.event
        self.events += 1
        self.last_seq = stored.seq
        self.agent_seq = max(self.agent_seq, event.agent_seq)
        if kind == "decision":
            self.decisions += 1
            self.last_decision = event.decision.rationale
        elif kind == "state_change":
            self.changes += 1
        elif kind == "model_call":
            self.output_tokens += event.model_call.output_tokens
        elif kind == "system_signal":
            self.status = event.system_signal.status

    def state(self) -> AgentState:
        return replace(
            self._start,
            status=self.status,
            events=self.events,
            decisions=self.decisions,
            changes=self.changes,
            output_tokens=self.output_tokens,
            last_seq=self.last_seq,
            agent_seq=self.agent_seq,
            last_decision=self.last_decision,
        )


def file_key(entry: FileChange) -> str:
    """What a file is known by: two paths that are not UTF-8 may look the same."""
    return f"hex:{entry.path_hex}" if entry.path_hex else entry.path


def _set(values: dict[str, str], stored: StoredEvent) -> None:
    change = stored.event.state_change
    moved_out = any(blob.field == "state_change.diff_patch" for blob in stored.event.blobs)
    if change.diff_patch or moved_out:
        values[change.target_resource] = change.diff_patch
    else:
        values.pop(change.target_resource, None)
