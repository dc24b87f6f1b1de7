"""One nats-py client, connected to any of the servers that are given, or the reason why it is not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client

from enchanted.bus.refusals import Refusals
from enchanted.bus.replies import LEADER_ELECTED, Replies
from enchanted.bus.servers import Servers, another

_RECONNECT_WAIT = 0.1
_PING_INTERVAL = 2
"""Seconds; a server that hangs, or a network that is cut, is found out after the third."""
# Above this nats-py's publish waits for the socket and swallows the cancellation of our deadlines.
_PENDING_BYTES = 64 * 1024 * 1024

_CANCEL_AGAIN = 0.1

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Connection:
    """One nats-py client and what waits on it."""

    client: Client = field(default_factory=Client)
    replies: Replies = field(default_factory=lambda: Replies(""))
    server: str = ""
    """Where it is, or was, connected to."""

    async def close(self) -> None:
        """For good."""
        if not self.client.server_pool:
            return  # Never told to connect, it has nothing to close, and would say so by an assertion.
        reconnecting = await self._close()
        while reconnecting is not None and not reconnecting.done():
            await _cancelled(reconnecting)
            # It has set the client's state back, and may have connected it.
            reconnecting = await self._close()

    async def _close(self) -> asyncio.Task[None] | None:
        """As nats-py does it; returns what may go on all the same."""
        # It raises when the server went away first; the socket is gone either way.
        try:
            async with asyncio.timeout(5.0):
                await self.client.close()
        except (nats.errors.Error, OSError) as error:
            log.debug("close: %s", error)
        return self.client._reconnection_task


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel until it has ended.

    Python 3.11's wait_for, in which nats-py connects, loses a cancellation that comes at the moment in which a server
    refuses, and nats-py would go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialer:
    """Makes connections; what becomes of each is told to these three."""

    servers: Servers
    name: str
    timeout: float
    """Seconds to connect in."""
    on_disconnected: Callable[[Connection], None]
    on_reconnected: Callable[[Connection], None]
    on_closed: Callable[[Connection], None]

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            BusUnreachable: no server in time.
            BusAccessDenied: the server refuses the credentials.
            BusNotTrusted: no certificate is that of a server we trust.
        """
        refusals = Refusals(self.servers)
        give_up = time.monotonic() + self.timeout
        while refusals.urls and (remaining := give_up - time.monotonic()) > 0:
            connection = await self._try(refusals, remaining)
            if connection is not None:
                return connection
        raise refusals.error()

    async def _try(self, refusals: Refusals, timeout: float) -> Connection | None:
        """Connect one client; None when a server refused it for good, or none took it in time."""
        connection = Connection()
        refusals.changed.clear()
        connecting = asyncio.create_task(self._open(connection, refusals))
        refused = asyncio.create_task(refusals.changed.wait())
        taken = False
        try:
            await asyncio.wait({connecting, refused}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                await connecting
                taken = True
            return connection if taken else None
        finally:
            refused.cancel()
            await _cancelled(connecting)
            if not taken:
                await connection.close()

    async def _open(self, connection: Connection, refusals: Refusals) -> None:
        async def on_error(error: Exception) -> None:
            log.debug("nats: %s", str(error) or type(error).__name__)
            tried = connection.client._current_server
            refusals.note(tried.uri if tried is not None else None, error)

        async def on_disconnected() -> None:
            self.on_disconnected(connection)

        async def on_reconnected() -> None:
            connection.server = _netloc(connection.client.connected_url)
            self.on_reconnected(connection)

        async def on_closed() -> None:
            self.on_closed(connection)

        await connection.client.connect(
            refusals.urls,
            name=self.name,
            user=self.servers.user,
            password=self.servers.password,
            token=self.servers.token,
            error_cb=on_error,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            closed_cb=on_closed,
            max_reconnect_attempts=-1,
            reconnect_to_server_handler=lambda servers, _: another(servers, connection.server, _RECONNECT_WAIT),
            reconnect_time_wait=_RECONNECT_WAIT,  # type: ignore[arg-type]  # annotated int, used as seconds
            ping_interval=_PING_INTERVAL,
            connect_timeout=2,
            pending_size=_PENDING_BYTES,
        )
        connection.server = _netloc(connection.client.connected_url)
        await _take_replies(connection)


async def _take_replies(connection: Connection) -> None:
    prefix = connection.client.new_inbox()
    connection.replies = Replies(prefix)
    await connection.client.subscribe(f"{prefix}.*", cb=connection.replies.on_reply)
    await connection.client.subscribe(f"{LEADER_ELECTED}.*", cb=connection.replies.on_leader)


def _netloc(url: ParseResult | None) -> str:
    return url.netloc if url is not None else ""
