"""Events as JSON: pages of them by filter, one by id with its original bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import Kind, Role, StoredEvent, event_to_dict, kind_of
from enchanted.serve.documents.answer import NOT_MODIFIED, JsonResponse, described, tagged
from enchanted.serve.documents.events import EventDocument, EventPage
from enchanted.serve.errors import EventCorrupted, EventNotFound, ServeError
from enchanted.serve.sources.cursor import Cursor, Order, digest_of
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import (
    MAX_SEQ,
    META_FIELDS,
    EventId,
    Fields,
    Identifier,
    Sequence,
    microseconds,
)
from enchanted.serve.sources.span import check_span
from enchanted.serve.sources.store import EventRow, Store

router = APIRouter(prefix="/api/v1", tags=["events"])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventFilter(BaseModel):
    """Which events; the filters are joined by "and"."""

    model_config = ConfigDict(extra="forbid")

    run: Identifier = ""
    """A run id, or the trace id of a producer without runs."""
    trace: Identifier = ""
    agent: Identifier = ""
    """Agent id or agent name."""
    role: Role | None = None
    kind: Kind | None = None
    since: datetime | None = None
    """Stored by the stream at or after this time."""
    until: datetime | None = None
    """Stored by the stream before this time."""
    q: Annotated[Identifier, Query()] = ""
    """Text to look for in what was thought, asked, said and run."""

    def filters(self) -> dict[str, str | int]:
        """What a named query binds."""
        return {
            "run": self.run,
            "trace": self.trace,
            "agent": self.agent,
            "role": self.role or "",
            "kind": self.kind or "",
            "since": microseconds(self.since),
            "until": microseconds(self.until),
            "q": self.q,
        }


class EventQuery(EventFilter):
    """Which page of those events, and what is shown of them."""

    after: Sequence | None = None
    """Only sequences above this one."""
    before: Sequence | None = None
    """Only sequences below this one; without ``after`` the last ones before it."""
    cursor: Annotated[str, Query(max_length=200)] | None = None
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100
    fields: Fields | None = None
    """Comma-separated names, dotted for inner ones; all fields by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    order: Order
    after: int
    before: int
    edge: int = 0
    """Sequence of the event that a cursor ends at."""
    later: int = 0
    """Of the events with that sequence only those stored after this time, in microseconds; 0 for no such bound."""
    earlier: int = 0
    """Likewise before it, for a page that goes back."""

    def bounds(self) -> dict[str, int]:
        """What the named query binds."""
        edge = {"edge": self.edge, "later": self.later, "earlier": self.earlier}
        return {"after": self.after, "before": self.before, "descending": int(self.order == "d"), **edge}


def event_document(stored: StoredEvent, sha256: str) -> dict[str, Any]:
    """An event as the API shows it: every field of the .proto, and where the stream has it."""
    return {
        "seq": stored.seq,
        "stream_time": rfc3339(stored.time),
        "kind": kind_of(stored.event),
        "subject": stored.subject,
        "sha256": sha256,
        **event_to_dict(stored.event),
    }


def row_document(row: EventRow) -> dict[str, Any]:
    """The same from a table row; a damaged one is marked ``corrupted`` and shows what is left."""
    try:
        document = event_document(row.stored(), row.sha256)
    except NotAnEvent:
        document = {
            "seq": row.seq,
            "stream_time": rfc3339(row.time),
            "kind": "unknown",
            "subject": row.subject,
            "sha256": row.sha256,
            "event_id": row.event_id,
        }
    return document if row.sound else {**document, "corrupted": True}


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and a Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def rfc3339_of(nanoseconds: int) -> str:
    """The same for nanoseconds since 1970, all of them shown."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def select(document: dict[str, Any], fields: str | None) -> dict[str, Any]:
    """Only the named fields (and always seq, event_id and kind); everything for None."""
    if fields is None:
        return document
    kept: dict[str, Any] = {}
    for path in ("seq", "event_id", "kind", "corrupted", *fields.split(",")):
        _copy(document, kept, path.split("."))
    return kept


def _copy(source: dict[str, Any], target: dict[str, Any], parts: list[str]) -> None:
    name, rest = parts[0], parts[1:]
    if name not in source:
        return
    inner = source[name]
    if rest and isinstance(inner, dict):
        _copy(inner, target.setdefault(name, {}), rest)
    elif rest and isinstance(inner, list):
        items = target.setdefault(name, [{} for _ in inner])
        for item, kept in zip(inner, items, strict=True):
            _copy(item, kept, rest)
    else:
        target[name] = inner


async def read_page(store: Store, query: EventQuery) -> dict[str, Any]:
    """One page of events in stream order, and the cursor of the next one; large events make it shorter than asked."""
    filters = query.filters()
    digest = digest_of(filters)
    window = _window(query, digest)
    rows, more = await store.fitting_events("events_page", query.limit, **filters, **window.bounds())
    cursor = None
    if more:
        last = rows[-1]
        cursor = Cursor(order=window.order, seq=last.seq, time=microseconds(last.time), digest=digest).encode()
    if window.order == "d":
        rows.reverse()
    return {"data": [select(row_document(row), query.fields) for row in rows], "meta": {"cursor": cursor}}


def _window(query: EventQuery, digest: str) -> _Window:
    """The range to read: a cursor goes on in its direction, within the bounds that were asked for."""
    backwards = query.before is not None and query.after is None
    after = query.after or 0
    before = MAX_SEQ if query.before is None else query.before
    if query.cursor is None:
        return _Window(order="d" if backwards else "a", after=after, before=before)
    cursor = Cursor.decode(query.cursor, digest)
    # With a time the cursor's own sequence is read again: a stream that was made again has a second event of it.
    again = int(cursor.time > 0)
    if cursor.order == "d":
        bound = min(before, cursor.seq + again)
        return _Window(order="d", after=after, before=bound, edge=cursor.seq, earlier=cursor.time)
    bound = max(after, cursor.seq - again)
    return _Window(order="a", after=bound, before=before, edge=cursor.seq, later=cursor.time)


async def find_event(store: Store, event_id: str) -> EventRow:
    """The row of an event.

    Raises:
        EventNotFound: there is none.
    """
    rows = await store.events("event_by_id", event_id=event_id)
    if not rows:
        raise EventNotFound(event_id)
    return rows[0]


@router.get("/events", response_model=None, responses=described(EventPage))
async def list_events(query: Annotated[EventQuery, Query()], deps: Deps) -> JsonResponse:
    """Events in stream order."""
    check_span(deps, microseconds(query.since), microseconds(query.until))
    return JsonResponse(await read_page(deps.store, query))


@router.get("/events/{event_id}", response_model=None, responses=described(EventDocument))
async def read_event(event_id: EventId, deps: Deps) -> JsonResponse:
    """One event; fields that were moved to the object store are put back when the bus is reachable."""
    row = await find_event(deps.store, event_id)
    document = row_document(row)
    if not document.get("blobs"):
        return JsonResponse(document)
    try:
        whole = await deps.bus.inflate(row.stored().event)
    except ServeError:
        return JsonResponse({**document, "inflated": False})
    blobs = {"blobs": document["blobs"], "inflated": True}
    meta = {name: document[name] for name in (*META_FIELDS, "corrupted") if name in document}
    return JsonResponse({**meta, **event_to_dict(whole), **blobs})


@router.get(
    "/events/{event_id}/raw",
    response_model=None,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The published bytes"},
        **NOT_MODIFIED,
    },
)
async def read_raw(event_id: EventId, request: Request, deps: Deps) -> Response:
    """The bytes as they were published, checked against their recorded hash."""
    row = await find_event(deps.store, event_id)
    if not row.sound:
        raise EventCorrupted(row.event_id, row.seq, row.sha256, sha256_hex(row.raw))
    headers = {"X-Enchanted-Seq": str(row.seq)}
    return tagged(request, Response(row.raw, media_type="application/octet-stream", headers=headers))
