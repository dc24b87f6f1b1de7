"""A run's outline: one short line for each event, as columns, so that a page can hold tens of thousands of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from enchanted.serve.documents.answer import described
from enchanted.serve.documents.history import OutlineDocument
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import RunId, Sequence

router = APIRouter(prefix="/api/v1", tags=["history"])
MOST = 50_000
"""Events of one answer."""
_NOTHING = b'{"seq":[]'


@router.get("/runs/{run}/outline", response_model=None, responses=described(OutlineDocument))
async def read_outline(
    run: RunId, deps: Deps, after: Sequence = 0, limit: Annotated[int, Query(ge=1, le=MOST)] = MOST
) -> Response:
    """What the table holds of a run after a sequence, a line an event; fewer than ``limit`` of them are the last.

    ClickHouse writes the columns itself: no Python runs for a row.
    """
    columns = await deps.store.whole("run_outline", "JSONColumns", run=run, after=after, limit=limit)
    if b"".join(columns[:100].split()).startswith(_NOTHING):
        await find_run(deps, run)
    return Response(columns, media_type="application/json", headers={"Cache-Control": "no-store"})
