"""Requests of one connection that wait for their answers."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from nats.aio.msg import Msg

from enchanted.bus.errors import BusUnavailable
from enchanted.bus.streams import stream_of

LEADER_ELECTED = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED"
_NO_RESPONDERS = "503"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request, and its answer to come on a subject of its own."""

    what: str
    reply: str
    answer: asyncio.Future[Msg]
    takes_empty: bool

    def concerns(self, stream: str) -> bool:
        """Whether the stream's leader is to answer."""
        return stream_of(self.what) == stream or stream in self.what.split(".")


class Replies:
    """All of them; answers come to subjects below ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._waiting: dict[str, Waiting] = {}

    def expect(self, what: str, *, takes_empty: bool) -> Waiting:
        """A request that is about to be sent; give it back to `forget`."""
        reply = f"{self._prefix}.{secrets.token_hex(8)}"
        waiting = Waiting(what, reply, asyncio.get_running_loop().create_future(), takes_empty)
        self._waiting[reply] = waiting
        return waiting

    def forget(self, waiting: Waiting) -> None:
        """Nobody asks for its answer any more."""
        self._waiting.pop(waiting.reply, None)
        # The connection may break while the messages are still being written; nobody awaits the answer then.
        if not waiting.answer.cancel() and not waiting.answer.cancelled():
            waiting.answer.exception()

    async def on_reply(self, message: Msg) -> None:
        """An answer arrived."""
        waiting = self._waiting.get(message.subject)
        if waiting is None or waiting.answer.done():
            return
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            what = message.headers.get("Nats-Subject", "request")
            waiting.answer.set_exception(BusUnavailable(what, "no responders"))
        elif message.data or waiting.takes_empty:
            waiting.answer.set_result(message)

    async def on_leader(self, message: Msg) -> None:
        """A stream has a new leader: what the former one was asked may never be answered, even if it lives on."""
        stream = message.subject.rpartition(".")[2]
        for waiting in self._waiting.values():
            if waiting.concerns(stream) and not waiting.answer.done():
                waiting.answer.set_exception(BusUnavailable(waiting.what, "the stream has a new leader"))

    def fail(self, why: str) -> None:
        """No answer will come to anything."""
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(BusUnavailable("request", why))
