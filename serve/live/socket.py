"""Live events over a WebSocket: the first message says who asks and for what, everything else comes from here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import anyio
import orjson
from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketState

from enchanted.bus.errors import BusError
from enchanted.serve.errors import BusUnavailable, ServeError, Unauthorized
from enchanted.serve.guard.auth import SOCKET_PATH
from enchanted.serve.guard.problem import document_of
from enchanted.serve.live.shared import Piece
from enchanted.serve.live.stream import LiveQuery, Streams
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.parameters import MAX_SEQ

log = logging.getLogger(__name__)
router = APIRouter(tags=["live"])

FIRST_MESSAGE_SECONDS = 10.0
MOST = 64 * 1024
"""Characters of the first message."""
POLICY, TRY_AGAIN, UNEXPECTED = 1008, 1013, 1011
"""Close codes of RFC 6455: refused, come again later, a backend failed."""


class Hello(BaseModel):
    """The first message."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(default="", max_length=4_096)
    """Not needed where the request had an Authorization header."""
    resume_from: int | None = Field(default=None, ge=0, le=MAX_SEQ)
    """Begin after this sequence; from now on by default."""
    filter: LiveQuery = LiveQuery()


class _Refused(Exception):
    def __init__(self, code: int, document: dict[str, Any]) -> None:
        super().__init__(document["title"])
        self.code, self.document = code, document


@router.websocket(SOCKET_PATH)
async def live(socket: WebSocket) -> None:
    """Messages: `{"type": "events", "seq", "events"}`, `{"type": "alive", "seq"}`, `{"type": "error", "problem"}`.

    ``seq`` is where to resume from. Anything that the client sends after its first message ends the connection.
    """
    deps: Dependencies = socket.app.state.dependencies
    streams: Streams = socket.app.state.streams
    try:
        with streams.waiting.one():
            await socket.accept()
            hello = await _hello(socket, deps)
        with streams.places.one():
            after = hello.filter.after if hello.resume_from is None else hello.resume_from
            await _serve(socket, await streams.begin(hello.filter, after), streams.slow)
    except _Refused as refusal:
        await _close(socket, refusal.code, refusal.document)
    except ServeError as error:
        await _close(socket, TRY_AGAIN if error.retry_after else POLICY, document_of(error))
    except WebSocketDisconnect:
        return


async def _hello(socket: WebSocket, deps: Dependencies) -> Hello:
    """The first message of somebody who may ask."""
    hello = _read(await _first_message(socket))
    given = socket.headers.get("authorization", "").removeprefix("Bearer ") or hello.token
    if not deps.access.opens(given.encode("utf-8", "surrogatepass")):
        raise _Refused(POLICY, document_of(Unauthorized()))
    return hello


async def _first_message(socket: WebSocket) -> str:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            message = await socket.receive()
    except TimeoutError:
        raise _Refused(POLICY, {"title": f"no first message within {FIRST_MESSAGE_SECONDS:g} s"}) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    return message.get("text") or ""


def _read(text: str) -> Hello:
    try:
        if len(text) > MOST:
            raise ValueError(f"more than {MOST} characters")
        return Hello.model_validate_json(text)
    except (ValidationError, ValueError) as error:
        wanted = 'the first message is {"token": ..., "resume_from": SEQ, "filter": {...}}'
        raise _Refused(POLICY, {"title": "The first message is not valid", "detail": f"{error}; {wanted}"}) from error


async def _serve(socket: WebSocket, pieces: AsyncGenerator[Piece, None], slow: float) -> None:
    """Send until the client goes or says anything more."""
    ended: list[_Refused] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await socket.receive()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        ended += await _send_all(socket, pieces, slow)
        group.cancel_scope.cancel()
    if ended:
        raise ended[0]


async def _send_all(socket: WebSocket, pieces: AsyncGenerator[Piece, None], slow: float) -> list[_Refused]:
    """Send until it cannot go on; gives why, for whoever can still be told."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                async with asyncio.timeout(slow):
                    await socket.send_text(piece.message)
    except TimeoutError:
        log.warning("a live socket took nothing for %g s and was cut off; it can resume", slow)
        return [_Refused(POLICY, {"title": "too slow"})]
    except ServeError as error:
        return [_Refused(UNEXPECTED, document_of(error))]
    except BusError as error:
        return [_Refused(UNEXPECTED, document_of(BusUnavailable(str(error))))]
    except WebSocketDisconnect:
        return []
    return []


async def _close(socket: WebSocket, code: int, document: dict[str, Any]) -> None:
    # Whoever reads nothing is not waited for, and whoever is gone needs no answer.
    gone = (RuntimeError, WebSocketDisconnect, TimeoutError)
    with suppress(*gone):
        async with asyncio.timeout(1.0):
            if socket.application_state is WebSocketState.CONNECTED:
                await socket.send_text(orjson.dumps({"type": "error", "problem": document}).decode())
    with suppress(*gone):
        async with asyncio.timeout(1.0):
            await socket.close(code)
