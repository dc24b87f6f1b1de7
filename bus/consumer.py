"""Pull consumer: deliveries with acknowledgement, and a watchdog that makes it again when it falls silent."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from nats.aio.msg import Msg

from enchanted.bus.connection import Bus
from enchanted.bus.errors import ApiRefused, BusUnavailable
from enchanted.bus.frames import headers_of
from enchanted.bus.link import API, Inbox, Link
from enchanted.bus.streams import EVENTS_STREAM

_NANOSECONDS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ACK = b"+ACK"
_TERM = b"+TERM"
_PULL_ENDED = ("408", "409")
_HEARTBEAT = "100"
_MSG_ID = b"\r\nNats-Msg-Id:"
_SUBJECTS = 10_000
"""Spellings of subjects that are remembered."""
_EXPIRES = 30.0
_RECONNECT_WAIT = 10.0
_REFUSED_WAIT = 0.5
_CREATE_FAILED = 10012
_NO_FOLDER = "no such file or directory"
_RECLAIM_WAIT = 0.1
_RECLAIM_SETTLE = 0.5
"""Seconds; the server takes a tenth of one to act on a changed ack_wait."""

log = logging.getLogger(__name__)


class Delivery:
    """One message to deal with; without an acknowledgement it comes again after the consumer's ``ack_wait``."""

    # One is made for every event, so it holds what came and reads it when asked.
    __slots__ = ("head", "link", "nanoseconds", "num_delivered", "payload", "reply", "seq", "subject")

    def __init__(self, subject: str, reply: bytes, head: bytes, payload: bytes, link: Link) -> None:
        # ``$JS.ACK.…``: nine tokens, or twelve where the account has a domain.
        tokens = reply.split(b".")
        first = 4 if len(tokens) == 9 else 6
        self.num_delivered = int(tokens[first])
        """1 the first time this consumer delivers it; a consumer that was made again starts over."""
        self.seq = int(tokens[first + 1])
        self.nanoseconds = int(tokens[first + 3])
        """When the server stored it, since 1970."""
        self.subject = subject
        self.payload = payload
        self.head = head
        """The header block as it came."""
        self.reply = reply
        self.link = link

    def __repr__(self) -> str:
        return f"Delivery(seq={self.seq}, subject={self.subject!r}, num_delivered={self.num_delivered})"

    @property
    def headers(self) -> Mapping[str, str]:
        """By name; of a name that comes twice the last."""
        return dict(headers_of(self.head)) if self.head else {}

    @property
    def msg_id(self) -> bytes:
        """Its ``Nats-Msg-Id``; empty when it has none."""
        start = self.head.find(_MSG_ID)
        return self.head[start + len(_MSG_ID) : self.head.find(b"\r\n", start + 2)].strip() if start >= 0 else b""

    @property
    def time(self) -> datetime:
        """When the server stored it, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.nanoseconds // 1000)

    async def ack(self) -> None:
        """Done with it. May be lost with the connection: then it comes again."""
        await self._answer(_ACK)

    async def nak(self, delay: float) -> None:
        """Deliver it again after ``delay`` seconds."""
        await self._answer(b"-NAK " + json.dumps({"delay": int(delay * _NANOSECONDS)}).encode())

    async def term(self) -> None:
        """Never deliver it again."""
        await self._answer(_TERM)

    async def _answer(self, answer: bytes) -> None:
        try:
            await self.link.send(self.reply.decode(), answer)
        except BusUnavailable as error:
            log.debug("acknowledgement of %d: %s", self.seq, error)


class PullConsumer:
    """A durable consumer of one stream; any number of processes may share its name."""

    def __init__(
        self,
        bus: Bus,
        *,
        durable: str,
        stream: str = EVENTS_STREAM,
        filter_subject: str = "",
        batch: int = 10_000,
        max_bytes: int = 16 * 1024 * 1024,
        ack_wait: float = 60.0,
        max_ack_pending: int = 40_000,
        heartbeat: float = 2.0,
        stalled_after: float = 5.0,
    ) -> None:
        """``batch`` and ``max_bytes`` bound what is asked for and not yet taken, so they bound memory.

        Seconds: without an answer for 2.5 ``heartbeat``, or with messages waiting and none delivered for
        ``stalled_after``, the consumer is made again.
        """
        self._link = bus.link
        self._stream = stream
        self._durable = durable
        self._filter = filter_subject
        self._batch = batch
        self._max_bytes = max_bytes
        self._ack_wait = ack_wait
        self._max_ack_pending = max_ack_pending
        self._heartbeat = heartbeat
        self._stalled_after = stalled_after
        self._inbox: Inbox | None = None
        self._rebuilding: asyncio.Task[None] | None = None
        self._received: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._subjects: dict[bytes, str] = {}
        self._asked = 0
        self._last_sign = 0.0
        self._last_delivery = 0.0
        self.rebuilds = 0

    async def __aenter__(self) -> Self:
        await self._build()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop receiving; what was not acknowledged comes again to whoever consumes next. Idempotent."""
        rebuilding, self._rebuilding = self._rebuilding, None
        if rebuilding is not None:
            rebuilding.cancel()
            await asyncio.wait({rebuilding})
        await self._drop()

    async def _drop(self) -> None:
        self._received.clear()
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await self._link.close_inbox(inbox)

    async def next_batch(self, max_messages: int, max_bytes: int, timeout: float) -> list[Delivery]:
        """What is there, at once, up to both bounds (one message always fits); waits ``timeout`` seconds for a first.

        Returns an empty list when nothing came, also while the server is away.
        """
        deadline = time.monotonic() + timeout
        while True:
            deliveries = self._taken(max_messages, max_bytes)
            remaining = deadline - time.monotonic()
            if deliveries or remaining <= 0:
                return deliveries
            try:
                async with asyncio.timeout(remaining):
                    await self._wait()
            except TimeoutError:
                continue
            except BusUnavailable as error:
                log.debug("consumer %s: %s", self._durable, error)
                self._asked = 0
                await asyncio.sleep(min(0.05, remaining))
            except ApiRefused as error:
                # It, or its stream, was deleted a moment ago, and may be made again.
                log.warning("consumer %s is tried again: %s", self._durable, error)
                self._asked = 0
                await asyncio.sleep(min(_REFUSED_WAIT, remaining))

    async def ack_all(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge each; returns when the server has confirmed the last one.

        Raises:
            BusUnavailable: no confirmation; some may be delivered again.
        """
        if not deliveries:
            return
        last = deliveries[-1].reply.decode()
        if self._link.can_write:

            def encode(answer_to: str) -> bytes:
                return _encode_acks([delivery.reply for delivery in deliveries], answer_to)

            await self._link.exchange_encoded(last, len(deliveries), encode, takes_empty=True)
            return
        for delivery in deliveries[:-1]:
            await self._link.send(delivery.reply.decode(), _ACK)
        await self._link.request(last, _ACK)

    async def pending(self) -> int:
        """Messages this consumer has not delivered yet."""
        return int((await self._info())["num_pending"])

    def _taken(self, max_messages: int, max_bytes: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        received, size = self._received, 0
        while received and len(deliveries) < max_messages:
            size += len(received[0].payload)
            if deliveries and size > max_bytes:
                break
            deliveries.append(received.popleft())
        return deliveries

    async def _wait(self) -> None:
        """Wait for a message, asking for more first if nothing is asked for."""
        now = time.monotonic()
        inbox = self._inbox
        asking = self._asked > 0
        if inbox is None or inbox.lost or (asking and now - self._last_sign > 2.5 * self._heartbeat):
            await self._rebuild()
            return
        if asking and now - self._last_delivery > self._stalled_after:
            self._last_delivery = now
            if await self._is_stalled():
                await self._rebuild()
                return
        if self._received:
            return
        self._arrived.clear()
        if not asking:
            await self._pull(inbox)
        try:
            async with asyncio.timeout(self._heartbeat / 2):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def _is_stalled(self) -> bool:
        """Whether messages wait for us although we ask for them; one that holds too many unacknowledged is not."""
        try:
            info = await self._info()
        except ApiRefused:
            return True
        return bool(info["num_pending"] > 0 and info["num_ack_pending"] < self._max_ack_pending)

    async def _rebuild(self) -> None:
        # It may take longer than the caller of next_batch waits, so it goes on without one.
        if self._rebuilding is None or self._rebuilding.done():
            self.rebuilds += 1
            self._rebuilding = asyncio.create_task(self._build_again())
            self._rebuilding.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._rebuilding)

    async def _build_again(self) -> None:
        await self._drop()
        await self._link.wait_connected(_RECONNECT_WAIT)
        await self._build(again=True)

    async def _build(self, *, again: bool = False) -> None:
        await self._configure(self._ack_wait)
        # A leader that was elected a moment ago may not know yet what is unacknowledged.
        if again or (await self._info())["num_ack_pending"]:
            await self._reclaim()
        self._inbox = await self._link.open_inbox(self._on_message, self._arrived.set, self._on_frame)
        self._asked = 0
        self._last_sign = self._last_delivery = time.monotonic()

    async def _reclaim(self) -> None:
        """Have what a dead process, or a broken connection, took with it delivered again now, not after ``ack_wait``.

        Others at work under this name are given what they have not acknowledged a second time.
        """
        # A changed ack_wait makes the server look through what is unacknowledged.
        await self._configure(_RECLAIM_WAIT)
        await asyncio.sleep(_RECLAIM_SETTLE)
        await self._configure(self._ack_wait)

    async def _configure(self, ack_wait: float) -> None:
        config = {
            "durable_name": self._durable,
            "name": self._durable,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait * _NANOSECONDS),
            # An outage must never turn good events into dead letters.
            "max_deliver": -1,
            "max_ack_pending": self._max_ack_pending,
            "replay_policy": "instant",
        }
        if self._filter:
            config["filter_subjects"] = [self._filter]
        # Without an "action" an existing consumer is updated to these settings, and goes on where it was.
        request = {"stream_name": self._stream, "config": config}
        name = f"{self._stream}.{self._durable}"
        try:
            await self._link.api(f"CONSUMER.CREATE.{name}", request)
        except ApiRefused as error:
            if error.err_code != _CREATE_FAILED or _NO_FOLDER not in error.description:
                raise
            # Deleted and made again at once, it may lose its folder to the deletion, and is refused from then on.
            log.warning("consumer %s is deleted and made again: %s", self._durable, error)
            await self._link.api(f"CONSUMER.DELETE.{name}")
            await asyncio.sleep(_REFUSED_WAIT)
            await self._link.api(f"CONSUMER.CREATE.{name}", request)

    async def _pull(self, inbox: Inbox) -> None:
        request = {
            "batch": self._batch,
            "max_bytes": self._max_bytes,
            "expires": int(_EXPIRES * _NANOSECONDS),
            "idle_heartbeat": int(self._heartbeat * _NANOSECONDS),
        }
        subject = f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        await self._link.send(subject, json.dumps(request).encode(), inbox.subject)
        self._asked = self._batch
        self._last_sign = self._last_delivery = time.monotonic()

    def _on_frame(self, subject: bytes, reply: bytes, head: bytes, payload: bytes) -> None:
        self._asked -= 1
        self._last_sign = self._last_delivery = time.monotonic()
        name = self._subjects.get(subject)
        if name is None:
            if len(self._subjects) >= _SUBJECTS:
                self._subjects.clear()
            name = self._subjects[subject] = subject.decode(errors="surrogateescape")
        try:
            self._received.append(Delivery(name, reply, head, payload, self._link))
        except (ValueError, IndexError):
            log.warning("not from the stream: a message on %s with the reply subject %r", name, reply[:100])
            return
        self._arrived.set()

    def _on_message(self, message: Msg) -> None:
        if message.reply:
            head = "".join(f"\r\n{name}: {value}" for name, value in (message.headers or {}).items())
            block = f"NATS/1.0{head}\r\n\r\n".encode()
            self._on_frame(message.subject.encode(), message.reply.encode(), block, message.data)
            return
        self._last_sign = time.monotonic()
        status = (message.headers or {}).get("Status", "")
        if status == _HEARTBEAT:
            return
        self._asked = 0
        if status not in _PULL_ENDED and self._inbox is not None:
            self._inbox.lose()
        self._arrived.set()

    async def _info(self) -> dict[str, Any]:
        return await self._link.api(f"CONSUMER.INFO.{self._stream}.{self._durable}")


def _encode_acks(replies: Sequence[bytes], answer_to: str) -> bytes:
    """Acknowledgements for the wire; the server answers the last one to ``answer_to``."""
    first = b"PUB " + b" 4\r\n+ACK\r\nPUB ".join(replies)
    return first + f" {answer_to} 4\r\n+ACK\r\n".encode()
