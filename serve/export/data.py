"""`GET /export`: every event of a run, or of a span of time, once and in stream order, as one streamed file.

The table is read page by page, and a page is bounded by bytes, so an export takes the memory of one page whatever its
length and the sizes of its events, and a client that goes away ends it. What is exported is what was stored when it was
asked for.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from math import ceil
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enchanted.serve.errors import RunNotFound, ServeError, StoreExhausted, StoreUnavailable, TooMuchAsked
from enchanted.serve.export.formats import MEDIA_TYPES, Encoder, Format, encoder
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import Identifier, microseconds
from enchanted.serve.sources.span import check_span
from enchanted.serve.sources.store import Store

log = logging.getLogger(__name__)
router = APIRouter(prefix="/api/v1", tags=["query"])

FIRST_PAGE = 100
"""Events, so that the first bytes come at once."""
MAX_PAGE = 4_000
SMALLEST_PAGE = 4
"""So many events of the largest size, with their text as a column of its own, are well within a page's bytes."""
SENT = 256 << 10
"""Bytes that are sent at once: so much a client must take within its seconds."""
PAGE_BYTES = 4 << 20
"""What a page is to have, by the sizes of the one before; `read_page` bounds what it may have."""
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,100}\Z")


class ExportQuery(BaseModel):
    """What to export, and how it is written."""

    model_config = ConfigDict(extra="forbid")

    run: Identifier = ""
    """A run id, or the trace id of a producer without runs; all events by default."""
    since: datetime | None = None
    """Stored by the stream at or after this time."""
    until: datetime | None = None
    """Stored by the stream before this time."""
    format: Format = "ndjson"
    """Lines as `GET /events` shows them, or an Arrow stream or Parquet file of the table's columns."""

    def filters(self) -> dict[str, Any]:
        """What the named queries bind."""
        return {"run": self.run, "since": microseconds(self.since), "until": microseconds(self.until)}


async def pieces(store: Store, query: ExportQuery, writer: Encoder) -> AsyncGenerator[bytes, None]:
    """What ``writer`` makes of the events, piece by piece.

    Raises:
        RunNotFound: there is no event of the run.
        StoreUnavailable: the table does not answer; what was sent before is not whole.
    """
    filters = query.filters()
    bounds = (await store.rows("events_bounds", **filters))[0]
    if query.run and not bounds["total"] and not (query.since or query.until):
        raise RunNotFound(query.run)
    first, last, size = bounds["first_seq"], bounds["last_seq"], FIRST_PAGE
    spread = (last - first + 1) / max(1, bounds["total"])
    seq, time = max(0, first - 1), 0
    while True:
        # Without an upper bound ClickHouse would read and sort all that is left for each page.
        before = min(seq + ceil(size * spread), last) + 1
        # With a time its own sequence is read again: a stream that was made again has a second event of it.
        bound = {"after": seq - (time > 0), "before": before, "edge": seq, "later": time, "limit": size}
        try:
            page = await writer.page(store, {**filters, **bound})
        except (TooMuchAsked, StoreUnavailable) as error:
            size = smaller(size, error)
            continue
        yield page.data
        seq, time = (page.last, page.time) if page.rows == size else (before - 1, 0)
        if seq >= last and not time:
            break
        size = next_size(size, page.rows, page.size)
    yield await asyncio.to_thread(writer.end)


def smaller(size: int, error: TooMuchAsked | StoreUnavailable) -> int:
    """Events to read instead of ``size``, which were too large; the same page would fail whenever it is asked for.

    Raises:
        TooMuchAsked: one event alone is too large.
        StoreExhausted: one event alone takes more memory than there is.
        StoreUnavailable: a page as small as the first is not answered either, so that is not because of the page.
    """
    if size <= (1 if isinstance(error, TooMuchAsked | StoreExhausted) else FIRST_PAGE):
        raise error
    return max(1, size // 4)


def next_size(size: int, rows: int, taken: int) -> int:
    """Events of the next page, after one of ``rows`` events and ``taken`` bytes; at most four times as many."""
    fitting = size * 4 if not taken else rows * PAGE_BYTES // taken
    return max(SMALLEST_PAGE, min(fitting, size * 4, MAX_PAGE))


def name_of(run: str) -> str:
    """What a file about a run may be called anywhere."""
    return run if _PLAIN.match(run) else "events"


class ExportResponse(Response):
    """Sends pieces until they end, the client goes, or it takes too long; an end that is none is no proper end."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], *, media_type: str, name: str, slow: float):
        super().__init__(
            media_type=media_type,
            headers={
                "Cache-Control": "no-store",
                "Content-Disposition": f'attachment; filename="{name}"',
                "X-Accel-Buffering": "no",
            },
        )
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._slow = slow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from its head to its end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._send_all(send)
            group.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> None:
        try:
            async with aclosing(self._rest) as rest:
                await self._send(send, self._first)
                async for piece in rest:
                    await self._send(send, piece)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.warning("a client took nothing of an export for %g s and was cut off", self._slow)
        except ServeError as error:
            # The head is out; without a last chunk the client knows that this is not all.
            log.warning("an export broke off: %s", error)

    async def _send(self, send: Send, piece: bytes) -> None:
        for begin in range(0, len(piece), SENT):
            async with asyncio.timeout(self._slow):
                await send({"type": "http.response.body", "body": piece[begin : begin + SENT], "more_body": True})


@router.get(
    "/export",
    response_model=None,
    responses={
        200: {
            "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()},
            "description": "Every event once, in stream order; a file that breaks off has no last chunk",
        }
    },
)
async def export(query: Annotated[ExportQuery, Query()], deps: Deps) -> Response:
    """All events of a run, or of a time, as one file that is made while it is sent."""
    check_span(deps, microseconds(query.since), microseconds(query.until))
    rest = pieces(deps.store, query, encoder(query.format))
    # The first piece is made before the head leaves, so that what goes wrong at once has its status.
    first = await anext(rest)
    name = f"{name_of(query.run)}.{query.format}"
    return ExportResponse(first, rest, media_type=MEDIA_TYPES[query.format], name=name, slow=deps.slow_client)
