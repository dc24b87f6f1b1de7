"""Trace exports of OTLP: read from protobuf or JSON, checked, cut into messages the stream takes. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import orjson
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from enchanted.ingest.errors import NotAnExport

TraceExport = ExportTraceServiceRequest

LATEST_NANOSECONDS = 2**63 - 1
"""The last moment DateTime64(9) can hold, in the year 2262."""
_TRACE_ID_BYTES = 16
_SPAN_ID_BYTES = 8
_FRAMING = 16
"""Bytes, more than the tag and length of a part within its whole."""


def read_protobuf(raw: bytes) -> TraceExport:
    """An export from its bytes.

    Raises:
        NotAnExport: protobuf rejects them.
    """
    try:
        return TraceExport.FromString(raw)
    except DecodeError as error:
        raise NotAnExport(str(error)) from error


def read_json(raw: bytes) -> TraceExport:
    """An export from OTLP's JSON: as protobuf's, with ids in hexadecimal; fields it does not know are ignored.

    Raises:
        NotAnExport: it is no JSON, or another document.
    """
    try:
        document = orjson.loads(raw)
        if not isinstance(document, dict):
            raise NotAnExport("the document is no JSON object")
        for span in _json_spans(document):
            _ids_as_base64(span, "traceId", "trace_id", "spanId", "span_id", "parentSpanId", "parent_span_id")
            for link in _members(span, "links"):
                _ids_as_base64(link, "traceId", "trace_id", "spanId", "span_id")
        return ParseDict(document, TraceExport(), ignore_unknown_fields=True)
    except (ParseError, ValueError, TypeError, RecursionError) as error:
        raise NotAnExport(str(error)) from error


def _json_spans(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in _members(document, "resourceSpans", "resource_spans"):
        for scope in _members(resource, "scopeSpans", "scope_spans"):
            yield from _members(scope, "spans")


def _members(document: dict[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        found = document.get(name)
        if isinstance(found, list):
            yield from (one for one in found if isinstance(one, dict))


def _ids_as_base64(document: dict[str, Any], *names: str) -> None:
    for name in names:
        value = document.get(name)
        if value is None:
            continue
        try:
            document[name] = base64.b64encode(bytes.fromhex(value)).decode()
        except (ValueError, TypeError) as error:
            raise NotAnExport(f"{name} {value!r} is not hexadecimal") from error


def spans_of(export: TraceExport) -> Iterator[tuple[ResourceSpans, ScopeSpans, Span]]:
    """Every span with what it belongs to, in order."""
    for resource in export.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield resource, scope, span


def fault_of(span: Span) -> str:
    """Why a span cannot be stored; empty when it can."""
    if len(span.trace_id) != _TRACE_ID_BYTES or not any(span.trace_id):
        return f"the trace id must be {_TRACE_ID_BYTES} bytes that are not all zero"
    if len(span.span_id) != _SPAN_ID_BYTES or not any(span.span_id):
        return f"the span id must be {_SPAN_ID_BYTES} bytes that are not all zero"
    if len(span.parent_span_id) not in (0, _SPAN_ID_BYTES):
        return f"the parent's span id must be {_SPAN_ID_BYTES} bytes, or none"
    if max(span.start_time_unix_nano, span.end_time_unix_nano) > LATEST_NANOSECONDS:
        return "the times must be before the year 2262"
    return ""


def without_faulty(export: TraceExport) -> list[str]:
    """Remove the spans that cannot be stored; returns why, one text for each."""
    faults: list[str] = []
    for resource in export.resource_spans:
        for scope in resource.scope_spans:
            found = [fault_of(span) for span in scope.spans]
            if any(found):
                sound = [span for span, fault in zip(scope.spans, found, strict=True) if not fault]
                kept = [Span.FromString(span.SerializeToString()) for span in sound]
                del scope.spans[:]
                scope.spans.extend(kept)
                faults += filter(None, found)
    return faults


def pieces(export: TraceExport, most: int) -> tuple[list[bytes], int]:
    """The export as messages of at most ``most`` bytes, and how many spans are too large for any.

    The same export is always cut in the same way, so that one that is sent again has the same pieces.
    """
    if export.ByteSize() <= most:
        return [export.SerializeToString(deterministic=True)], 0
    cutter = _Cutter(most)
    for resource in export.resource_spans:
        for scope in resource.scope_spans:
            cutter.enter(resource, scope)
            for span in scope.spans:
                cutter.add(span)
    return cutter.finished(), cutter.too_large


class _Cutter:
    """Fills one message after the other; each names resource and scope of its spans again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._done: list[bytes] = []
        self._piece = TraceExport()
        self._size = 0
        self._resource = ResourceSpans()
        self._scope = ScopeSpans()
        self._heading = 0
        self._open: ScopeSpans | None = None
        self.too_large = 0

    def enter(self, resource: ResourceSpans, scope: ScopeSpans) -> None:
        self._resource = ResourceSpans(resource=resource.resource, schema_url=resource.schema_url)
        self._scope = ScopeSpans(scope=scope.scope, schema_url=scope.schema_url)
        self._heading = self._resource.ByteSize() + self._scope.ByteSize() + 2 * _FRAMING
        self._open = None

    def add(self, span: Span) -> None:
        size = span.ByteSize() + _FRAMING
        if self._heading + size > self._most:
            self.too_large += 1
            return
        if self._size + size + (self._heading if self._open is None else 0) > self._most:
            self._close()
        if self._open is None:
            self._piece.resource_spans.append(self._resource)
            self._piece.resource_spans[-1].scope_spans.append(self._scope)
            self._open = self._piece.resource_spans[-1].scope_spans[-1]
            self._size += self._heading
        self._open.spans.append(span)
        self._size += size

    def finished(self) -> list[bytes]:
        self._close()
        return self._done

    def _close(self) -> None:
        if self._size:
            self._done.append(self._piece.SerializeToString(deterministic=True))
        self._piece = TraceExport()
        self._size = 0
        self._open = None
