"""What `query` asks: each question as a client puts it to the API, and beside it the bare query of the same answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from enchanted.benchmarks.case import Budget
from enchanted.serve.queries.events import EventQuery
from enchanted.serve.sources.cursor import Cursor, digest_of
from enchanted.serve.sources.parameters import MAX_SEQ
from enchanted.serve.sources.store import Store

Key = dict[str, Any]
Bare = Callable[[Store, Key], Awaitable[Any]]
PAGE = 100
DAY = timedelta(days=1)
FORMATS = ("ndjson", "arrow", "parquet")
KINDS = "SELECT kind, count() AS n, sum(output_tokens) AS tokens FROM events_list WHERE run = '{run}' GROUP BY kind"
"""The first SQL question of docs/queries.md."""
TOOLS = (
    "SELECT tool, countIf(outcome != 'OK') AS failed, count() AS calls, round(avg(duration_ms)) AS ms FROM events_list "
    "WHERE kind = 'tool_call' GROUP BY tool ORDER BY failed DESC"
)
"""The second: over the whole table."""
ERRORS = (
    "SELECT sum(errors) AS failed, sum(events) AS total FROM agent_hourly WHERE agent_id = '{agent_id}' "
    "AND hour >= toStartOfHour(now() - INTERVAL 30 DAY)"
)
_NO_FILTER = {"trace": "", "agent": "", "role": "", "kind": "", "since": 0, "until": 0, "q": ""}
_WORDS = ("agent", "plan", "tests", "error", "parse", "retry", "stream", "table", "queue", "merge", "change", "path")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the API, below ``/api/v1/``."""

    method: str
    resource: str
    more: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One kind of question."""

    request: Callable[[Key], Request]
    bare: Bare
    p95: Budget | None = None
    simple: bool = False
    """A simple read, whose cost above the query itself has a budget."""
    times: float = 1.0
    """Share of the questions that are asked of this kind: a slow one is asked less often."""
    searches: bool = False
    """It reads so much that a limit may refuse it, or looks for what may not be there."""


def word(dice: random.Random) -> str:
    """A word that one text in some hundred has, as `load` makes them."""
    return f"{dice.choice(_WORDS)}{dice.randrange(1_000)}"


def get(resource: str, **parameters: object) -> Request:
    """A read with these parameters."""
    return Request("GET", resource, {"params": parameters})


def sql(text: str) -> Question:
    """A statement with places for members of the key, through `POST /sql` and straight to the store."""
    return Question(
        request=lambda key: Request("POST", "sql", {"json": {"query": text.format_map(key)}}),
        bare=lambda store, key: store.statement(f"{text.format_map(key)}\nFORMAT JSONCompact", {"readonly": 2}),
    )


def deep(run: str, seq: int) -> str:
    """The cursor with which a run's page begins after ``seq``."""
    return Cursor(order="a", seq=seq, digest=digest_of(EventQuery(run=run).filters())).encode()


def _page(store: Store, *, after: int = 0, **filters: object) -> Awaitable[Any]:
    bounds = {"after": after, "before": MAX_SEQ, "descending": 0, "limit": PAGE + 1}
    return store.events("events_page", **{"run": "", **_NO_FILTER, **bounds, **filters})


async def _bare_trace(store: Store, key: Key) -> object:
    """Both queries that the answer is made of, at a time."""
    trace = key["trace_id"]
    return await asyncio.gather(
        store.events("trace_events", trace=trace, limit=10_001), store.rows("trace_spans", traces=[trace], limit=10_001)
    )


def _text(kind: str) -> Question:
    return Question(
        request=lambda key: get("events", run=key["run"], kind=kind, q=key["word"]),
        bare=lambda store, key: _page(store, run=key["run"], kind=kind, q=key["word"]),
        searches=True,
    )


def _day_of(key: Key) -> tuple[datetime, datetime]:
    since = key["stream_time"].replace(tzinfo=UTC)
    return since, since + DAY


def _text_of_a_day(key: Key) -> Request:
    since, until = _day_of(key)
    return get("events", since=since.isoformat(), until=until.isoformat(), q=key["word"])


def _bare_text_of_a_day(store: Store, key: Key) -> Awaitable[Any]:
    since, until = (int(one.timestamp() * 1e6) for one in _day_of(key))
    return _page(store, since=since, until=until, q=key["word"])


def _ledger(run: Callable[[Key], str], times: float) -> Question:
    return Question(
        request=lambda key: get("decisions/reverted", run=run(key)),
        bare=lambda store, key: store.rows("reverted_decisions", run=run(key), below=0.5, limit=PAGE + 1),
        times=times,
        searches=True,
    )


def _stats(key: Key) -> Request:
    return get("agents/stats", agent=key["agent_id"], since=key["month"].isoformat())


def _bare_stats(store: Store, key: Key) -> Awaitable[Any]:
    bound = {"agent_id": key["agent_id"], "agent": "", "run": "", "since": int(key["month"].timestamp() * 1e6)}
    return store.rows("agent_stats", **bound, until=0, seconds=0, by_agent=1, limit=1_001)


def _of(question: Question, **more: Any) -> Question:
    return Question(request=question.request, bare=question.bare, **more)


FIFTY, TWO_HUNDRED = Budget(limit=50.0), Budget(limit=200.0)
QUESTIONS: dict[str, Question] = {
    "by trace": Question(
        request=lambda key: get(f"traces/{key['trace_id']}"),
        bare=_bare_trace,
        p95=FIFTY,
        simple=True,
    ),
    "a run's first page": Question(
        request=lambda key: get("events", run=key["run"]),
        bare=lambda store, key: _page(store, run=key["run"]),
        p95=FIFTY,
        simple=True,
    ),
    "a run's page, cursor deep in it": Question(
        request=lambda key: get("events", run=key["run"], cursor=deep(key["run"], key["stream_seq"] - 1)),
        bare=lambda store, key: _page(store, run=key["run"], after=key["stream_seq"] - 1),
        p95=FIFTY,
        simple=True,
    ),
    "event by id": Question(
        request=lambda key: get(f"events/{key['event_id']}"),
        bare=lambda store, key: store.events("event_by_id", event_id=key["event_id"]),
        simple=True,
    ),
    "facets of a run": Question(
        request=lambda key: get("facets", run=key["run"]),
        bare=lambda store, key: store.rows("facets", **{**_NO_FILTER, "run": key["run"], "limit": 21}),
    ),
    "kinds and tokens of a run, SQL": sql(KINDS),
    "text in a run's rationales": _text("decision"),
    "text in a run's diffs": _text("state_change"),
    "text in a day of all runs": Question(request=_text_of_a_day, bare=_bare_text_of_a_day, times=0.2, searches=True),
    "decisions taken back, a run": _ledger(lambda key: str(key["ledger"]), times=0.4),
    "decisions taken back, all runs": _ledger(lambda _: "", times=0.2),
    "an agent's statistics, 30 days": Question(request=_stats, bare=_bare_stats, p95=TWO_HUNDRED),
    "an agent's error rate, 30 days, SQL": _of(sql(ERRORS), p95=TWO_HUNDRED),
    "tools that fail most, all runs, SQL": _of(sql(TOOLS), times=0.2, searches=True),
}
"""By name; the statements are those of docs/queries.md."""
