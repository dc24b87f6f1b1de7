"""How much a request may send. A plain ASGI wrapper, so that nothing too large is ever held."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enchanted.serve.errors import BodyTooLarge
from enchanted.serve.guard.problem import problem_of


class BodyLimit:
    """Answers 413 to a body of more than ``most`` bytes, by its announced length or, without one, by counting.

    ``paths`` have limits of their own.
    """

    def __init__(self, app: ASGIApp, most: int, paths: Mapping[str, int]) -> None:
        self._app = app
        self._most = most
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        most = self._paths.get(scope.get("path", ""), self._most)
        length = headers.get(b"content-length")
        if scope["type"] != "http" or (length is None and b"transfer-encoding" not in headers):
            await self._app(scope, receive, send)
        elif length is not None and length.isdigit():
            # The server lets nothing through beyond the announced length.
            if int(length) > most:
                await _refuse(most, scope, receive, send)
            else:
                await self._app(scope, receive, send)
        elif (messages := await _read(receive, most)) is None:
            await _refuse(most, scope, receive, send)
        else:
            await self._app(scope, _again(messages, receive), send)


async def _read(receive: Receive, most: int) -> list[Message] | None:
    """The messages of the body; None as soon as it is too long."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if size > most:
            return None
        if not message.get("more_body", False):
            return messages


async def _refuse(most: int, scope: Scope, receive: Receive, send: Send) -> None:
    answer = problem_of(BodyTooLarge(most))
    # What the client still sends is not read.
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)


def _again(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def replay() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return replay
