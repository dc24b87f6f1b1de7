"""What runs where: nodes and engines as Ray knows them, actors as they say they are, models by what they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter

from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import parse_event
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.cluster import ClusterDocument
from enchanted.serve.queries.events import rfc3339
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import microseconds

router = APIRouter(prefix="/api/v1", tags=["cluster"])

SILENT = timedelta(seconds=60)
"""Whoever said nothing for so long is not shown: signals come every few seconds."""
RATE = timedelta(seconds=60)
"""Over which tokens a second are counted."""
RAY_DEADLINE = 3.0
"""Seconds Ray may take to say what it knows."""
MOST = 1_000

_SIGNS = ("cpu_load_percent", "memory_usage_mb", "gpu_load_percent", "gpu_memory_usage_mb", "pid", "node", "detail")


@router.get("/cluster", response_model=None, responses=described(ClusterDocument))
async def cluster(deps: Deps) -> JsonResponse:
    """Nodes, engines, and everybody who said within a minute how it is; a part that cannot be asked is null."""
    now = datetime.now(UTC)
    actors, models, nodes, engines = await asyncio.gather(
        deps.store.rows("cluster_actors", since=microseconds(now - SILENT), limit=MOST),
        deps.store.rows("cluster_models", since=microseconds(now - RATE), limit=MOST),
        _within(deps.cluster.nodes() if deps.cluster else None),
        _within(deps.cluster.engines() if deps.cluster else None),
    )
    return JsonResponse(
        {
            "time": rfc3339(now),
            "dashboard_url": deps.cluster.dashboard_url if deps.cluster else "",
            "nodes": nodes,
            "engines": engines,
            "actors": [_actor(row) for row in actors],
            "models": [_model(row) for row in models],
        }
    )


async def _within(question: Awaitable[list[dict[str, Any]] | None] | None) -> list[dict[str, Any]] | None:
    if question is None:
        return None
    try:
        async with asyncio.timeout(RAY_DEADLINE):
            return await question
    except TimeoutError:
        return None


def _actor(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        signal = parse_event(row["latest"]).system_signal
    except NotAnEvent:
        signal = None
    return {
        "agent_id": row["agent_id"],
        "name": row["name"],
        "role": row["its_role"],
        "run_id": row["its_run"],
        "seen_at": rfc3339(row["seen_at"].replace(tzinfo=UTC)),
        "status": signal.status if signal else "",
        **{name: getattr(signal, name) if signal else None for name in _SIGNS},
    }


def _model(row: Mapping[str, Any]) -> dict[str, Any]:
    seconds = RATE.total_seconds()
    return {
        "model": row["model"],
        "calls": row["calls"],
        "failed": row["failed"],
        "input_tokens": row["input"],
        "output_tokens": row["output"],
        "output_tokens_per_s": round(row["output"] / seconds, 3),
    }
