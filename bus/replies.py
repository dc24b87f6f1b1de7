"""Requests of one connection that wait for their answers."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import nats.errors
from nats.aio.msg import Msg

from enchanted.bus.errors import BusUnavailable
from enchanted.bus.streams import stream_of

LEADER_ELECTED = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED"
_NO_RESPONDERS = "503"
_NOT_NOW = re.compile(rb'"err_code":\s*(10008|10009|10158|10164)\b')
"""What a cluster's node answers while there is nobody to ask, or what was asked before hangs: of a publish, that its
id, or another message on its subject, is in process."""
_SHORT = 500
"""Bytes; such an answer is no longer."""


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
        self.silent_since: float | None = None

    @property
    def silent_for(self) -> float:
        """Seconds since the first request was sent that failed after the last one that was answered."""
        return 0.0 if self.silent_since is None else time.monotonic() - self.silent_since

    async def ask(self, what: str, takes_empty: bool, send: Callable[[str], Awaitable[None]], timeout: float) -> Msg:
        """Have ``send`` send a request with the reply subject it is given; returns the answer.

        Raises:
            BusUnavailable: there is none, or nobody who could give one.
        """
        waiting, begun = self._expect(what, takes_empty), time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await send(waiting.reply)
                answer = await waiting.answer
            if len(answer.data) < _SHORT and _NOT_NOW.search(answer.data):
                raise BusUnavailable(what, str(json.loads(answer.data)["error"]["description"]))
        except TimeoutError as error:
            self._unanswered(begun)
            raise BusUnavailable(what, "no answer in time") from error
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(what, str(error)) from error
        except BusUnavailable:
            self._unanswered(begun)
            raise
        finally:
            self._forget(waiting)
        self.silent_since = None
        return answer

    async def pause(self, seconds: float, what: str) -> bool:
        """Wait; less, and True, when the stream that ``what`` is for has a new leader, or the connection breaks."""
        waiting = self._expect(what, False)
        try:
            async with asyncio.timeout(seconds):
                await waiting.answer
        except TimeoutError:
            return False
        except BusUnavailable:
            return True
        finally:
            self._forget(waiting)
        return True

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

    def _expect(self, what: str, takes_empty: bool) -> Waiting:
        reply = f"{self._prefix}.{secrets.token_hex(8)}"
        waiting = Waiting(what, reply, asyncio.get_running_loop().create_future(), takes_empty)
        self._waiting[reply] = waiting
        return waiting

    def _forget(self, waiting: Waiting) -> None:
        self._waiting.pop(waiting.reply, None)
        # The connection may break while the messages are still being written; nobody awaits the answer then.
        if not waiting.answer.cancel() and not waiting.answer.cancelled():
            waiting.answer.exception()

    def _unanswered(self, since: float) -> None:
        if self.silent_since is None:
            self.silent_since = since
