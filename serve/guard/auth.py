"""Who may ask: bearer token, host names, origins. A plain ASGI wrapper, so nothing is routed before it agreed."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from enchanted.serve.errors import HostRefused, OriginRefused, ServeError, Unauthorized
from enchanted.serve.guard.problem import problem_of

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OPEN_PATHS = frozenset({"/", "/cluster", "/healthz", "/api/v1/sessions"})
"""A session is opened with a code in the place of the token."""
OPEN_FOLDERS = ("/static/", "/runs/", "/traces/", "/compare/")
"""The page and its files, which hold no data; the API's own paths begin with /api and /v1."""
SOCKET_PATH = "/api/v1/live"
"""Browsers cannot send a header with a WebSocket: the token comes in its first message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What the guard lets in."""

    token: str
    hosts: frozenset[str] = frozenset(LOOPBACK_NAMES)
    """Host names, without port: rebinding changes the name, tunnels change the port."""
    origins: frozenset[str] = frozenset()
    """Origins beside the API's own."""

    def __post_init__(self) -> None:
        if not self.token:
            raise ValueError("an empty token would let everybody in; put one into the token file")

    def opens(self, token: bytes) -> bool:
        """Whether this is the token; takes as long whatever it is."""
        return hmac.compare_digest(token, self.token.encode())


def access_from(token_file: Path, *, hosts: Iterable[str], origins: Iterable[str] = ()) -> Access:
    """The guard's settings for an API that is reached by ``hosts`` beside loopback's names."""
    token = token_file.read_text(encoding="ascii").strip()
    names = frozenset({*LOOPBACK_NAMES, *(host.lower() for host in hosts)})
    return Access(token=token, hosts=names, origins=frozenset(origin.lower() for origin in origins))


class Guard:
    """Refuses what may not ask with a problem document; everything else reaches ``app``."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self.refusal(scope["path"], scope["headers"])):
            await problem_of(refusal)(scope, receive, send)
        elif scope["type"] == "websocket" and (scope["path"] != SOCKET_PATH or self.refusal("/", scope["headers"])):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def refusal(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> ServeError | None:
        """Why a request may not go on; None lets it pass."""
        host = _only(headers, b"host")
        if host is None or _host_name(host) not in self._access.hosts:
            return HostRefused()
        origin = _only(headers, b"origin")
        own = {f"http://{host}", f"https://{host}"}
        if origin is not None and origin not in own | self._access.origins:
            return OriginRefused()
        if path not in OPEN_PATHS and not path.startswith(OPEN_FOLDERS) and not self._authorized(headers):
            return Unauthorized()
        return None

    def _authorized(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        values = [value for name, value in headers if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, token = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and self._access.opens(token.strip())


def _only(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The value of a header; None when absent, an impossible one when it came twice."""
    values = [value.decode("latin-1").lower() for key, value in headers if key == name]
    if not values:
        return None
    return values[0] if len(values) == 1 else "\0"


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
