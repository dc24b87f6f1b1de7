"""W3C trace context in message headers."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()


def current_headers() -> dict[str, str]:
    """``traceparent`` and ``tracestate`` of the active span; empty when none is active."""
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers)
    return headers


def context_of(headers: Mapping[str, str]) -> Context:
    """The context a message was published in, for a consumer to link to."""
    return _PROPAGATOR.extract(headers)


def current_ids() -> tuple[str, str] | None:
    """Trace id (32 hex digits) and span id (16) of the active span; None when none is active."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
