import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[AgentRole]
    ROLE_ARCHITECT: _ClassVar[AgentRole]
    ROLE_CODER: _ClassVar[AgentRole]
    ROLE_REVIEWER: _ClassVar[AgentRole]
    ROLE_OPERATOR: _ClassVar[AgentRole]

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TYPE_UNSPECIFIED: _ClassVar[EventType]
    TYPE_DECISION: _ClassVar[EventType]
    TYPE_STATE_CHANGE: _ClassVar[EventType]
    TYPE_SYSTEM: _ClassVar[EventType]
    TYPE_MODEL_CALL: _ClassVar[EventType]
    TYPE_TOOL_CALL: _ClassVar[EventType]
    TYPE_RUN_TRANSITION: _ClassVar[EventType]
ROLE_UNSPECIFIED: AgentRole
ROLE_ARCHITECT: AgentRole
ROLE_CODER: AgentRole
ROLE_REVIEWER: AgentRole
ROLE_OPERATOR: AgentRole
TYPE_UNSPECIFIED: EventType
TYPE_DECISION: EventType
TYPE_STATE_CHANGE: EventType
TYPE_SYSTEM: EventType
TYPE_MODEL_CALL: EventType
TYPE_TOOL_CALL: EventType
TYPE_RUN_TRANSITION: EventType

class SwarmEvent(_message.Message):
    __slots__ = ("event_id", "timestamp", "trace_id", "span_id", "agent_role", "agent_id", "run_id", "agent_seq", "previous_event_hash", "decision", "state_change", "system_signal", "model_call", "tool_call", "run_transition", "task_id", "workspace_id", "parent_event_id", "predecessor_agent_id", "agent_name", "blobs")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ROLE_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_EVENT_HASH_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGE_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    MODEL_CALL_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    RUN_TRANSITION_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    PREDECESSOR_AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    timestamp: _timestamp_pb2.Timestamp
    trace_id: str
    span_id: str
    agent_role: AgentRole
    agent_id: str
    run_id: str
    agent_seq: int
    previous_event_hash: str
    decision: AgentDecision
    state_change: StateChange
    system_signal: SystemSignal
    model_call: ModelCall
    tool_call: ToolCall
    run_transition: RunTransition
    task_id: str
    workspace_id: str
    parent_event_id: str
    predecessor_agent_id: str
    agent_name: str
    blobs: _containers.RepeatedCompositeFieldContainer[FieldBlob]
    def __init__(self, event_id: _Optional[str] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trace_id: _Optional[str] = ..., span_id: _Optional[str] = ..., agent_role: _Optional[_Union[AgentRole, str]] = ..., agent_id: _Optional[str] = ..., run_id: _Optional[str] = ..., agent_seq: _Optional[int] = ..., previous_event_hash: _Optional[str] = ..., decision: _Optional[_Union[AgentDecision, _Mapping]] = ..., state_change: _Optional[_Union[StateChange, _Mapping]] = ..., system_signal: _Optional[_Union[SystemSignal, _Mapping]] = ..., model_call: _Optional[_Union[ModelCall, _Mapping]] = ..., tool_call: _Optional[_Union[ToolCall, _Mapping]] = ..., run_transition: _Optional[_Union[RunTransition, _Mapping]] = ..., task_id: _Optional[str] = ..., workspace_id: _Optional[str] = ..., parent_event_id: _Optional[str] = ..., predecessor_agent_id: _Optional[str] = ..., agent_name: _Optional[str] = ..., blobs: _Optional[_Iterable[_Union[FieldBlob, _Mapping]]] = ...) -> None: ...

class FieldBlob(_message.Message):
    __slots__ = ("field", "sha256", "size")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    field: str
    sha256: str
    size: int
    def __init__(self, field: _Optional[str] = ..., sha256: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class AgentDecision(_message.Message):
    __slots__ = ("context_hash", "input_trigger", "rationale", "rejected_alternatives", "memory_ids", "confidence_score", "action")
    CONTEXT_HASH_FIELD_NUMBER: _ClassVar[int]
    INPUT_TRIGGER_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    REJECTED_ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_IDS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_SCORE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    context_hash: str
    input_trigger: str
    rationale: str
    rejected_alternatives: _containers.RepeatedScalarFieldContainer[str]
    memory_ids: _containers.RepeatedScalarFieldContainer[str]
    confidence_score: float
    action: str
    def __init__(self, context_hash: _Optional[str] = ..., input_trigger: _Optional[str] = ..., rationale: _Optional[str] = ..., rejected_alternatives: _Optional[_Iterable[str]] = ..., memory_ids: _Optional[_Iterable[str]] = ..., confidence_score: _Optional[float] = ..., action: _Optional[str] = ...) -> None: ...

class StateChange(_message.Message):
    __slots__ = ("target_type", "target_resource", "previous_state_hash", "new_state_hash", "diff_patch", "is_reversible", "files", "reason", "content_sha256")
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_RESOURCE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    NEW_STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    DIFF_PATCH_FIELD_NUMBER: _ClassVar[int]
    IS_REVERSIBLE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    target_type: str
    target_resource: str
    previous_state_hash: str
    new_state_hash: str
    diff_patch: str
    is_reversible: bool
    files: _containers.RepeatedCompositeFieldContainer[FileChange]
    reason: str
    content_sha256: str
    def __init__(self, target_type: _Optional[str] = ..., target_resource: _Optional[str] = ..., previous_state_hash: _Optional[str] = ..., new_state_hash: _Optional[str] = ..., diff_patch: _Optional[str] = ..., is_reversible: _Optional[bool] = ..., files: _Optional[_Iterable[_Union[FileChange, _Mapping]]] = ..., reason: _Optional[str] = ..., content_sha256: _Optional[str] = ...) -> None: ...

class FileChange(_message.Message):
    __slots__ = ("path", "old_mode", "new_mode", "old_blob", "new_blob", "size", "path_hex")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OLD_MODE_FIELD_NUMBER: _ClassVar[int]
    NEW_MODE_FIELD_NUMBER: _ClassVar[int]
    OLD_BLOB_FIELD_NUMBER: _ClassVar[int]
    NEW_BLOB_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PATH_HEX_FIELD_NUMBER: _ClassVar[int]
    path: str
    old_mode: str
    new_mode: str
    old_blob: str
    new_blob: str
    size: int
    path_hex: str
    def __init__(self, path: _Optional[str] = ..., old_mode: _Optional[str] = ..., new_mode: _Optional[str] = ..., old_blob: _Optional[str] = ..., new_blob: _Optional[str] = ..., size: _Optional[int] = ..., path_hex: _Optional[str] = ...) -> None: ...

class SystemSignal(_message.Message):
    __slots__ = ("status", "cpu_load_percent", "memory_usage_mb", "gpu_load_percent", "gpu_memory_usage_mb", "detail", "pid", "node")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CPU_LOAD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USAGE_MB_FIELD_NUMBER: _ClassVar[int]
    GPU_LOAD_PERCENT_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_USAGE_MB_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    status: str
    cpu_load_percent: int
    memory_usage_mb: int
    gpu_load_percent: int
    gpu_memory_usage_mb: int
    detail: str
    pid: int
    node: str
    def __init__(self, status: _Optional[str] = ..., cpu_load_percent: _Optional[int] = ..., memory_usage_mb: _Optional[int] = ..., gpu_load_percent: _Optional[int] = ..., gpu_memory_usage_mb: _Optional[int] = ..., detail: _Optional[str] = ..., pid: _Optional[int] = ..., node: _Optional[str] = ...) -> None: ...

class ModelCall(_message.Message):
    __slots__ = ("model", "messages", "parameters", "completion", "finish_reason", "input_tokens", "output_tokens", "duration_ms", "time_to_first_token_ms", "error", "context_hash", "probability")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_HASH_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: str
    parameters: str
    completion: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    duration_ms: float
    time_to_first_token_ms: float
    error: str
    context_hash: str
    probability: float
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[str] = ..., parameters: _Optional[str] = ..., completion: _Optional[str] = ..., finish_reason: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., duration_ms: _Optional[float] = ..., time_to_first_token_ms: _Optional[float] = ..., error: _Optional[str] = ..., context_hash: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class ToolCall(_message.Message):
    __slots__ = ("tool", "arguments", "outcome", "exit_code", "output", "duration_ms", "reason", "sandboxed", "state_hash", "data")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SANDBOXED_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    tool: str
    arguments: str
    outcome: str
    exit_code: int
    output: str
    duration_ms: float
    reason: str
    sandboxed: bool
    state_hash: str
    data: str
    def __init__(self, tool: _Optional[str] = ..., arguments: _Optional[str] = ..., outcome: _Optional[str] = ..., exit_code: _Optional[int] = ..., output: _Optional[str] = ..., duration_ms: _Optional[float] = ..., reason: _Optional[str] = ..., sandboxed: _Optional[bool] = ..., state_hash: _Optional[str] = ..., data: _Optional[str] = ...) -> None: ...

class RunTransition(_message.Message):
    __slots__ = ("subject", "from_state", "to_state", "reason", "details", "heads")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    subject: str
    from_state: str
    to_state: str
    reason: str
    details: str
    heads: _containers.RepeatedCompositeFieldContainer[AgentHead]
    def __init__(self, subject: _Optional[str] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., reason: _Optional[str] = ..., details: _Optional[str] = ..., heads: _Optional[_Iterable[_Union[AgentHead, _Mapping]]] = ...) -> None: ...

class AgentHead(_message.Message):
    __slots__ = ("agent_id", "agent_seq", "event_hash")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    EVENT_HASH_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    agent_seq: int
    event_hash: str
    def __init__(self, agent_id: _Optional[str] = ..., agent_seq: _Optional[int] = ..., event_hash: _Optional[str] = ...) -> None: ...
