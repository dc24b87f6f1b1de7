"""How far the events are: in the stream, taken by ingest, in the table, among the dead letters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from enchanted.bus.connection import Bus
from enchanted.bus.reader import ConsumerState, RawMessage, consumer_state, message_at
from enchanted.bus.streams import DEAD_LETTERS_STREAM, EVENTS_STREAM, StreamInfo, parse_info
from enchanted.ingest.worker import DURABLE
from enchanted.serve.dependencies import Dependencies, Deps
from enchanted.serve.documents import PipelineDocument, described
from enchanted.serve.events import JsonResponse

router = APIRouter(prefix="/api/v1", tags=["pipeline"])

RECONCILIATION_DEADLINE = 2.0
"""Seconds the ingest actor may take to say what its last reconciliation found."""


@dataclass(frozen=True, slots=True)
class _OnTheBus:
    stream: StreamInfo
    max_bytes: int
    consumer: ConsumerState | None
    oldest: RawMessage | None
    """The first message that is not acknowledged."""
    dead_letters: int


@router.get("/pipeline", response_model=None, responses=described(PipelineDocument))
async def pipeline(deps: Deps) -> JsonResponse:
    """Where events are between the stream and the table, and what the last reconciliation found."""
    async with deps.bus.use() as bus:
        found = await _on_the_bus(bus)
    (table,) = await deps.store.rows("pipeline", created=found.stream.created)
    stream, consumer = found.stream, found.consumer
    return JsonResponse(
        {
            "stream": {
                "created": stream.created.isoformat(),
                "first_seq": stream.first_seq,
                "last_seq": stream.last_seq,
                "messages": stream.messages,
                "bytes": stream.bytes,
                "max_bytes": found.max_bytes,
            },
            "ingest": {
                "connected": consumer is not None,
                "acknowledged_seq": consumer.acknowledged if consumer else 0,
                "pending": consumer.pending if consumer else stream.messages,
                "ack_pending": consumer.ack_pending if consumer else 0,
                "lag_seconds": _age(found.oldest, datetime.now(UTC)),
            },
            "table": {
                "rows": table["rows"],
                "highest_seq": table["highest_seq"],
                "duplicates": table["duplicates"],
            },
            "dead_letters": found.dead_letters,
            "reconciliation": await _reconciliation(deps),
        }
    )


async def _on_the_bus(bus: Bus) -> _OnTheBus:
    # The consumer first: what it has not acknowledged by then is in the stream that is looked at after it.
    consumer = await consumer_state(bus.link, EVENTS_STREAM, DURABLE)
    answer = await bus.link.api(f"STREAM.INFO.{EVENTS_STREAM}")
    following = {"seq": (consumer.acknowledged if consumer else 0) + 1, "next_by_subj": ">"}
    return _OnTheBus(
        stream=parse_info(answer),
        max_bytes=answer["config"]["max_bytes"],
        consumer=consumer,
        oldest=await message_at(bus.link, EVENTS_STREAM, following),
        dead_letters=parse_info(await bus.link.api(f"STREAM.INFO.{DEAD_LETTERS_STREAM}")).messages,
    )


def _age(oldest: RawMessage | None, now: datetime) -> float:
    return 0.0 if oldest is None else round(max(0.0, (now - oldest.time).total_seconds()), 3)


async def _reconciliation(deps: Dependencies) -> dict[str, Any] | None:
    if deps.reconciliation is None:
        return None
    try:
        async with asyncio.timeout(RECONCILIATION_DEADLINE):
            return await deps.reconciliation()
    except TimeoutError:
        return None
