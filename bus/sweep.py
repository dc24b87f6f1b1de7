"""Which messages a stream can give back: each is asked for without payload, so its server has to read and check it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from enchanted.bus.errors import BusUnavailable
from enchanted.bus.link import API, Inbox, Link

_NANOSECONDS = 1_000_000_000
_PULL = 4_000
_WAIT = 10.0


@dataclass(slots=True)
class _Page:
    """What has come of one pull."""

    replies: list[bytes] = field(default_factory=list)
    status: str = ""
    lost: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: int = _PULL

    def take(self, _subject: bytes, reply: bytes, _headers: bytes, _payload: bytes) -> None:
        self.replies.append(reply)
        if len(self.replies) >= self.wanted:
            self.wake.set()

    def receive(self, message: Msg) -> None:
        if message.reply:
            self.take(b"", message.reply.encode(), b"", b"")
        else:
            self.status = (message.headers or {}).get("Status", "")
            self.wake.set()

    def lose(self) -> None:
        self.lost = True
        self.wake.set()


async def sweep(link: Link, stream: str, first: int, last: int) -> AsyncGenerator[list[tuple[int, int]], None]:
    """Sequence and time (nanoseconds since 1970) of each message that can be read from ``first`` to ``last``, in pages.

    The server reads a message from its file, and checks it against its checksum, before it sends even its headers; one
    that it cannot read it leaves out and says nothing.

    Raises:
        BusUnavailable: the server went away in the middle; begin anew after the last page.
    """
    name = f"sweep-{secrets.token_hex(8)}"
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first,
        "ack_policy": "none",
        "max_deliver": 1,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 30 * _NANOSECONDS,
        "headers_only": True,
    }
    request = {"stream_name": stream, "action": "create", "config": config}
    await link.api(f"CONSUMER.CREATE.{stream}.{name}", request, patience=0.0)
    page = _Page()
    inbox = await link.open_inbox(page.receive, page.lose, page.take)
    try:
        while first <= last and page.status != "404":
            page.wanted = min(_PULL, last - first + 1)
            await _pull(link, f"{API}.CONSUMER.MSG.NEXT.{stream}.{name}", inbox, page)
            there = [_place(reply) for reply in page.replies]
            page.replies.clear()
            if there:
                first = there[-1][0] + 1
            elif page.status != "404":
                raise BusUnavailable(f"sweep of {stream}", f"status {page.status or 'none'}")
            yield [place for place in there if place[0] <= last]
    finally:
        await link.close_inbox(inbox)
        await link.send(f"{API}.CONSUMER.DELETE.{stream}.{name}")


async def _pull(link: Link, subject: str, inbox: Inbox, page: _Page) -> None:
    """Ask for ``page.wanted`` messages; returns when they are there, or the server says that it has no more."""
    page.status = ""
    page.wake.clear()
    await link.send(subject, json.dumps({"batch": page.wanted, "no_wait": True}).encode(), inbox.subject)
    try:
        async with asyncio.timeout(_WAIT):
            await page.wake.wait()
    except TimeoutError as error:
        raise BusUnavailable("sweep", "no answer in time") from error
    if page.lost:
        raise BusUnavailable("sweep", "the connection broke")


def _place(reply: bytes) -> tuple[int, int]:
    # $JS.ACK.… with 9 tokens, or 11 and more where a domain is named.
    tokens = reply.split(b".")
    at = 5 if len(tokens) == 9 else 7
    return int(tokens[at]), int(tokens[at + 2])
