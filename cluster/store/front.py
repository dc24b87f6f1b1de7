"""The ClickHouse HTTP protocol as an ASGI application over one chDB engine."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread

from enchanted.cluster.store.body import WORTH_COMPRESSING, Body, choose_encoding, compress
from enchanted.cluster.store.credentials import Credentials, Right
from enchanted.cluster.store.engine import Engine, Summary
from enchanted.cluster.store.errors import ClickHouseError, DiskFull, SyntaxRefused, TooManyQueries
from enchanted.cluster.store.request import Request, parse
from enchanted.cluster.store.statements import Answer, Runner

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

AT_ONCE = 16
"""Statements that run at the same time for each of writer and reader; others wait."""
PATIENCE = 30.0
"""Seconds a statement waits for its turn."""


class Front:
    """Answers HTTP requests. One slow statement never holds up another: each has its own handle and thread."""

    def __init__(self, engine: Engine, credentials: Credentials, spool: Path, *, patience: float = PATIENCE) -> None:
        self._engine = engine
        self._runner = Runner(engine)
        self._credentials = credentials
        self._spool = spool
        self._patience = patience
        self._turns: dict[Right, anyio.Semaphore] = {
            "writer": anyio.Semaphore(AT_ONCE),
            "reader": anyio.Semaphore(AT_ONCE),
        }
        self._threads = CapacityLimiter(4 * AT_ONCE)
        self.running = 0
        """Statements under way."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        reply = _Reply(send, head_only=scope["method"] == "HEAD")
        try:
            request = parse(scope["method"], scope["path"], scope["query_string"], scope["headers"])
            reply.query_id, reply.encoding = request.query_id, choose_encoding(request.accept_encoding)
            await self._route(request, receive, reply)
        except ClickHouseError as error:
            await reply.error(error)

    def close(self) -> None:
        """End the sessions."""
        self._runner.close()

    async def _route(self, request: Request, receive: Receive, reply: _Reply) -> None:
        if request.path in ("/ping", "/replicas_status") or (request.path == "/" and request.method == "HEAD"):
            await reply.text(200, "Ok.\n")
        elif request.path != "/":
            await reply.text(404, f"There is no handle {request.path}\n\nUse / or /ping for health checks.\n")
        elif request.method not in ("GET", "POST"):
            await reply.text(405, "Use GET or POST\n")
        elif request.method == "GET" and not request.query:
            await reply.text(200, "Ok.\n")
        else:
            await self._statement(request, receive, reply)

    async def _statement(self, request: Request, receive: Receive, reply: _Reply) -> None:
        right = self._credentials.right(request.user, request.password)
        body = Body(self._spool)
        try:
            async with aclosing(_received(receive)) as chunks:
                await body.fill(chunks, request.content_encoding)
            if not request.query and not body.size:
                raise SyntaxRefused("Empty query")
            await self._in_turn(request, right, body, receive, reply)
        except OSError as error:
            raise DiskFull(f"Cannot keep the request: {error}") from error
        except _ClientGone:
            log.info("the client went away before the end of its request")
        finally:
            body.close()

    async def _in_turn(self, request: Request, right: Right, body: Body, receive: Receive, reply: _Reply) -> None:
        turn = self._turns[right]
        with anyio.move_on_after(self._patience) as waiting:
            await turn.acquire()
        if waiting.cancelled_caught:
            raise TooManyQueries(self._patience)
        self.running += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._kill_when_gone, receive, request.query_id, reply)
                failure = await self._answer(request, right, body, reply)
                group.cancel_scope.cancel()
        finally:
            self.running -= 1
            turn.release()
        if failure is not None:
            await reply.error(failure)

    async def _answer(self, request: Request, right: Right, body: Body, reply: _Reply) -> ClickHouseError | None:
        # A failure is returned, not raised: a task group would wrap it.
        try:
            answer = await self._in_thread(self._runner.run, request, right, body)
            if answer.blocks is None:
                await reply.whole(answer)
            else:
                await self._stream(answer, reply)
        except ClickHouseError as error:
            return error
        return None

    async def _stream(self, answer: Answer, reply: _Reply) -> None:
        blocks = answer.blocks
        try:
            while blocks is not None and not reply.gone:
                block = await self._in_thread(next, blocks, None)
                if block is None:
                    break
                await reply.block(answer, block)
            await reply.end(answer)
        finally:
            await self._in_thread(answer.close)

    async def _kill_when_gone(self, receive: Receive, tag: str, reply: _Reply) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        reply.gone = True
        await self._in_thread(self._engine.kill, tag)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await to_thread.run_sync(function, *arguments, limiter=self._threads)


class _ClientGone(Exception):
    """The connection closed in the middle of a request."""


class _Reply:
    """Writes the response; knows whether its head has left already."""

    def __init__(self, send: Send, *, head_only: bool) -> None:
        self._send = send
        self._head_only = head_only
        self._tag = secrets.token_hex(8)
        self._started = False
        self.query_id = ""
        self.encoding = ""
        self.gone = False

    async def text(self, status: int, text: str) -> None:
        """A plain answer."""
        await self._start(status, {"Content-Type": "text/html; charset=UTF-8"}, len(text.encode()))
        await self._end(text.encode())

    async def whole(self, answer: Answer) -> None:
        """A result that is complete."""
        headers, body = _headers(answer), answer.body
        if self.encoding and len(body) >= WORTH_COMPRESSING:
            body = await to_thread.run_sync(compress, body, self.encoding)
            headers["Content-Encoding"] = self.encoding
        await self._start(200, headers, len(body))
        await self._end(body)

    async def block(self, answer: Answer, block: bytes) -> None:
        """A piece of a result whose length is not known."""
        if not self._started:
            await self._start(200, {**_headers(answer), "X-ClickHouse-Exception-Tag": self._tag}, None)
        await self._send({"type": "http.response.body", "body": block, "more_body": True})

    async def end(self, answer: Answer) -> None:
        """Close a result sent in pieces."""
        if not self._started:
            await self._start(200, _headers(answer), 0)
        await self._end(b"")

    async def error(self, error: ClickHouseError) -> None:
        """The error, in the way its moment allows: as the status, or marked within a body already under way."""
        body = error.body.encode()
        if self._started:
            tag = self._tag.encode()
            size = str(len(body)).encode()
            marked = b"\r\n__exception__\r\n" + tag + b"\r\n" + body + size + b" " + tag + b"\r\n__exception__\r\n"
            await self._end(marked)
            return
        headers = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(error.code)}
        if error.status in (401, 403) and error.name == "AUTHENTICATION_FAILED":
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        await self._start(error.status, headers, len(body))
        await self._end(body)

    async def _start(self, status: int, headers: dict[str, str], size: int | None) -> None:
        headers = {
            **headers,
            "X-ClickHouse-Server-Display-Name": "enchanted",
            "X-ClickHouse-Query-Id": self.query_id,
            "X-ClickHouse-Timezone": "UTC",
        }
        if size is not None:
            headers["Content-Length"] = str(size)
        pairs = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _end(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": b"" if self._head_only else body})


def _headers(answer: Answer) -> dict[str, str]:
    headers = {"Content-Type": answer.content_type, "X-ClickHouse-Summary": _summary(answer.summary)}
    if answer.format:
        headers["X-ClickHouse-Format"] = answer.format
    return headers


def _summary(summary: Summary) -> str:
    return json.dumps({name: str(value) for name, value in asdict(summary).items()})


async def _received(receive: Receive) -> AsyncGenerator[bytes, None]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
