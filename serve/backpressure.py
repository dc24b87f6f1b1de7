"""Who sends an answer waits for a client that takes it slowly, also behind Ray Serve."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized

from ray.serve._private.http_util import MessageQueue
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST = 4 << 20
"""Bytes of an answer that wait in the replica to be taken."""
PAUSE = 0.01
"""Seconds until it is looked again; Serve tells nobody that a message was taken."""


class Backpressure:
    """A plain ASGI wrapper. Serve's `send` returns at once and keeps everything in a queue without a bound, which would
    hold a whole export for a client that reads none of it, and no stream would ever see that its client is slow.
    """

    def __init__(self, app: ASGIApp, most: int = MOST) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        queue = queue_of(send)
        await self._app(scope, receive, send if queue is None else self._paced(send, queue))

    def _paced(self, send: Send, queue: Sized) -> Send:
        sizes = deque[int]()

        async def paced(message: Message) -> None:
            sizes.append(len(message.get("body") or message.get("bytes") or message.get("text") or b""))
            await send(message)
            while True:
                while len(sizes) > len(queue):
                    sizes.popleft()
                if sum(sizes) <= self._most:
                    return
                await asyncio.sleep(PAUSE)

        return paced


def queue_of(send: Send) -> Sized | None:
    """The messages that wait behind Ray Serve's `send`; None for another server's, which waits by itself.

    Serve has no public way to them: it is the variable that its function closes over.
    """
    held = (cell.cell_contents for cell in getattr(send, "__closure__", None) or ())
    return next((one._message_queue for one in held if isinstance(one, MessageQueue)), None)
