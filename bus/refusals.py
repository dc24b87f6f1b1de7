"""What servers say against a client, which of them are left to try, and when there is no use in trying further."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import ParseResult, urlsplit

from enchanted.bus.errors import BusAccessDenied, BusError, BusNotTrusted, BusUnreachable
from enchanted.bus.servers import Servers, host_and_port

_AUTHORIZATION = "authorization"


class Refusals:
    """Of one attempt to reach any of these servers, with one nats-py client or several.

    A client does not come back from a certificate that it does not trust, so the other servers need a new one.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._last = "no answer"
        self._untrusted: dict[str, str] = {}
        self._denied: BusError | None = None
        self.changed = asyncio.Event()
        """Set when one refuses us for good: to wait longer for this client has no use."""

    @property
    def urls(self) -> list[str]:
        """Of the servers left to try; none when all refused us, or one does not know our credentials."""
        if self._denied is not None:
            return []
        return [url for url in self._servers.urls if host_and_port(urlsplit(url)) not in self._untrusted]

    def note(self, server: ParseResult | None, error: Exception) -> None:
        """``server`` did not take us."""
        if isinstance(error, ssl.SSLCertVerificationError) and server is not None:
            self._untrusted[host_and_port(server)] = error.verify_message
            self.changed.set()
            return
        self._last = str(error) or type(error).__name__
        if _AUTHORIZATION in self._last.lower():
            self._denied = BusAccessDenied(self._servers.where, self._last)
            self.changed.set()

    def error(self) -> BusError:
        """To raise when no server is left, or none took us in time."""
        if self._denied is not None:
            return self._denied
        if not self.urls:
            return BusNotTrusted(self._servers.where, ", ".join(sorted(set(self._untrusted.values()))))
        untrusted = (str(BusNotTrusted(server, why)) for server, why in self._untrusted.items())
        return BusUnreachable(self._servers.where, "; ".join((self._last, *untrusted)))
