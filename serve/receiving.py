"""A short request without a body is answered without a call back to Ray Serve's proxy."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

from ray.serve._private.http_util import ASGIReceiveProxy
from starlette.types import ASGIApp, Receive, Scope, Send

Ask = Callable[[Any], Awaitable[bytes]]
LATE = 0.2
"""Seconds after which a request is worth asking whether its client has gone."""
_HAVE_BODY = frozenset({b"content-length", b"transfer-encoding"})
"""Headers without which a request of HTTP/1 has no body (RFC 9112, 6.3)."""
_NO_BODY = pickle.dumps([{"type": "http.request", "body": b"", "more_body": False}])


class LateReceive:
    """A plain ASGI wrapper. In every request Serve's replica calls the proxy actor twice or more, for the body and
    for the news that the client has gone: 2 ms of a simple read, which has no body and whose client stays.

    Serve has no setting for it. It asks when the app first waits, so what is put in its place here comes in time.
    """

    def __init__(self, app: ASGIApp, late: float = LATE) -> None:
        self._app = app
        self._late = late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Another Ray than the one we know may ask in another way: its requests take longer then.
        if isinstance(receive, ASGIReceiveProxy) and hasattr(receive, "_receive_asgi_messages") and _has_no_body(scope):
            receive._receive_asgi_messages = self._later(receive._receive_asgi_messages)
        await self._app(scope, receive, send)

    def _later(self, ask: Ask) -> Ask:
        told = False

        async def later(request: Any) -> bytes:
            nonlocal told
            if not told:
                told = True
                return _NO_BODY
            await asyncio.sleep(self._late)
            return pickle.dumps([one for one in pickle.loads(await ask(request)) if one["type"] != "http.request"])

        return later


def _has_no_body(scope: Scope) -> bool:
    return scope["type"] == "http" and not any(name in _HAVE_BODY for name, _ in scope["headers"])
