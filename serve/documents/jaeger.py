"""The answers of Jaeger's query service, by the names of its `model/json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class JaegerKeyValue(BaseModel):
    """A tag, or a field of a log."""

    key: str
    type: Literal["string", "bool", "int64", "float64", "binary"]
    value: Any


class JaegerReference(BaseModel):
    """Another span that this one comes from."""

    refType: Literal["CHILD_OF", "FOLLOWS_FROM"]
    traceID: str
    spanID: str


class JaegerLog(BaseModel):
    """An event of a span."""

    timestamp: int
    """Microseconds since 1970, like all times here."""
    fields: list[JaegerKeyValue]


class JaegerSpan(BaseModel):
    """One span."""

    traceID: str
    spanID: str
    operationName: str
    references: list[JaegerReference]
    startTime: int
    duration: int
    """Microseconds."""
    tags: list[JaegerKeyValue]
    logs: list[JaegerLog]
    processID: str
    warnings: list[str] | None


class JaegerProcess(BaseModel):
    """What a span ran in."""

    serviceName: str
    tags: list[JaegerKeyValue]


class JaegerTrace(BaseModel):
    """One trace."""

    traceID: str
    spans: list[JaegerSpan]
    processes: dict[str, JaegerProcess]
    warnings: list[str] | None
    """Says so where spans are left out."""


class JaegerOperation(BaseModel):
    """A span name of a service."""

    name: str
    spanKind: str
    """server, client, producer, consumer, internal; empty where nobody said."""


class JaegerDependency(BaseModel):
    """How often spans of one service were children of another's."""

    parent: str
    child: str
    callCount: int


class _Answer(BaseModel):
    total: int
    limit: int
    offset: int
    errors: Any = None


class JaegerTraces(_Answer):
    """Traces, the newest first."""

    data: list[JaegerTrace]


class JaegerNames(_Answer):
    """Names of services, or of a service's spans."""

    data: list[str]


class JaegerOperations(_Answer):
    """Span names of a service with their kinds."""

    data: list[JaegerOperation]


class JaegerDependencies(_Answer):
    """Who calls whom."""

    data: list[JaegerDependency]
