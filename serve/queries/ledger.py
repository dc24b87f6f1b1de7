"""`GET /decisions/reverted`: decisions that led to a change which was taken back later, and how sure they were."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.query import RevertedDecisions
from enchanted.serve.queries.agents import finite
from enchanted.serve.queries.events import rfc3339
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import Identifier
from enchanted.serve.sources.store import Store

router = APIRouter(prefix="/api/v1", tags=["query"])

UNSURE = 0.5
_AS_IT_IS = ("run", "seq", "event_id", "role", "agent_id", "agent_name", "task_id", "rationale", "hops", "reverted")
_CHANGE = ("seq", "event_id", "reverted_at", "reverted_by")


class LedgerQuery(BaseModel):
    """Which decisions to look at."""

    model_config = ConfigDict(extra="forbid")

    run: Identifier = ""
    """Only this run; by default all of them."""
    below: Annotated[float, Query(ge=0, le=2, allow_inf_nan=False)] = UNSURE
    """Only decisions with less confidence; confidence is from 0 to 1, so 2 shows every decision."""
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100
    """Decisions; `meta.truncated` says that there are more."""


async def read_ledger(store: Store, query: LedgerQuery) -> dict[str, Any]:
    """The decisions in stream order, each with the changes that were taken back."""
    rows = await store.rows("reverted_decisions", run=query.run, below=query.below, limit=query.limit + 1)
    return {
        "data": [_document(row) for row in rows[: query.limit]],
        "meta": {"below": query.below, "truncated": len(rows) > query.limit},
    }


def _document(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _AS_IT_IS},
        "stream_time": rfc3339(row["stream_time"].replace(tzinfo=UTC)),
        "confidence": finite(row["confidence"]),
        "changes": [dict(zip(_CHANGE, change, strict=True)) for change in row["changes"]],
    }


@router.get("/decisions/reverted", response_model=None, responses=described(RevertedDecisions))
async def reverted_decisions(query: Annotated[LedgerQuery, Query()], deps: Deps) -> JsonResponse:
    """Unsure decisions that led to a change which an undo or a rollback took back.

    A decision led to a change if `parent_event_id` leads from the change to it.
    """
    return JsonResponse(await read_ledger(deps.store, query))
