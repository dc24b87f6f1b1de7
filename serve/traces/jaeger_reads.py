"""The reads of Jaeger's query service, as Jaeger's own page and Grafana's data source ask for them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, model_validator

from enchanted.schemas.foreign import foreign_json
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.jaeger import JaegerDependencies, JaegerNames, JaegerOperations, JaegerTraces
from enchanted.serve.errors import TraceNotFound
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import LAST_MICROSECOND, Identifier, ServiceName, TraceId
from enchanted.serve.sources.span import check_span
from enchanted.serve.traces.jaeger import jaeger_trace
from enchanted.serve.traces.trace import stored_spans

router = APIRouter(prefix="/api", tags=["traces"])

DAY = 24 * 3_600
TRACE_LOOKBACK, DEPENDENCY_LOOKBACK = 2 * DAY, DAY
"""Seconds, where a client names no time; Jaeger's own defaults."""
MOST_TRACES = 1_500
"""As many as Jaeger's page asks for."""
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9}
_PART = r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(ns|us|µs|μs|ms|s|m|h)"


def _tag(text: str) -> str:
    if ":" not in text:
        raise ValueError("write a tag as key:value")
    return text


def _tag_map(text: str) -> str:
    try:
        found = foreign_json(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError('write tags as a JSON object of strings: {"http.status_code": "500"}')
    return text


# Clients send the names of what they leave empty.
_Absent = BeforeValidator(lambda value: None if value == "" else value)
Whole = Annotated[Annotated[int, Field(ge=0, le=LAST_MICROSECOND)] | None, _Absent]
Duration = Annotated[str, StringConstraints(max_length=60, pattern=f"^(?:{_PART})*$")]
# All together fit in the line that HTTP servers take, even where every character is escaped.
Tag = Annotated[str, StringConstraints(max_length=256), AfterValidator(_tag)]
TagMap = Annotated[str, StringConstraints(max_length=800), AfterValidator(_tag_map)]
_Rows = list[Mapping[str, Any]]
HexId = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{1,32}$")]


class TraceSearch(BaseModel):
    """Which traces; what else a client sends (`lookback`, `prettyPrint`) changes nothing."""

    service: Identifier = ""
    """Needed, unless traces are named."""
    operation: Identifier = ""
    """A span's name."""
    start: Whole = None
    """Microseconds since 1970; two days before the end by default."""
    end: Whole = None
    """Now by default."""
    shortest: Duration = Field(default="", alias="minDuration")
    """Of a span: 1.2s, 100ms, 500us."""
    longest: Duration = Field(default="", alias="maxDuration")
    limit: Annotated[Annotated[int, Field(ge=1, le=MOST_TRACES)] | None, _Absent] = None
    """100 by default."""
    tag: list[Tag] = Field(default=[], max_length=8)
    """key:value, that one span must have, all of them."""
    tags: list[TagMap] = Field(default=[], max_length=2)
    """The same as a JSON object."""
    traces: list[HexId] = Field(default=[], alias="traceID", max_length=100)
    """These traces, whatever else is asked for."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not self.service and not self.traces:
            raise ValueError("parameter 'service' is required")
        if self.shortest and self.longest and nanoseconds(self.longest) < nanoseconds(self.shortest):
            raise ValueError("'maxDuration' should be greater than 'minDuration'")
        return self

    def wanted_tags(self) -> dict[str, str]:
        """By name."""
        wanted = dict(one.split(":", 1) for one in self.tag)
        for text in self.tags:
            wanted |= foreign_json(text or "{}")
        return wanted

    def bound(self, now: int) -> dict[str, Any]:
        """What the named query binds; ``now`` in microseconds."""
        end = now if self.end is None else self.end
        tags = self.wanted_tags()
        return {
            "service": self.service,
            "operation": self.operation,
            "start": max(0, end - TRACE_LOOKBACK * 10**6) if self.start is None else self.start,
            "end": end,
            "shortest": nanoseconds(self.shortest),
            "longest": nanoseconds(self.longest),
            "keys": list(tags),
            "values": list(tags.values()),
            "limit": 100 if self.limit is None else self.limit,
        }


def nanoseconds(text: str) -> int:
    """Of a duration as Go writes it."""
    found = sum(int(float(number) * _UNITS[unit]) for number, unit in re.findall(_PART, text))
    return min(found, 2**63 - 1)


@router.get("/traces", response_model=None, responses=described(JaegerTraces))
async def search_traces(search: Annotated[TraceSearch, Query()], deps: Deps) -> JsonResponse:
    """Traces with a span that is such as was asked for, the newest first."""
    ids = [_full(trace) for trace in search.traces]
    if not ids:
        bound = search.bound(time.time_ns() // 1_000)
        check_span(deps, max(1, bound["start"]), bound["end"])
        rows = await deps.store.rows("find_traces", **bound)
        ids = [row["trace"] for row in rows]
    return JsonResponse(_answer(await _traces(deps, ids)))


@router.get("/traces/{trace_id}", response_model=None, responses=described(JaegerTraces))
async def read_jaeger_trace(trace_id: TraceId, deps: Deps) -> JsonResponse:
    """The stored spans of one trace."""
    found = await _traces(deps, [_full(trace_id)])
    if not found:
        raise TraceNotFound(trace_id)
    return JsonResponse(_answer(found))


@router.get("/services", response_model=None, responses=described(JaegerNames))
async def list_services(deps: Deps) -> JsonResponse:
    """The services that sent spans."""
    return JsonResponse(_answer([row["service"] for row in await deps.store.rows("services")]))


@router.get("/services/{service:path}/operations", response_model=None, responses=described(JaegerNames))
async def list_operation_names(service: ServiceName, deps: Deps) -> JsonResponse:
    """The names of a service's spans."""
    rows = await deps.store.rows("operations", service=service, kind="")
    return JsonResponse(_answer(list(dict.fromkeys(row["name"] for row in rows))))


@router.get("/operations", response_model=None, responses=described(JaegerOperations))
async def list_operations(
    service: Annotated[Identifier, Query(min_length=1)],
    deps: Deps,
    kind: Annotated[Identifier, Query(alias="spanKind")] = "",
) -> JsonResponse:
    """The names of a service's spans with their kinds."""
    rows = await deps.store.rows("operations", service=service, kind=kind.lower())
    return JsonResponse(_answer([{"name": row["name"], "spanKind": row["kind"]} for row in rows]))


@router.get("/dependencies", response_model=None, responses=described(JaegerDependencies))
async def list_dependencies(
    deps: Deps,
    end: Annotated[Whole, Query(alias="endTs")] = None,
    lookback: Whole = None,
    service: Identifier = "",
) -> JsonResponse:
    """How often spans of one service were children of another's, up to ``endTs`` for ``lookback`` milliseconds."""
    until = time.time_ns() // 1_000 if end is None else min(end * 1_000, LAST_MICROSECOND)
    span = DEPENDENCY_LOOKBACK * 1_000 if lookback is None else lookback
    bounds: dict[str, Any] = {"start": max(0, until - span * 1_000), "end": until, "service": service}
    check_span(deps, max(1, bounds["start"]), until)
    rows = await deps.store.rows("service_calls", **bounds)
    return JsonResponse(_answer([{name: row[name] for name in ("parent", "child", "callCount")} for row in rows]))


async def _traces(deps: Dependencies, ids: Sequence[str]) -> list[dict[str, Any]]:
    """These traces, in this order, without those that nobody sent."""
    ids = list(dict.fromkeys(ids))
    rows, more = await stored_spans(deps, ids) if ids else ([], False)
    spans = _by_trace(rows)
    if more and len(ids) > 1:
        return await _cut(deps, ids, spans)
    cut = [f"only the first {len(rows)} spans of this answer are shown"] if more else []
    return [jaeger_trace(one, spans[one], warnings=cut) for one in ids if one in spans]


async def _cut(deps: Dependencies, ids: Sequence[str], spans: dict[str, _Rows]) -> list[dict[str, Any]]:
    """More traces than one answer holds: the first as far as there is room, of each other the span it begins with.

    Grafana's list and Jaeger's take a trace's name and time from its spans, so one without any has neither, and one
    that is missing nobody misses. Whoever opens a trace there reads it by its id.
    """
    sizes = {row["trace"]: row for row in await deps.store.rows("trace_sizes", traces=list(ids))}
    others = [one for one in ids if one in sizes and one not in spans]
    if others:
        firsts, _ = await stored_spans(deps, others, [sizes[one]["first"] for one in others])
        spans = spans | _by_trace(firsts)
    shown = [one for one in ids if one in spans]
    warnings = {one: _of_its_spans(one, len(spans[one]), sizes) for one in shown}
    if missing := [one for one in others if one not in spans]:
        warnings[shown[-1]].append(f"{len(missing)} more traces do not fit into this answer: {', '.join(missing)}")
    return [jaeger_trace(one, spans[one], warnings=warnings[one]) for one in shown]


def _of_its_spans(trace_id: str, shown: int, sizes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    stored = sizes[trace_id]["stored"] if trace_id in sizes else shown
    if shown >= stored:
        return []
    return [f"only the first {shown} of {stored} spans are shown, for want of room; ask for /api/traces/{trace_id}"]


def _by_trace(rows: Iterable[Mapping[str, Any]]) -> dict[str, _Rows]:
    spans: dict[str, _Rows] = {}
    for row in rows:
        spans.setdefault(row["TraceId"], []).append(row)
    return spans


def _full(trace_id: str) -> str:
    """With the zeros that some clients leave out."""
    return trace_id.lower().zfill(32)


def _answer(data: list[Any]) -> dict[str, Any]:
    return {"data": data, "total": len(data), "limit": 0, "offset": 0, "errors": None}
