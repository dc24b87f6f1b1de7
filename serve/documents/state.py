"""A run's state at a sequence."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from enchanted.schemas.events import Role


class FileDocument(BaseModel):
    """A file of a workspace."""

    path: str
    mode: str
    size: int
    blob: str
    """Git blob id (SHA-256 object format)."""
    seq: int
    """The change that last touched it."""
    path_hex: str
    """Hex of its name where that is not UTF-8; `path` is then a readable form."""


class ValueDocument(BaseModel):
    """A variable, or an object of a database schema."""

    name: str
    value: Any
    """JSON of a variable, definition of a schema object; absent where it is stored apart."""
    hash: str
    seq: int
    """The change that last set it."""
    stored_apart: bool
    """It was too large for its event, which names the object that holds it."""


class WorkspaceDocument(BaseModel):
    """The files of one workspace, and what was set in it."""

    tree: str
    files: list[FileDocument]
    variables: list[ValueDocument]
    schema_objects: list[ValueDocument]


class TaskDocument(BaseModel):
    """Where a task stands."""

    task_id: str
    state: str
    reason: str
    details: Any = None
    seq: int


class AgentDocument(BaseModel):
    """What an agent had done."""

    agent_id: str
    name: str
    role: Role
    status: str
    events: int
    decisions: int
    changes: int
    output_tokens: int
    last_seq: int
    agent_seq: int
    """Its highest number in its own chain; 0 for a producer without."""
    last_decision: str
    context_seq: int
    """Its last model call, whose messages are its context window then; 0 before the first."""
    context_event_id: str
    context_hash: str
    """SHA-256 of these messages as the call states it; empty where it does not."""


class ContextDocument(BaseModel):
    """The context window of an agent: the messages of its last model call up to a sequence."""

    run_id: str
    at: int
    """The last event up to which was looked."""
    agent_id: str
    name: str
    role: Role
    seq: int
    """The model call."""
    event_id: str
    task_id: str
    model: str
    context_hash: str
    """SHA-256 of the messages as the call states it; empty where it does not."""
    sha256: str
    """SHA-256 of the messages as they are stored."""
    matches: bool | None
    """Whether the two are equal; null where the call states none."""
    messages: Any
    """As they were recorded; a text where that is no JSON."""


class StateDocument(BaseModel):
    """A run folded to a sequence."""

    run_id: str
    at: int
    """The last event that is in it; 0 before the first."""
    time: str | None
    state: str
    reason: str
    details: Any = None
    checkpoint: int
    """The sequence folding began after; 0 is the run's beginning."""
    workspaces: dict[str, WorkspaceDocument]
    tasks: list[TaskDocument]
    agents: list[AgentDocument]


class ContentDocument(FileDocument):
    """A file with its content."""

    run_id: str
    workspace: str
    at: int
    encoding: Literal["utf-8", "base64"]
    content: str
