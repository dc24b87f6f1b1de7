"""How often one client may ask. A plain ASGI wrapper around the guard, so that guessing tokens is slow too."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from enchanted.serve.errors import RateLimited
from enchanted.serve.guard.problem import problem_of

MOST_CLIENTS = 10_000
"""Clients whose buckets are kept; beyond that, whoever has not asked for longest begins with a full one."""
_OF_ONE_SITE = 64
"""Bits of an IPv6 address that name a site: whoever has one has all the addresses in it."""
TRY_AGAIN = 1013
"""Close code of a WebSocket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What one client may ask for; clients on this machine are not counted."""

    per_second: float = 50.0
    """In the long run; 0 is no limit."""
    burst: int = 200
    """At once."""


class Buckets:
    """A bucket of tokens for each client, as the time at which it will be full again."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, client: str) -> float:
        """Take a token: 0, or else the seconds until there is one."""
        now, one = self._clock(), 1 / self._rate.per_second
        full_at = max(now, self._full_at.get(client, now))
        missing = full_at + one - now - self._rate.burst * one
        # Less than a thousandth of a token is rounding.
        if missing > one / 1_000:
            return missing
        self._full_at[client] = full_at + one
        self._full_at.move_to_end(client)
        if len(self._full_at) > MOST_CLIENTS:
            self._full_at.popitem(last=False)
        return 0.0


class RateLimit:
    """Answers 429 with Retry-After to a client that asks too often; everything else reaches ``app``."""

    def __init__(self, app: ASGIApp, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._buckets = Buckets(rate, clock) if rate.per_second else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._buckets is None or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        client = client_of(scope)
        wait = self._buckets.wait(client) if client is not None else 0.0
        if not wait:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": TRY_AGAIN})
        else:
            await problem_of(RateLimited(wait))(scope, receive, send)


def client_of(scope: Scope) -> str | None:
    """Whom a request counts for; None for one from this machine. Those that cannot be told apart are one client."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return None
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _OF_ONE_SITE), strict=False))
    return str(address)
