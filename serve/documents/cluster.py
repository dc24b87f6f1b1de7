"""What `GET /cluster` answers, as OpenAPI shows it."""

from __future__ import annotations

from pydantic import BaseModel


class NodeDocument(BaseModel):
    """A machine of the Ray cluster."""

    node_id: str
    host: str
    address: str
    alive: bool
    resources: dict[str, float]
    """What Ray may give away there: CPU, GPU, memory in bytes, labels of ours."""


class EngineDocument(BaseModel):
    """An engine; counts are since it started."""

    key: str
    model: str
    dedicated_to: str
    pid: int
    ready: bool
    uptime_s: float
    running: int
    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    """Of the input tokens, those the prefix cache already held."""
    output_tokens: int


class ActorDocument(BaseModel):
    """Somebody who said lately how it is."""

    agent_id: str
    name: str
    role: str
    run_id: str
    """Empty for those that belong to no run."""
    seen_at: str
    status: str
    cpu_load_percent: int | None
    """Of one core."""
    memory_usage_mb: int | None
    gpu_load_percent: int | None
    gpu_memory_usage_mb: int | None
    pid: int | None
    node: str | None
    detail: str | None


class ModelDocument(BaseModel):
    """What was asked of a model in the last minute."""

    model: str
    calls: int
    failed: int
    input_tokens: int
    output_tokens: int
    output_tokens_per_s: float


class ClusterDocument(BaseModel):
    """What runs where."""

    time: str
    dashboard_url: str
    """Ray's dashboard; empty where it has none."""
    nodes: list[NodeDocument] | None
    """Absent while Ray does not say."""
    engines: list[EngineDocument] | None
    actors: list[ActorDocument]
    models: list[ModelDocument]
