"""SwarmEvent: the words of the contract as Python values, and builders for each payload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from google.protobuf.message import DecodeError

from enchanted.schemas.canonical import Json, canonical_json, sha256_hex
from enchanted.schemas.document import to_document
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.gen import events_pb2 as pb

SwarmEvent = pb.SwarmEvent
FileChange = pb.FileChange
AgentHead = pb.AgentHead

Role = Literal["architect", "coder", "reviewer", "operator", "unspecified"]
ChangeReason = Literal["base", "edit", "merge", "rollback", "undo", "fork"]
Kind = Literal["decision", "state_change", "system_signal", "model_call", "tool_call", "run_transition"]
Status = Literal["STARTING", "HEALTHY", "DEGRADED", "CRITICAL_FAILURE", "STOPPING"]
ToolOutcome = Literal["OK", "FAILED", "DENIED", "TIMED_OUT"]

KINDS: tuple[Kind, ...] = ("decision", "state_change", "system_signal", "model_call", "tool_call", "run_transition")
ROLE_NUMBERS: dict[Role, int] = {"unspecified": 0, "architect": 1, "coder": 2, "reviewer": 3, "operator": 4}
_ROLE_NAMES = {number: name for name, number in ROLE_NUMBERS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvent:
    """An event as the stream holds it."""

    seq: int
    """JetStream stream sequence."""
    time: datetime
    """When the stream stored it (UTC)."""
    subject: str
    raw: bytes
    """The published bytes."""
    event: pb.SwarmEvent


def parse_event(raw: bytes) -> pb.SwarmEvent:
    """Decode published bytes.

    Raises:
        NotAnEvent: protobuf rejects the bytes.
    """
    try:
        return pb.SwarmEvent.FromString(raw)
    except DecodeError as error:
        raise NotAnEvent(str(error)) from error


def kind_of(event: pb.SwarmEvent) -> Kind | Literal["unknown"]:
    """The name of the payload that is set; ``unknown`` for none, or one from a newer schema."""
    return cast("Kind | None", event.WhichOneof("payload")) or "unknown"


def role_of(event: pb.SwarmEvent) -> Role:
    """The role as the subject spells it; numbers from a newer schema are ``unspecified``."""
    return _ROLE_NAMES.get(event.agent_role, "unspecified")


def run_of(event: pb.SwarmEvent) -> str:
    """The run an event belongs to: its ``run_id``, else its trace for producers without runs."""
    return event.run_id or event.trace_id


def timestamp_of(event: pb.SwarmEvent) -> datetime | None:
    """The producer's time in UTC; None where it is unset or no Python datetime can hold it."""
    if not event.HasField("timestamp"):
        return None
    try:
        return event.timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def event_to_dict(event: pb.SwarmEvent) -> dict[str, Any]:
    """Every field in JSON with the names of the .proto; a timestamp JSON cannot express is given as its two numbers."""
    return to_document(event)


def decision(
    *,
    context_hash: str,
    trigger: str,
    rationale: str,
    action: Json,
    rejected: Iterable[str] = (),
    confidence: float = 0.0,
    memory_ids: Iterable[str] = (),
    task_id: str = "",
    workspace_id: str = "",
    parent: str = "",
) -> pb.SwarmEvent:
    """A decision: what was chosen, why, what was turned down, and how sure the agent was (0 to 1)."""
    return pb.SwarmEvent(
        task_id=task_id,
        workspace_id=workspace_id,
        parent_event_id=parent,
        decision=pb.AgentDecision(
            context_hash=context_hash,
            input_trigger=trigger,
            rationale=rationale,
            rejected_alternatives=list(rejected),
            memory_ids=list(memory_ids),
            confidence_score=min(1.0, max(0.0, confidence)),
            action=canonical_json(action),
        ),
    )


def state_change(
    *,
    workspace_id: str,
    previous_tree: str,
    new_tree: str,
    patch: str,
    files: Iterable[pb.FileChange],
    reason: ChangeReason,
    resource: str,
    reversible: bool = True,
    content_sha256: str = "",
    task_id: str = "",
    parent: str = "",
) -> pb.SwarmEvent:
    """A change of a workspace's files, from one git tree to another."""
    return pb.SwarmEvent(
        task_id=task_id,
        workspace_id=workspace_id,
        parent_event_id=parent,
        state_change=pb.StateChange(
            target_type="FILE_SYSTEM",
            target_resource=resource,
            previous_state_hash=previous_tree,
            new_state_hash=new_tree,
            diff_patch=patch,
            is_reversible=reversible,
            files=list(files),
            reason=reason,
            content_sha256=content_sha256,
        ),
    )


def variable_change(
    *,
    workspace_id: str,
    name: str,
    previous_hash: str,
    new_hash: str,
    value: str,
    reason: ChangeReason,
    reversible: bool = True,
    task_id: str = "",
    parent: str = "",
) -> pb.SwarmEvent:
    """A change of a variable of a workspace; the value is JSON text, and a hash is empty where it is not set."""
    return pb.SwarmEvent(
        task_id=task_id,
        workspace_id=workspace_id,
        parent_event_id=parent,
        state_change=pb.StateChange(
            target_type="ENV_VAR",
            target_resource=name,
            previous_state_hash=previous_hash,
            new_state_hash=new_hash,
            diff_patch=value,
            is_reversible=reversible,
            reason=reason,
        ),
    )


def model_call(
    *,
    model: str,
    messages: Json,
    parameters: Json,
    completion: str,
    finish_reason: str,
    input_tokens: int = 0,
    output_tokens: int = 0,
    duration_ms: float = 0.0,
    time_to_first_token_ms: float = 0.0,
    probability: float = 0.0,
    error: str = "",
    task_id: str = "",
    workspace_id: str = "",
    parent: str = "",
) -> pb.SwarmEvent:
    """One request to a model with everything that went in and came out."""
    text = canonical_json(messages)
    return pb.SwarmEvent(
        task_id=task_id,
        workspace_id=workspace_id,
        parent_event_id=parent,
        model_call=pb.ModelCall(
            model=model,
            messages=text,
            parameters=canonical_json(parameters),
            completion=completion,
            finish_reason=finish_reason,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            duration_ms=duration_ms,
            time_to_first_token_ms=time_to_first_token_ms,
            probability=probability,
            error=error,
            context_hash=sha256_hex(text),
        ),
    )


def tool_call(
    *,
    tool: str,
    arguments: Json,
    outcome: ToolOutcome,
    output: str = "",
    exit_code: int = 0,
    duration_ms: float = 0.0,
    reason: str = "",
    sandboxed: bool = True,
    state_hash: str = "",
    data: Json = None,
    task_id: str = "",
    workspace_id: str = "",
    parent: str = "",
) -> pb.SwarmEvent:
    """One use of a tool: arguments, outcome, output (UTF-8, already cut to its limit), and what code reads of it."""
    return pb.SwarmEvent(
        task_id=task_id,
        workspace_id=workspace_id,
        parent_event_id=parent,
        tool_call=pb.ToolCall(
            tool=tool,
            arguments=canonical_json(arguments),
            outcome=outcome,
            exit_code=exit_code,
            output=output,
            duration_ms=duration_ms,
            reason=reason,
            sandboxed=sandboxed,
            state_hash=state_hash,
            data="" if data is None else canonical_json(data),
        ),
    )


def run_transition(
    *,
    subject: Literal["run", "task"],
    from_state: str,
    to_state: str,
    reason: str,
    details: Json = None,
    heads: Iterable[pb.AgentHead] = (),
    task_id: str = "",
    parent: str = "",
) -> pb.SwarmEvent:
    """A step of the run's or a task's state machine."""
    return pb.SwarmEvent(
        task_id=task_id,
        parent_event_id=parent,
        run_transition=pb.RunTransition(
            subject=subject,
            from_state=from_state,
            to_state=to_state,
            reason=reason,
            details="" if details is None else canonical_json(details),
            heads=list(heads),
        ),
    )


def system_signal(
    *,
    status: Status,
    cpu_load_percent: int = 0,
    memory_usage_mb: int = 0,
    gpu_load_percent: int = 0,
    gpu_memory_usage_mb: int = 0,
    detail: str = "",
    pid: int = 0,
    node: str = "",
) -> pb.SwarmEvent:
    """The health of one actor's process."""
    return pb.SwarmEvent(
        system_signal=pb.SystemSignal(
            status=status,
            cpu_load_percent=cpu_load_percent,
            memory_usage_mb=memory_usage_mb,
            gpu_load_percent=gpu_load_percent,
            gpu_memory_usage_mb=gpu_memory_usage_mb,
            detail=detail,
            pid=pid,
            node=node,
        )
    )
