"""The connection under a Bus: requests with deadlines, inboxes, and a client that is replaced when nats-py gives up.

nats-py reconnects by itself, except when the server answers with an error line: then it closes for good. A request
whose connection breaks fails at once here instead of waiting for its timeout.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from enchanted.bus import frames
from enchanted.bus.dialing import Connection, Dialer
from enchanted.bus.errors import (
    ApiRefused,
    BusAccessDenied,
    BusClosed,
    BusNotTrusted,
    BusUnavailable,
    BusUnreachable,
)
from enchanted.bus.servers import parse_servers

API = "$JS.API"
_SWITCH_AFTER = 10.0
"""Seconds a cluster's node answers no request before another is tried: longer than an election (4 to 9 s)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to send; ``answered`` ones carry the reply subject of their exchange."""

    subject: str
    payload: bytes
    headers: dict[str, str] | None = None
    answered: bool = True


class Inbox:
    """A subject of our own; ``lost`` is set when the connection it lived on broke."""

    def __init__(self, subject: str, receive: Callable[[Msg], None], wake: Callable[[], None]) -> None:
        self.subject = subject
        self.lost = False
        self.subscription: Subscription | None = None
        self.reader: frames.FrameReader | None = None
        self._receive = receive
        self._wake = wake

    async def on_message(self, message: Msg) -> None:
        self._receive(message)

    def lose(self) -> None:
        """Tell the owner that what it asked for on this inbox will not come."""
        self.lost = True
        self._wake()


class Link:
    """Keeps one connection to the server, or to one of a cluster's, alive until closed.

    ``url`` may name several servers, with commas between them.
    """

    def __init__(self, url: str, *, name: str, connect_timeout: float = 10.0, request_timeout: float = 5.0) -> None:
        servers = parse_servers(url)
        self.where = servers.where
        self._dialer = Dialer(
            servers=servers,
            name=name,
            timeout=connect_timeout,
            on_disconnected=self._on_disconnected,
            on_reconnected=self._on_reconnected,
            on_closed=self._on_closed,
        )
        self._request_timeout = request_timeout
        self._connection = Connection()
        self._inboxes: set[Inbox] = set()
        self._connected = asyncio.Event()
        self._reopening: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect.

        Raises:
            BusUnreachable: no server within the connect timeout.
            BusAccessDenied: the server refuses the credentials.
            BusNotTrusted: no certificate is that of a server we trust.
        """
        self._connection = await self._dialer.connect()
        self._connected.set()

    async def close(self) -> None:
        """Close the connection; what waits fails with BusUnavailable. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.wait({self._reopening})
        self._connection.replies.fail("closed")
        for inbox in list(self._inboxes):
            inbox.lose()
        await self._connection.close()

    @property
    def max_payload(self) -> int:
        """Bytes of headers and payload together the server takes."""
        return self._connection.client.max_payload

    @property
    def is_connected(self) -> bool:
        """Whether a request would be sent now."""
        return self._connected.is_set()

    @property
    def server(self) -> str:
        """Host and port of the server it is, or was, connected to."""
        return self._connection.server

    async def leave(self) -> None:
        """Connect to another server, if there is one."""
        client = self._connection.client
        if client.is_connected and len(client.server_pool) > 1:
            self._connected.clear()
            await client.force_reconnect()

    async def wait_connected(self, timeout: float) -> None:
        """Return once connected.

        Raises:
            BusUnavailable: not within ``timeout`` seconds.
            BusClosed: the bus is closed.
        """
        if self._closed:
            raise BusClosed
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError as error:
            raise BusUnavailable(f"no connection to {self.where}", f"waited {timeout:.1f} s") from error

    async def request(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None, timeout: float | None = None
    ) -> Msg:
        """Send one message and return the answer to it.

        Raises:
            BusUnavailable: no answer, no one there to answer, or the connection broke.
        """
        return await self.exchange([Frame(subject, payload, headers)], timeout=timeout)

    async def exchange(self, frames: Sequence[Frame], *, timeout: float | None = None) -> Msg:
        """Send messages back to back; return the first answer to any of them.

        Of several messages an empty answer is passed over: it says only that a batch's first message was taken.

        Raises:
            BusUnavailable: no answer, no one there to answer, or the connection broke.
        """

        async def send(client: Client, reply: str) -> None:
            for frame in frames:
                await client.publish(
                    frame.subject, frame.payload, reply=reply if frame.answered else "", headers=frame.headers
                )

        return await self._exchange(frames[0].subject, len(frames) == 1, send, timeout)

    @property
    def can_write(self) -> bool:
        """Whether `exchange_encoded` works with the nats-py that is installed; if not, use `exchange`."""
        return frames.CAN_WRITE

    async def exchange_encoded(
        self,
        what: str,
        count: int,
        encode: Callable[[str], bytes],
        *,
        takes_empty: bool = False,
        timeout: float | None = None,
    ) -> Msg:
        """As `exchange`, with ``count`` messages that ``encode`` spells for the wire, given the reply subject.

        ``takes_empty``: an empty answer counts although there are several messages; only one of them asks for one.

        The caller has checked subjects, header names and sizes: the server closes a connection that breaks its rules.
        """

        async def send(client: Client, reply: str) -> None:
            await frames.write(client, encode(reply), count)

        return await self._exchange(what, takes_empty or count == 1, send, timeout)

    async def _exchange(
        self, what: str, takes_empty: bool, send: Callable[[Client, str], Awaitable[None]], timeout: float | None
    ) -> Msg:
        if self._closed:
            raise BusClosed
        if not self._connected.is_set():
            raise BusUnavailable(what, "not connected")
        connection = self._connection
        send_to = partial(send, connection.client)
        try:
            return await connection.replies.ask(what, takes_empty, send_to, timeout or self._request_timeout)
        except BusUnavailable:
            # A cluster's node that is cut off from the others takes clients, and answers nothing.
            if connection.replies.silent_for > _SWITCH_AFTER:
                log.warning("%s has answered nothing for %.0f s", connection.server, _SWITCH_AFTER)
                connection.replies.silent_since = None
                await self.leave()
            raise

    async def pause(self, seconds: float, what: str) -> bool:
        """Wait before ``what`` is tried again; less, and True, when its stream has a new leader meanwhile."""
        return await self._connection.replies.pause(seconds, what)

    async def api(
        self, subject: str, body: Mapping[str, Any] | None = None, *, patience: float = 30.0
    ) -> dict[str, Any]:
        """One request to JetStream's JSON interface, below ``$JS.API.``; repeated for ``patience`` seconds.

        For requests that may be repeated, which all of ours are.

        Raises:
            ApiRefused: JetStream answered with an error.
            BusUnavailable: it did not answer.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        give_up = time.monotonic() + patience
        while True:
            try:
                answer = await self.request(f"{API}.{subject}", payload)
                break
            except BusUnavailable:
                remaining = give_up - time.monotonic()
                if remaining <= 0:
                    raise
                await asyncio.sleep(min(0.05, remaining))
                await self.wait_connected(remaining)
        response: dict[str, Any] = json.loads(answer.data)
        if "error" in response:
            raise ApiRefused(subject, response["error"])
        return response

    async def send(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        """Send one message without waiting for an answer.

        Raises:
            BusUnavailable: the connection is down.
        """
        await self.publish(Frame(subject, payload), reply=reply)

    async def publish(self, frame: Frame, *, reply: str = "") -> None:
        """Send one message with its headers; otherwise as `send`."""
        if self._closed:
            raise BusClosed
        if not self._connected.is_set():
            raise BusUnavailable(frame.subject, "not connected")
        try:
            await self._connection.client.publish(frame.subject, frame.payload, reply=reply, headers=frame.headers)
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(frame.subject, str(error)) from error

    async def open_inbox(
        self,
        receive: Callable[[Msg], None],
        wake: Callable[[], None],
        take: frames.Take | None = None,
        *,
        numbered: bool = False,
    ) -> Inbox:
        """Subscribe to a new subject: ``receive`` gets each message, ``wake`` is called when the connection broke.

        With ``take``, and a nats-py that lets us, messages with a reply subject go there as they came instead.
        ``numbered``: what is sent to the subject with one token more, not to the subject itself.
        """
        client = self._connection.client
        inbox = Inbox(client.new_inbox(), receive, wake)
        try:
            inbox.subscription = await client.subscribe(
                f"{inbox.subject}.*" if numbered else inbox.subject, cb=inbox.on_message
            )
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable("subscribe", str(error)) from error
        if take is not None and frames.CAN_READ:
            inbox.reader = frames.reader_of(client)
            inbox.reader.take(inbox.subscription._id, take)
        self._inboxes.add(inbox)
        return inbox

    async def close_inbox(self, inbox: Inbox) -> None:
        """Unsubscribe. Idempotent."""
        self._inboxes.discard(inbox)
        subscription, inbox.subscription = inbox.subscription, None
        if subscription is None:
            return
        if inbox.reader is not None:
            inbox.reader.leave(subscription._id)
        try:
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            log.debug("inbox of a lost connection: %s", error)

    def _on_disconnected(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        self._connected.clear()
        connection.replies.fail("the connection broke")
        for inbox in list(self._inboxes):
            inbox.lose()

    def _on_reconnected(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connected.set()

    def _on_closed(self, connection: Connection) -> None:
        if connection is self._connection and not self._closed:
            self._on_disconnected(connection)
            self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        while not self._closed:
            try:
                self._connection = await self._dialer.connect()
            except (BusUnreachable, BusAccessDenied, BusNotTrusted) as error:
                log.warning("%s", error)
                await asyncio.sleep(1.0)
            else:
                self._connected.set()
                return
