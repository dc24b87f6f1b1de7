"""The receipt of a run, to be kept elsewhere and held against it later."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from fastapi import APIRouter

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, SwarmEvent
from enchanted.schemas.receipt import ReceiptMaker
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.history import ReceiptDocument
from enchanted.serve.errors import ServeError
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.arrival import arrived
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, RunId, Sequence
from enchanted.serve.sources.store import EventRow

router = APIRouter(prefix="/api/v1", tags=["history"])


@router.get("/runs/{run}/receipt", response_model=None, responses=described(ReceiptDocument))
async def read_receipt(run: RunId, deps: Deps, until: Sequence = MAX_SEQ) -> JsonResponse:
    """What the table holds of a run up to a sequence: each event's hash, each agent's head, one hash over all."""
    await find_run(deps, run)
    await arrived(deps, run, until)
    maker = ReceiptMaker()
    async for row in deps.store.run_events(run, until=until):
        maker.add(_stored(row), sha256_hex(row.raw))
    receipt = maker.receipt(run, made_at=datetime.now(UTC), stream_created=await _stream_created(deps))
    return JsonResponse(await asyncio.to_thread(receipt.document))


def _stored(row: EventRow) -> StoredEvent:
    try:
        return row.stored()
    except NotAnEvent:
        # Damaged beyond reading: it has a hash all the same.
        return replace(_EMPTY, seq=row.seq, raw=row.raw)


_EMPTY = StoredEvent(seq=0, time=datetime(1970, 1, 1, tzinfo=UTC), subject="", raw=b"", event=SwarmEvent())


async def _stream_created(deps: Dependencies) -> str:
    try:
        return (await deps.bus.stream_info()).created.isoformat()
    except ServeError:
        return ""
