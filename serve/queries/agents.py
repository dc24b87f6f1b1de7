"""`GET /agents/stats`: what each agent did, how sure it was, what failed, what it cost, in buckets of time."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.query import AgentStatsPage
from enchanted.serve.queries.events import rfc3339
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import Identifier, microseconds
from enchanted.serve.sources.span import check_span
from enchanted.serve.sources.store import Store

router = APIRouter(prefix="/api/v1", tags=["query"])

SECONDS = {"hour": 3_600, "day": 86_400, "whole": 0}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class StatsQuery(BaseModel):
    """Whose statistics, of when, and how fine."""

    model_config = ConfigDict(extra="forbid")

    agent: Identifier = ""
    """Agent id or agent name."""
    run: Identifier = ""
    since: datetime | None = None
    """Stored by the stream at or after this time."""
    until: datetime | None = None
    """Stored by the stream before this time."""
    bucket: Literal["hour", "day", "whole"] = "whole"
    """Hours and days are of UTC; a bucket in which an agent did nothing is left out."""
    by: Literal["agent", "name", "role"] = "agent"
    """An agent id is one process's; a name goes on after a restart, and stands for one agent of each run."""
    limit: Annotated[int, Query(ge=1, le=1_000)] = 1_000
    """Rows; `meta.truncated` says that there are more."""

    def bound(self) -> dict[str, Any]:
        """What the named query binds."""
        # With an id alone, ClickHouse finds the places of an agent by its index.
        exact = _UUID.match(self.agent) is not None
        return {
            "agent_id": self.agent if exact else "",
            "agent": "" if exact else self.agent,
            "run": self.run,
            "since": microseconds(self.since),
            "until": microseconds(self.until),
            "seconds": SECONDS[self.bucket],
            f"by_{self.by}": 1,
            "limit": self.limit + 1,
        }


async def read_stats(store: Store, query: StatsQuery) -> dict[str, Any]:
    """One row for each agent and bucket, in order of time."""
    rows = await store.rows("agent_stats", **query.bound())
    shown = [_document(row, query) for row in rows[: query.limit]]
    return {"data": shown, "meta": {"bucket": query.bucket, "by": query.by, "truncated": len(rows) > query.limit}}


def _document(row: dict[str, Any], query: StatsQuery) -> dict[str, Any]:
    """A row of the named query as the API shows it."""
    failed = row["failed_model_calls"] + row["failed_tool_calls"]
    calls = row["model_calls"] + row["tool_calls"]
    copied = ("agents", "runs", "decisions", "changes", "reverts", "model_calls", "tool_calls")
    failures = ("failed_model_calls", "failed_tool_calls", "critical_failures")
    return {
        "agent": row["agent"],
        "name": row["name"] if query.by != "role" else "",
        "role": row["its_role"],
        **_span(row, SECONDS[query.bucket]),
        "last_seq": row["last_seq"],
        "events": row["total"],
        **{name: row[name] for name in copied},
        "errors": failed + row["critical_failures"],
        **{name: row[name] for name in failures},
        "error_rate": failed / calls if calls else None,
        "confidence": finite(row["mean_confidence"]),
        "input_tokens": row["total_input_tokens"],
        "output_tokens": row["total_output_tokens"],
        "latency_ms": {"model_call": _latency(row["model_ms"]), "tool_call": _latency(row["tool_ms"])},
    }


def _span(row: dict[str, Any], seconds: int) -> dict[str, str]:
    """The bucket, and the first and last event in it."""
    first, last = row["first_time"].replace(tzinfo=UTC), row["last_time"].replace(tzinfo=UTC)
    begin = row["bucket"].replace(tzinfo=UTC) if seconds else first
    end = begin + timedelta(seconds=seconds) if seconds else last
    return {"start": rfc3339(begin), "end": rfc3339(end), "first_at": rfc3339(first), "last_at": rfc3339(last)}


def _latency(quantiles: list[float]) -> dict[str, float | None]:
    middle, high = quantiles
    return {"p50": finite(middle), "p95": finite(high)}


def finite(value: float) -> float | None:
    """None where there was nothing to take a mean of, or a producer's number was none."""
    return round(value, 6) if math.isfinite(value) else None


@router.get("/agents/stats", response_model=None, responses=described(AgentStatsPage))
async def agent_stats(query: Annotated[StatsQuery, Query()], deps: Deps) -> JsonResponse:
    """Decisions, changes, reverts, errors, confidence, tokens and latency of each agent, by hour, day or as a whole."""
    check_span(deps, microseconds(query.since), microseconds(query.until))
    return JsonResponse(await read_stats(deps.store, query))
