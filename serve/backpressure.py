"""Who sends an answer waits for a client that takes it slowly, also behind Ray Serve."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized
from itertools import count

from ray.serve._private.http_util import MessageQueue
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST = 256 << 10
"""Bytes of an answer that wait in the replica to be taken. Serve takes all of them at once, and only when the client
has what it took before: whoever reads slowly must get through so much before it counts as one that takes nothing."""
TURNS = 5
"""Of the event loop, in which Serve takes a message that somebody waits for."""
PAUSE = 0.01
"""Seconds between looks after that; Serve tells nobody that a message was taken."""


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
        sizes, held = deque[int](), 0

        async def paced(message: Message) -> None:
            nonlocal held
            sizes.append(len(message.get("body") or message.get("bytes") or message.get("text") or b""))
            held += sizes[-1]
            await send(message)
            for look in count():
                while len(sizes) > len(queue):
                    held -= sizes.popleft()
                if held <= self._most:
                    return
                await asyncio.sleep(PAUSE if look >= TURNS else 0)

        return paced


def queue_of(send: Send) -> Sized | None:
    """The messages that wait behind Ray Serve's `send`; None for another server's, which waits by itself.

    Serve has no public way to them: it is the variable that its function closes over.
    """
    held = (cell.cell_contents for cell in getattr(send, "__closure__", None) or ())
    return next((one._message_queue for one in held if isinstance(one, MessageQueue)), None)
