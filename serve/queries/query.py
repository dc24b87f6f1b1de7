"""`POST /sql`: one read-only SELECT over the tables, within limits of time, rows and bytes."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from enchanted.schemas.foreign import MOST_LEVELS, is_deep
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.query import SqlDocument
from enchanted.serve.errors import SqlFailed, SqlResultTooLarge, StoreSlow
from enchanted.serve.guard.sql_guard import check_tree, read
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.store import Store

router = APIRouter(prefix="/api/v1", tags=["query"])

DEFAULT_ROWS = 1_000
MAX_ROWS = 10_000
MAX_QUERY = 100_000
"""Characters."""
MAX_ANSWER = 32 << 20
"""Bytes of an answer."""
LIMITS: dict[str, int | str] = {
    "readonly": 2,
    "max_rows_to_read": 200_000_000,
    "max_memory_usage": 1_000_000_000,
    "max_result_bytes": MAX_ANSWER // 2,
    "date_time_output_format": "iso",
}
"""Rows, bytes, bytes; times come as RFC 3339."""
_EXCEPTION = re.compile(r"Code: \d+\..*", re.DOTALL)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("lone surrogates are not allowed") from error
    return text


class SqlBody(BaseModel):
    """A question in ClickHouse's SQL."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY), AfterValidator(_encodable)]
    """One SELECT over `events`, `events_list`, `spans` and `agent_hourly`."""
    limit: int = Field(default=DEFAULT_ROWS, ge=1, le=MAX_ROWS)
    """Rows at most; `meta.truncated` says that there are more."""


async def answer(store: Store, sql: str, limit: int) -> dict[str, Any]:
    """Judge and run one statement.

    Raises:
        SqlRefused: it is no SELECT over the tables.
        SqlFailed: ClickHouse refused it, or a limit was reached.
        StoreUnavailable: ClickHouse cannot be asked.
    """
    begun = time.perf_counter()
    statement = await asyncio.to_thread(read, sql)
    tree = await store.statement(f"EXPLAIN AST {statement.text}", {"readonly": 2})
    await asyncio.to_thread(check_tree, tree.decode("utf-8", "replace"), statement)
    text = f"{statement.text}\nFORMAT JSONCompact"
    try:
        body = await store.statement(text, {**LIMITS, "limit": limit + 1, "wait_end_of_query": 1})
    except StoreSlow as error:
        # It has just parsed the statement, so it is there.
        raise SqlFailed("the query takes too long; ask for a run, a trace or a shorter time") from error
    if len(body) > MAX_ANSWER:
        raise SqlResultTooLarge(MAX_ANSWER)
    document = await asyncio.to_thread(_document, body)
    rows = document["data"]
    return {
        "columns": document["meta"],
        "rows": rows[:limit],
        "meta": {
            "elapsed_ms": round((time.perf_counter() - begun) * 1000, 1),
            "truncated": len(rows) > limit,
        },
    }


def _document(body: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = orjson.loads(body.decode("utf-8", "replace"))
    except orjson.JSONDecodeError as error:
        # A server that fails after its first bytes says why at the end of them.
        found = _EXCEPTION.search(body[-4_000:].decode("utf-8", "replace"))
        raise SqlFailed(found[0] if found else "the answer broke off") from error
    if is_deep(document):
        raise SqlFailed(f"the answer has values nested deeper than {MOST_LEVELS} levels; select their parts")
    return document


@router.post("/sql", response_model=None, responses=described(SqlDocument))
async def sql(body: SqlBody, deps: Deps) -> JsonResponse:
    """One read-only SELECT over `events`, `events_list`, `spans` and `agent_hourly`."""
    return JsonResponse(await answer(deps.reader or deps.store, body.query, body.limit))
