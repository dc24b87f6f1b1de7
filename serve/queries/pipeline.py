"""How far events and spans are: in the stream, taken by ingest, in the table, among the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import APIRouter

from enchanted.bus.connection import Bus
from enchanted.bus.reader import ConsumerState, RawMessage, consumer_state, message_at
from enchanted.bus.streams import DEAD_LETTERS_STREAM, EVENTS_STREAM, SPANS_STREAM, StreamInfo, parse_info
from enchanted.ingest.spans import DURABLE as SPANS_DURABLE
from enchanted.ingest.worker import DURABLE
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.pipeline import PipelineDocument
from enchanted.serve.sources.dependencies import Deps

router = APIRouter(prefix="/api/v1", tags=["pipeline"])

ACTORS_DEADLINE = 2.0
"""Seconds the ingest actors may take to say what they did and what the last reconciliation found."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Flow:
    """One stream and its consumer."""

    stream: StreamInfo
    max_bytes: int
    consumer: ConsumerState | None
    oldest: RawMessage | None
    """The first message that is not acknowledged."""


@router.get("/pipeline", response_model=None, responses=described(PipelineDocument))
async def pipeline(deps: Deps) -> JsonResponse:
    """Where events and spans are between stream and table, what each worker did and the last reconciliation found."""
    async with deps.bus.use() as bus:
        events = await _flow(bus, EVENTS_STREAM, DURABLE)
        spans = await _flow(bus, SPANS_STREAM, SPANS_DURABLE)
        dead_letters = parse_info(await bus.link.api(f"STREAM.INFO.{DEAD_LETTERS_STREAM}")).messages
    (table,) = await deps.store.rows("pipeline", created=events.stream.created)
    workers, reconciliation = await asyncio.gather(_in_time(deps.ingest_workers), _in_time(deps.reconciliation))
    return JsonResponse(
        {
            "stream": _stream(events),
            "ingest": _progress(events),
            "table": {
                "rows": table["rows"],
                "highest_seq": table["highest_seq"],
                "duplicates": table["duplicates"],
            },
            "spans": {"stream": _stream(spans), "ingest": _progress(spans), "rows": table["spans"]},
            "dead_letters": dead_letters,
            "workers": workers,
            "reconciliation": reconciliation,
        }
    )


async def _flow(bus: Bus, stream: str, durable: str) -> _Flow:
    # The consumer first: what it has not acknowledged by then is in the stream that is looked at after it.
    consumer = await consumer_state(bus.link, stream, durable)
    answer = await bus.link.api(f"STREAM.INFO.{stream}")
    following = {"seq": (consumer.acknowledged if consumer else 0) + 1, "next_by_subj": ">"}
    return _Flow(
        stream=parse_info(answer),
        max_bytes=answer["config"]["max_bytes"],
        consumer=consumer,
        oldest=await message_at(bus.link, stream, following),
    )


def _stream(flow: _Flow) -> dict[str, Any]:
    stream = flow.stream
    return {
        "created": stream.created.isoformat(),
        "first_seq": stream.first_seq,
        "last_seq": stream.last_seq,
        "messages": stream.messages,
        "bytes": stream.bytes,
        "max_bytes": flow.max_bytes,
    }


def _progress(flow: _Flow) -> dict[str, Any]:
    consumer = flow.consumer
    return {
        "connected": consumer is not None,
        "acknowledged_seq": consumer.acknowledged if consumer else 0,
        "pending": consumer.pending if consumer else flow.stream.messages,
        "ack_pending": consumer.ack_pending if consumer else 0,
        "lag_seconds": _age(flow.oldest, datetime.now(UTC)),
    }


def _age(oldest: RawMessage | None, now: datetime) -> float:
    return 0.0 if oldest is None else round(max(0.0, (now - oldest.time).total_seconds()), 3)


async def _in_time(asked: Callable[[], Awaitable[T]] | None) -> T | None:
    if asked is None:
        return None
    try:
        async with asyncio.timeout(ACTORS_DEADLINE):
            return await asked()
    except TimeoutError:
        return None
