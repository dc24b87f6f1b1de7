"""``POST /v1/traces``: the receiver of OpenTelemetry spans over HTTP, as OTLP 1.9 describes it.

An answer of success follows the fsync of the stream. What may be repeated is answered with 503 and Retry-After, and a
repeated export is stored once.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.rpc.code_pb2 import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from starlette.requests import Request
from starlette.responses import Response

from enchanted.bus.batch import Outgoing
from enchanted.bus.errors import StreamFull
from enchanted.bus.streams import MAX_MESSAGE
from enchanted.bus.subjects import OTLP_SPANS
from enchanted.ingest.errors import NotAnExport
from enchanted.ingest.otlp import pieces, read_json, read_protobuf, spans_of, without_faulty
from enchanted.schemas.canonical import sha256_hex
from enchanted.serve.errors import BusUnavailable, UnsupportedMedia
from enchanted.serve.sources.dependencies import Dependencies, Deps

router = APIRouter(tags=["traces"])

PATH = "/v1/traces"
MAX_EXPORT = 8 << 20
"""Bytes of an export, compressed and not: an exporter gives up on what is refused, it never sends less."""
MAX_PIECE = MAX_MESSAGE - 1024
"""Bytes of one message; the rest is for its headers."""
PUBLISH_SECONDS = 4.0
"""Exporters give up after ten by default, and repeat what was not acknowledged."""
FULL_SECONDS = 30
"""Until a stream that is full may take more."""
LONGEST_REASON = 300

Encoding = Literal["application/x-protobuf", "application/json"]
_ENCODINGS: tuple[Encoding, ...] = ("application/x-protobuf", "application/json")
_ANY_ENCODING: dict[str, Any] = {name: {"schema": {}} for name in _ENCODINGS}
_GZIP = zlib.MAX_WBITS | 16
_BITE = 4_096
"""Bytes inflated at a time. Each member that ends in them copies the rest of them, and members may have 20 bytes."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An export as the stream takes it."""

    payloads: list[bytes]
    rejected: int
    reason: str
    """Why spans were rejected."""


@router.post(
    PATH,
    response_model=None,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": _ANY_ENCODING,
            "description": "ExportTraceServiceRequest of OTLP; gzip is understood",
        }
    },
    responses={
        200: {"description": "ExportTraceServiceResponse: stored, or partly rejected", "content": _ANY_ENCODING},
        400: {"description": "google.rpc.Status: no export, do not repeat it", "content": _ANY_ENCODING},
        503: {"description": "google.rpc.Status: repeat it after Retry-After seconds", "content": _ANY_ENCODING},
    },
)
async def export_traces(request: Request, deps: Deps) -> Response:
    """Take spans; they are in ClickHouse and in traces about a second later."""
    encoding = _encoding_of(request)
    compressed = _is_compressed(request)
    body = await request.body()
    try:
        prepared = await asyncio.to_thread(_prepare, body, encoding, compressed)
    except NotAnExport as error:
        return _status(encoding, HTTPStatus.BAD_REQUEST, INVALID_ARGUMENT, str(error))
    try:
        await _publish(deps, prepared.payloads)
    except BusUnavailable as error:
        full = isinstance(error.__cause__, StreamFull)
        code, seconds = (RESOURCE_EXHAUSTED, FULL_SECONDS) if full else (UNAVAILABLE, BusUnavailable.retry_after)
        return _status(encoding, HTTPStatus.SERVICE_UNAVAILABLE, code, str(error), retry_after=seconds)
    answer = ExportTraceServiceResponse()
    if prepared.rejected:
        partial = ExportTracePartialSuccess(rejected_spans=prepared.rejected, error_message=prepared.reason)
        answer.partial_success.CopyFrom(partial)
    return _encoded(encoding, HTTPStatus.OK, answer)


def _encoding_of(request: Request) -> Encoding:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    for encoding in _ENCODINGS:
        if given == encoding:
            return encoding
    raise UnsupportedMedia(f"the content type {given!r} is not understood; send {' or '.join(_ENCODINGS)}")


def _is_compressed(request: Request) -> bool:
    given = request.headers.get("content-encoding", "identity").strip().lower()
    if given not in ("identity", "gzip"):
        raise UnsupportedMedia(f"the content encoding {given!r} is not understood; send gzip or none")
    return given == "gzip"


def _prepare(body: bytes, encoding: Encoding, compressed: bool) -> _Prepared:
    raw = _inflated(body) if compressed else body
    export = read_json(raw) if encoding == "application/json" else read_protobuf(raw)
    faults = without_faulty(export)
    payloads, too_large = pieces(export, MAX_PIECE) if any(spans_of(export)) else ([], 0)
    if too_large:
        faults += [f"a span must be smaller than {MAX_PIECE} bytes"] * too_large
    return _Prepared(payloads, len(faults), "; ".join(dict.fromkeys(faults))[:LONGEST_REASON])


def _inflated(body: bytes) -> bytes:
    """All members of a gzip, one after the other."""
    raw, inflating, place = bytearray(), zlib.decompressobj(_GZIP), 0
    while place < len(body):
        if inflating.eof:
            inflating = zlib.decompressobj(_GZIP)
        piece = body[place : place + _BITE]
        try:
            raw += inflating.decompress(piece, MAX_EXPORT + 1 - len(raw))
        except zlib.error as error:
            raise NotAnExport(f"the body is no gzip: {error}") from error
        if len(raw) > MAX_EXPORT:
            raise NotAnExport(f"it has more than {MAX_EXPORT} bytes")
        place += len(piece) - len(inflating.unused_data)
    if not inflating.eof:
        raise NotAnExport("the gzip ends too early")
    return bytes(raw)


async def _publish(deps: Dependencies, payloads: list[bytes]) -> None:
    # The id is made from the bytes, so that the stream knows an export that is repeated.
    messages = [
        Outgoing(subject=OTLP_SPANS, payload=payload, event_id=f"spans-{sha256_hex(payload)}") for payload in payloads
    ]
    if messages:
        async with deps.bus.use() as bus:
            await bus.publisher.publish_many(messages, retry_for=PUBLISH_SECONDS)


def _status(encoding: Encoding, status: HTTPStatus, code: int, why: str, retry_after: int | None = None) -> Response:
    answer = _encoded(encoding, status, Status(code=code, message=why))
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def _encoded(encoding: Encoding, status: HTTPStatus, answer: Message) -> Response:
    content: Any = MessageToJson(answer, indent=None) if encoding == "application/json" else answer.SerializeToString()
    return Response(content, status_code=status, media_type=encoding)
