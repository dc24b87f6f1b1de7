"""A run's facts again, in the order they came and at a chosen speed, as server-sent events; nothing is executed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from enchanted.serve.errors import SequenceAhead
from enchanted.serve.live.pacing import FASTEST, LONGEST_GAP, MOST_GAP, SLOWEST, SPEED, Pace, said_at
from enchanted.serve.live.shared import PIECE, Piece
from enchanted.serve.live.stream import Framed, LiveResponse, Streams, position
from enchanted.serve.queries.events import row_document
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import RunId, Sequence
from enchanted.serve.sources.store import EventRow

router = APIRouter(prefix="/api/v1", tags=["live"])

PAGE = 500
"""Events read at a time at most."""
FIRST = 50
"""Events read first, when nobody knows how large they are."""
HELD = 1 << 20
"""Bytes of them that are held while the client waits, which may be for an hour; the others are read again."""
LEAST_REST = 0.01
"""Seconds; pauses are saved up to this, so that a fast play is few large pieces."""


class PlayQuery(BaseModel):
    """How to play."""

    model_config = ConfigDict(extra="forbid")

    speed: Annotated[float, Query(ge=SLOWEST, le=FASTEST, allow_inf_nan=False)] = SPEED
    """Times as fast as it was."""
    start: Annotated[Sequence, Query(alias="from")] = 0
    """The first sequence; one beyond the run is its end. A Last-Event-ID goes before it."""
    max_gap: Annotated[float, Query(ge=0, le=MOST_GAP, allow_inf_nan=False)] = LONGEST_GAP
    """Longest pause between two events, in seconds of the run; no event is waited for longer than an hour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """Nothing comes after it: not in a closed run, and of an open one not here."""

    run: str
    closed: bool
    seq: int

    @property
    def frames(self) -> bytes:
        """As a server-sent event of the kind ``end``; whoever comes back with its id gets it again."""
        document = orjson.dumps({"run_id": self.run, "closed": self.closed, "last_seq": self.seq})
        return b"id: %d\nevent: end\ndata: %b\n\n" % (self.seq, document)


async def _taken_place(request: Request) -> AsyncGenerator[None, None]:
    """A play may take days; it has places of its own, so that it takes none of those who watch live."""
    streams: Streams = request.app.state.streams
    with streams.plays.one():
        yield


@router.get(
    "/runs/{run}/play",
    response_model=None,
    dependencies=[Depends(_taken_place)],
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events, then one of the kind `end`"}},
)
async def play(
    run: RunId,
    query: Annotated[PlayQuery, Query()],
    request: Request,
    deps: Deps,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Response:
    """A run's events as they came, idle gaps cut; each frame's id is its SEQ.

    What the table has of the run when it is asked for is played, at most 32 plays at a time. The last frame is of the
    kind `end`: where its `closed` is false the run goes on, and `GET /stream` with `after` its `last_seq` shows how.
    """
    known = await find_run(deps, run)
    after = min(max(0, query.start - 1), known["last_seq"])
    if last_event_id is not None and (after := position(last_event_id)) > known["last_seq"]:
        raise SequenceAhead(after, known["last_seq"])
    streams: Streams = request.app.state.streams
    return LiveResponse(_played(deps, known, after, Pace(speed=query.speed, max_gap=query.max_gap)), streams)


async def _played(deps: Dependencies, known: dict[str, Any], after: int, pace: Pace) -> AsyncGenerator[Framed, None]:
    if after:  # whoever is cut off before the first event comes back to here
        yield Piece(seen=after)
    last, owed, size = None, 0.0, 0
    ready: list[tuple[int, bytes]] = []
    async with aclosing(_rows(deps, known, after)) as rows:
        async for row in rows:
            document = row_document(row)
            now = said_at(document)
            owed, last = owed + pace.rest(last, now), now
            if ready and (owed >= LEAST_REST or size >= PIECE):
                yield Piece(tuple(ready))
                ready, size = [], 0
            if owed >= LEAST_REST:
                async with aclosing(_rested(owed, deps.heartbeat)) as signs:
                    async for sign in signs:
                        yield sign
                owed = 0.0
            ready.append((row.seq, orjson.dumps(document)))
            after, size = row.seq, size + len(ready[-1][1])
    if ready:
        yield Piece(tuple(ready))
    yield End(run=known["run_id"], closed=known["closed"] and after >= known["last_seq"], seq=after)


async def _rested(seconds: float, heartbeat: float) -> AsyncGenerator[Framed, None]:
    """Takes so long, with signs of life meanwhile."""
    while seconds > heartbeat:
        await asyncio.sleep(heartbeat)
        seconds -= heartbeat
        yield Piece()
    await asyncio.sleep(seconds)


async def _rows(deps: Dependencies, known: dict[str, Any], after: int) -> AsyncGenerator[EventRow, None]:
    """What the table has after a sequence, few at a time where they are large."""
    most, bounds = FIRST, {"after": after}
    while held := await _page(deps, known, bounds, most):
        most = min(PAGE, max(1, HELD * len(held) // max(1, sum(len(row.raw) for row in held))))
        for row in held:
            yield row
        bounds = held[-1].behind


async def _page(deps: Dependencies, known: dict[str, Any], bounds: dict[str, int], most: int) -> list[EventRow]:
    """The next rows, as much as may be held; empty at the end."""
    rows, _ = await deps.store.fitting_events(
        "run_events", most, run=known["run_id"], until=known["last_seq"], **bounds
    )
    held, size = list[EventRow](), 0
    for row in rows:
        held.append(row)
        size += len(row.raw)
        if size >= HELD:
            break
    return held
