"""`GET /facets`: which values the events of a filter have, and how many events have each."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Query

from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.query import Facets
from enchanted.serve.queries.events import EventFilter
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import microseconds
from enchanted.serve.sources.span import check_span
from enchanted.serve.sources.store import Store

router = APIRouter(prefix="/api/v1", tags=["query"])

NAMES = ("kind", "role", "agent", "tool", "outcome", "model", "change_reason", "to_state", "status")
"""In the order in which they are shown; `agent` holds names."""


class FacetQuery(EventFilter):
    """Events as `GET /events` finds them, and how much is told of them."""

    limit: Annotated[int, Query(ge=1, le=1_000)] = 20
    """Values of each facet, the most frequent first."""


async def read_facets(store: Store, query: FacetQuery) -> dict[str, Any]:
    """Every facet with its values; one that no event has a value for has none."""
    rows = await store.rows("facets", limit=query.limit + 1, **dict[str, Any](query.filters()))
    values = {name: list(group) for name, group in groupby(rows, key=lambda row: str(row["facet"]))}
    return {
        "data": {name: [_value(row) for row in values.get(name, [])[: query.limit]] for name in NAMES},
        "meta": {
            "events": sum(row["events"] for row in values.get("all", [])),
            "truncated": [name for name in NAMES if len(values.get(name, [])) > query.limit],
        },
    }


def _value(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("value", "events", "first_seq", "last_seq")}


@router.get("/facets", response_model=None, responses=described(Facets))
async def facets(query: Annotated[FacetQuery, Query()], deps: Deps) -> JsonResponse:
    """The values that the events of a filter have, by kind, role, agent, tool, outcome, model and so on."""
    check_span(deps, microseconds(query.since), microseconds(query.until))
    return JsonResponse(await read_facets(deps.store, query))
