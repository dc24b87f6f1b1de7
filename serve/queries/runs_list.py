"""The list of runs: pages of it, searched, each run with how busy it was from its begin to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.runs import RunPage
from enchanted.serve.errors import BadCursor
from enchanted.serve.queries.runs import read_runs
from enchanted.serve.sources.cursor import Cursor, digest_of
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import LAST_MICROSECOND, MAX_SEQ, Identifier, microseconds
from enchanted.serve.sources.store import Store

router = APIRouter(prefix="/api/v1", tags=["runs"])
STRETCHES = 24
"""Parts of a run's time whose events are counted."""


@router.get("/runs", response_model=None, responses=described(RunPage))
async def list_runs(
    deps: Deps,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    q: Annotated[Identifier, Query()] = "",
) -> JsonResponse:
    """Runs, the newest first; traces of producers without runs are runs of their own.

    With ``q`` those with all its words in their ids or in what their own transitions say: task, repository, models,
    verdict, reasons.
    """
    words = q.split()
    digest = digest_of(["runs", *words] if words else "runs")
    before = _place(LAST_MICROSECOND, MAX_SEQ) if cursor is None else _place_of(cursor, digest)
    runs = await read_runs(deps.store, before=before, limit=limit + 1, words=words)
    more, runs = len(runs) > limit, runs[:limit]
    following = _cursor_behind(runs[-1], digest).encode() if more else None
    busy = await activity(deps.store, runs) if runs else {}
    data = [{**run, "activity": busy[run["run_id"]]} for run in runs]
    return JsonResponse({"data": data, "meta": {"cursor": following}})


def _cursor_behind(run: Mapping[str, Any], digest: str) -> Cursor:
    return Cursor(order="d", seq=run["first_seq"], time=_microseconds(run["started_at"]), digest=digest)


def _place_of(cursor: str, digest: str) -> int:
    found = Cursor.decode(cursor, digest)
    if not found.time:
        raise BadCursor
    return _place(found.time, found.seq)


def _place(time: int, seq: int) -> int:
    """What orders runs: their begin, since a stream that was made again counts anew, then their first sequence."""
    return time << 64 | seq


async def activity(store: Store, runs: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """For each run how many events fell into each stretch of its time, by one question for all of them."""
    spans = [(_microseconds(run["started_at"]), _microseconds(run["updated_at"])) for run in runs]
    rows = await store.rows(
        "runs_activity",
        runs=[run["run_id"] for run in runs],
        starts=[start for start, _ in spans],
        widths=[max(1, -(-(end + 1 - start) // STRETCHES)) for start, end in spans],
    )
    counts = {run["run_id"]: [0] * STRETCHES for run in runs}
    for row in rows:
        # An event may have come since the runs were read.
        counts[row["run"]][max(0, min(row["stretch"], STRETCHES - 1))] += row["total"]
    return counts


def _microseconds(time: str) -> int:
    return microseconds(datetime.fromisoformat(time))
