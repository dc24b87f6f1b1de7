"""Fold a run's events to its state at a sequence: files, variables, tasks, agents. Pure; nothing is executed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime

from enchanted.schemas.events import FileChange, StoredEvent, kind_of, role_of

MAIN_WORKSPACE = "main"
FILE_SYSTEM, ENV_VAR, DB_SCHEMA = "FILE_SYSTEM", "ENV_VAR", "DB_SCHEMA"
STARTS = 64
"""Trees of the main workspace, the newest, that another workspace can begin with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileState:
    """One file of a workspace."""

    path: str
    """A readable form where the name is not UTF-8; ``raw_path`` is the name itself."""
    mode: str
    """Git mode in octal digits."""
    blob: str
    """Git blob id (SHA-256 object format)."""
    size: int
    seq: int
    """Stream sequence of the change that last touched it."""
    path_hex: str = ""
    """Hex of the name's bytes where they are not UTF-8."""

    @property
    def raw_path(self) -> bytes:
        """The bytes of its name."""
        return path_key(self.path, self.path_hex).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueState:
    """A variable or a schema object."""

    name: str
    value: str
    """JSON of a variable's value, definition of a schema object; empty where it is stored apart."""
    hash: str
    seq: int
    """Stream sequence of the change that last set it."""
    stored_apart: bool = False
    """The value was too large for its event."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceState:
    """The files of one workspace and the git tree they make, and what was set in it."""

    tree: str = ""
    """Empty while it has no files."""
    files: dict[str, FileState] = field(default_factory=dict)
    """By `path_key`, so that two names never meet."""
    variables: dict[str, ValueState] = field(default_factory=dict)
    schema_objects: dict[str, ValueState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MainStep:
    """A step of the main workspace, backwards."""

    tree: str
    """The tree before."""
    before: dict[str, FileState | None]
    """What the files that changed were, by `path_key`."""


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
    context_seq: int = 0
    """Stream sequence of its last model call, which holds its context window; 0 before the first."""
    context_event_id: str = ""
    context_hash: str = ""
    """SHA-256 of the messages as that call states it."""


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
    """The state after every event with a sequence up to ``at`` (all of them by default), in stream order."""
    folding = Folding(start)
    for stored in events:
        if at is not None and stored.seq > at:
            break
        folding.add(stored)
    return folding.state()


def path_key(path: str, path_hex: str = "") -> str:
    """A file's name as Python holds one: bytes that are no UTF-8 are lone surrogates, which no UTF-8 name has."""
    if not path_hex:
        return path
    try:
        return bytes.fromhex(path_hex).decode("utf-8", "surrogateescape")
    except ValueError:
        return path


def workspace_of(stored: StoredEvent) -> str:
    """The workspace a change is of."""
    return stored.event.workspace_id or MAIN_WORKSPACE


class _Agent:
    """An AgentState that moves."""

    def __init__(self, agent_id: str, name: str, role: str) -> None:
        self.agent_id, self.name, self.role = agent_id, name, role
        self.status = self.last_decision = self.context_event_id = self.context_hash = ""
        self.events = self.decisions = self.changes = self.output_tokens = self.last_seq = self.agent_seq = 0
        self.context_seq = 0

    @classmethod
    def of(cls, state: AgentState) -> _Agent:
        agent = cls(state.agent_id, state.name, state.role)
        agent.__dict__.update({one.name: getattr(state, one.name) for one in fields(state)})
        return agent

    def add(self, stored: StoredEvent, kind: str) -> None:
        event = stored.event
        self.events += 1
        self.last_seq = stored.seq
        self.agent_seq = max(self.agent_seq, event.agent_seq)
        if kind == "state_change":
            self.changes += 1
        elif kind == "decision":
            self.decisions += 1
            self.last_decision = event.decision.rationale
        elif kind == "model_call":
            self.output_tokens += event.model_call.output_tokens
            self.context_seq, self.context_event_id = stored.seq, event.event_id
            self.context_hash = event.model_call.context_hash
        elif kind == "system_signal":
            self.status = event.system_signal.status


_File = FileState | tuple[FileChange, int]


class _Workspace:
    """A WorkspaceState that moves; a file is its entry in the change that last touched it, and that one's sequence."""

    def __init__(self, known: WorkspaceState | None = None) -> None:
        known = known or WorkspaceState()
        self.tree = known.tree
        self.begun = bool(known.tree or known.files)
        self.files: dict[str, _File] = dict(known.files)
        self.variables = dict(known.variables)
        self.schema_objects = dict(known.schema_objects)

    def state(self) -> WorkspaceState:
        files = {key: _file(file) for key, file in self.files.items()}
        return WorkspaceState(
            tree=self.tree,
            files=files,
            variables=dict(self.variables),
            schema_objects=dict(self.schema_objects),
        )


def _file(file: _File) -> FileState:
    if isinstance(file, FileState):
        return file
    entry, seq = file
    return FileState(
        path=entry.path,
        mode=entry.new_mode,
        blob=entry.new_blob,
        size=entry.size,
        seq=seq,
        path_hex=entry.path_hex,
    )


class Folding:
    """A fold under way: each event costs what it changes, the state what there is."""

    def __init__(self, start: RunState | None = None) -> None:
        start = start or RunState()
        self._seq, self._time = start.seq, start.time
        self._run: tuple[str, str, str] = (start.state, start.reason, start.details)
        self._tasks = dict(start.tasks)
        self._workspaces = {name: _Workspace(space) for name, space in start.workspaces.items()}
        self._agents = {agent_id: _Agent.of(agent) for agent_id, agent in start.agents.items()}
        self._steps: deque[tuple[str, dict[str, _File | None]]] = deque(
            ((step.tree, dict(step.before)) for step in start.main_steps), STARTS
        )

    def add(self, stored: StoredEvent) -> None:
        """The next event in stream order."""
        event, kind = stored.event, kind_of(stored.event)
        self._seq, self._time = stored.seq, stored.time
        agent = self._agents.get(event.agent_id)
        if agent is None:
            agent = _Agent(event.agent_id, event.agent_name or event.agent_id, role_of(event))
            self._agents[event.agent_id] = agent
        agent.add(stored, kind)
        if kind == "state_change":
            self._change(stored)
        elif kind == "run_transition":
            self._transition(stored)

    def state(self) -> RunState:
        """What everything added so far comes to."""
        state, reason, details = self._run
        return RunState(
            seq=self._seq,
            time=self._time,
            state=state,
            reason=reason,
            details=details,
            workspaces={name: space.state() for name, space in self._workspaces.items()},
            tasks=dict(self._tasks),
            agents={agent_id: AgentState(**vars(agent)) for agent_id, agent in self._agents.items()},
            main_steps=tuple(MainStep(tree, _files(before)) for tree, before in self._steps),
        )

    def _change(self, stored: StoredEvent) -> None:
        match stored.event.state_change.target_type:
            case "FILE_SYSTEM":
                self._files(stored)
            case "ENV_VAR":
                _set(self._workspace(stored).variables, stored)
            case "DB_SCHEMA":
                _set(self._workspace(stored).schema_objects, stored)

    def _workspace(self, stored: StoredEvent) -> _Workspace:
        name = workspace_of(stored)
        space = self._workspaces.get(name)
        if space is None:
            space = self._workspaces[name] = _Workspace()
        return space

    def _files(self, stored: StoredEvent) -> None:
        change = stored.event.state_change
        space = self._workspace(stored)
        if not space.begun:
            # A workspace begins as a copy of the main one; its first event lists only what it changed.
            space.files, space.begun = self._with_tree(change.previous_state_hash), True
        files, before = space.files, dict[str, _File | None]()
        for entry in change.files:
            key = path_key(entry.path, entry.path_hex)
            before.setdefault(key, files.get(key))
            if entry.new_blob:
                files[key] = (entry, stored.seq)
            else:
                files.pop(key, None)
        if workspace_of(stored) == MAIN_WORKSPACE:
            self._steps.append((space.tree, before))
        space.tree = change.new_state_hash

    def _with_tree(self, tree: str) -> dict[str, _File]:
        """The files of a tree that some workspace has, or the main one had lately."""
        for space in self._workspaces.values():
            if tree and space.tree == tree:
                return dict(space.files)
        main = self._workspaces.get(MAIN_WORKSPACE)
        if main is None or not tree or all(earlier != tree for earlier, _ in self._steps):
            return {}
        files = dict(main.files)
        for earlier, before in reversed(self._steps):
            for key, file in before.items():
                if file is None:
                    files.pop(key, None)
                else:
                    files[key] = file
            if earlier == tree:
                break
        return files

    def _transition(self, stored: StoredEvent) -> None:
        step, task_id = stored.event.run_transition, stored.event.task_id
        if step.subject != "task":
            self._run = (step.to_state, step.reason, step.details)
            return
        self._tasks[task_id] = TaskState(
            task_id=task_id, state=step.to_state, reason=step.reason, details=step.details, seq=stored.seq
        )


def _files(before: dict[str, _File | None]) -> dict[str, FileState | None]:
    return {key: None if file is None else _file(file) for key, file in before.items()}


def _set(values: dict[str, ValueState], stored: StoredEvent) -> None:
    change = stored.event.state_change
    if not change.new_state_hash:
        values.pop(change.target_resource, None)
        return
    values[change.target_resource] = ValueState(
        name=change.target_resource,
        value=change.diff_patch,
        hash=change.new_state_hash,
        seq=stored.seq,
        stored_apart=any(blob.field == "state_change.diff_patch" for blob in stored.event.blobs),
    )
