"""OpenTelemetry spans after the GenAI semantic conventions (snapshot of 2026-11, status Development).

The names live here, not in a package, since the conventions moved repositories and still change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

OPERATION = "gen_ai.operation.name"
AGENT_ID = "gen_ai.agent.id"
AGENT_NAME = "gen_ai.agent.name"
CONVERSATION_ID = "gen_ai.conversation.id"
WORKFLOW_NAME = "gen_ai.workflow.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_SEED = "gen_ai.request.seed"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
ERROR_TYPE = "error.type"

FLUSH_MILLISECONDS = 3_000

_tracer = trace.get_tracer("enchanted.actors")


def carrier() -> dict[str, str]:
    """The active span as W3C headers, to travel in a call."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@contextmanager
def continued(headers: Mapping[str, str]) -> Iterator[None]:
    """Make the caller's span the parent of what happens inside."""
    token = context.attach(propagate.extract(dict(headers)))
    try:
        yield
    finally:
        context.detach(token)


def flush() -> None:
    """Export what is waiting, for at most three seconds: an actor that Ray kills runs no exit handlers."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(FLUSH_MILLISECONDS)


@contextmanager
def _span(name: str, kind: SpanKind, attributes: dict[str, str | int | float]) -> Iterator[Span]:
    with _tracer.start_as_current_span(name, kind=kind, attributes=attributes) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise


@contextmanager
def actor_span(name: str) -> Iterator[Span]:
    """The life of an actor that belongs to no run."""
    with _span(f"actor {name}", SpanKind.INTERNAL, {AGENT_NAME: name}) as span:
        yield span


@contextmanager
def workflow_span(run_id: str) -> Iterator[Span]:
    """One swarm run."""
    attributes: dict[str, str | int | float] = {
        OPERATION: "invoke_workflow",
        WORKFLOW_NAME: "swarm_run",
        CONVERSATION_ID: run_id,
    }
    with _span("invoke_workflow swarm_run", SpanKind.INTERNAL, attributes) as span:
        yield span


@contextmanager
def agent_span(*, agent_id: str, agent_name: str, run_id: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """One turn of a role, continuing the caller's trace."""
    attributes: dict[str, str | int | float] = {
        OPERATION: "invoke_agent",
        AGENT_ID: agent_id,
        AGENT_NAME: agent_name,
        CONVERSATION_ID: run_id,
    }
    with continued(headers), _span(f"invoke_agent {agent_name}", SpanKind.INTERNAL, attributes) as span:
        yield span


@contextmanager
def chat_span(*, model: str, max_tokens: int, temperature: float, seed: int) -> Iterator[Span]:
    """One request to a model."""
    attributes: dict[str, str | int | float] = {
        OPERATION: "chat",
        PROVIDER: "vllm",
        REQUEST_MODEL: model,
        REQUEST_MAX_TOKENS: max_tokens,
        REQUEST_TEMPERATURE: temperature,
        REQUEST_SEED: seed,
    }
    with _span(f"chat {model}", SpanKind.CLIENT, attributes) as span:
        yield span


@contextmanager
def tool_span(tool: str) -> Iterator[Span]:
    """One use of a tool."""
    attributes: dict[str, str | int | float] = {OPERATION: "execute_tool", TOOL_NAME: tool, TOOL_TYPE: "function"}
    with _span(f"execute_tool {tool}", SpanKind.INTERNAL, attributes) as span:
        yield span
