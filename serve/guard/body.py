"""How much a request may send, and how slowly. A plain ASGI wrapper, so that nothing too large is ever held."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enchanted.serve.errors import BodyTooLarge, ServeError
from enchanted.serve.guard.problem import problem_of

IDLE_SECONDS = 15.0
"""Without a byte. Whoever waits for a body holds one of the replica's places, and `POST /api/v1/sessions` is open."""
TOTAL_SECONDS = 60.0
"""For all of a body. OpenTelemetry's exporters give up after 10 by default, its collector after 30."""


class BodyOverdue(ServeError):
    """A request's body did not come, or too slowly."""

    status, code, title = 408, "body-overdue", "The body of the request did not come in time"

    def __init__(self, idle: float, total: float) -> None:
        super().__init__(
            f"something of it must come every {idle:g} s and all of it within {total:g} s; send it again, and on a "
            "slow line in smaller requests"
        )


class SpansOverdue(BodyOverdue):
    """The same of an export of spans, whose sender repeats what is answered 503 and drops what is answered 408."""

    status, retry_after = 503, 1


class BodyLimit:
    """Answers 413 to a body of more than ``most`` bytes, by its announced length or, without one, by counting, and 408
    to one of which nothing comes for ``idle`` seconds, or not all in ``total``.

    ``paths`` have limits of their own, ``spans`` are those of OTLP. The body is read before the app is asked: what is
    raised while an app reads is answered by FastAPI as a body that is no JSON.
    """

    def __init__(
        self,
        app: ASGIApp,
        most: int,
        paths: Mapping[str, int],
        spans: Collection[str] = (),
        idle: float = IDLE_SECONDS,
        total: float = TOTAL_SECONDS,
    ) -> None:
        self._app = app
        self._most = most
        self._paths = paths
        self._spans = spans
        self._idle = idle
        self._total = total

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        length = headers.get(b"content-length")
        if scope["type"] != "http" or (length is None and b"transfer-encoding" not in headers):
            await self._app(scope, receive, send)
            return
        path = scope.get("path", "")
        most = self._paths.get(path, self._most)
        try:
            if length is not None and length.isdigit() and int(length) > most:
                raise BodyTooLarge(most)
            messages = await self._read(receive, most)
        except TimeoutError:
            await _refused(self._overdue(path), scope, receive, send)
        except BodyTooLarge as error:
            await _refused(error, scope, receive, send)
        else:
            await self._app(scope, _again(messages, receive), send)

    async def _read(self, receive: Receive, most: int) -> deque[Message]:
        """The messages of the body."""
        messages = deque[Message]()
        size = 0
        async with asyncio.timeout(self._total):
            while not messages or messages[-1].get("more_body", False):
                async with asyncio.timeout(self._idle):
                    messages.append(await receive())
                size += len(messages[-1].get("body", b""))
                if size > most:
                    raise BodyTooLarge(most)
        return messages

    def _overdue(self, path: str) -> BodyOverdue:
        kind = SpansOverdue if path in self._spans else BodyOverdue
        return kind(self._idle, self._total)


async def _refused(error: ServeError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = problem_of(error)
    # What the client still sends is not read.
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)


def _again(messages: deque[Message], receive: Receive) -> Receive:
    async def replay() -> Message:
        # Each is let go of: the app keeps the body in a form of its own.
        return messages.popleft() if messages else await receive()

    return replay
