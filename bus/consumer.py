"""Pull consumer: deliveries with acknowledgement, and a watchdog that makes it again when it falls silent."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from nats.aio.msg import Msg

from enchanted.bus.connection import Bus
from enchanted.bus.credit import Credit, Pull
from enchanted.bus.delivery import ACK, Delivery, encode_acks
from enchanted.bus.errors import ApiRefused, BusClosed, BusUnavailable
from enchanted.bus.link import API, Inbox
from enchanted.bus.streams import EVENTS_STREAM

_NANOSECONDS = 1_000_000_000
_PULL_ENDED = ("408", "409")
_TOO_SMALL = "Message Size Exceeds MaxBytes"
_HEARTBEAT = "100"
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

        More is asked for before that runs dry, whether somebody waits for it or not.

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
        self._credit = Credit(batch, max_bytes)
        self._sending: set[asyncio.Task[None]] = set()
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
        self._credit = Credit(self._batch, self._max_bytes)
        inbox, self._inbox = self._inbox, None
        for sending in self._sending:
            sending.cancel()
        if inbox is not None:
            await self._link.close_inbox(inbox)

    async def next_batch(self, max_messages: int, max_bytes: int, timeout: float) -> list[Delivery]:
        """What is there, at once, up to both bounds (one message always fits); waits ``timeout`` seconds for a first.

        Returns an empty list when nothing came, also while the server is away.
        """
        deadline = time.monotonic() + timeout
        while True:
            deliveries = self._taken(max_messages, max_bytes)
            self._refill()
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
                await asyncio.sleep(min(0.05, remaining))
            except ApiRefused as error:
                # It, or its stream, was deleted a moment ago, and may be made again.
                log.warning("consumer %s is tried again: %s", self._durable, error)
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
                return encode_acks([delivery.reply for delivery in deliveries], answer_to)

            await self._link.exchange_encoded(last, len(deliveries), encode, takes_empty=True)
            return
        for delivery in deliveries[:-1]:
            await self._link.send(delivery.reply.decode(), ACK)
        await self._link.request(last, ACK)

    async def pending(self) -> int:
        """Messages this consumer has not delivered yet."""
        return int((await self._info())["num_pending"])

    def _taken(self, max_messages: int, max_bytes: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        received, size, whole = self._received, 0, 0
        while received and len(deliveries) < max_messages:
            size += len(received[0].payload)
            if deliveries and size > max_bytes:
                break
            delivery = received.popleft()
            deliveries.append(delivery)
            whole += delivery.size
        self._credit.taken(len(deliveries), whole)
        return deliveries

    async def _wait(self) -> None:
        """Wait for a message, or for the time to look again whether any can come."""
        now = time.monotonic()
        inbox = self._inbox
        asking = self._credit.asking
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
        self._inbox = await self._link.open_inbox(self._on_message, self._arrived.set, self._on_frame, numbered=True)
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

    def _refill(self) -> None:
        """Ask for as much as there is credit for; sent by tasks, because nobody must wait for that."""
        inbox, credit = self._inbox, self._credit
        if inbox is None or inbox.lost:
            return
        if not credit.asking:
            # Nothing was to be expected until now.
            self._last_sign = self._last_delivery = time.monotonic()
        while (pull := credit.ask()) is not None:
            sending = asyncio.create_task(self._send(pull, inbox, credit))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _send(self, pull: Pull, inbox: Inbox, credit: Credit) -> None:
        request = {
            "batch": pull.messages,
            "max_bytes": pull.bytes,
            "expires": int(_EXPIRES * _NANOSECONDS),
            "idle_heartbeat": int(self._heartbeat * _NANOSECONDS),
        }
        subject = f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        try:
            await self._link.send(subject, json.dumps(request).encode(), f"{inbox.subject}.{pull.number}")
        except (BusUnavailable, BusClosed) as error:
            # The inbox is lost with the connection, and the consumer made again.
            log.debug("consumer %s: %s", self._durable, error)
            credit.ended(pull.number, pull.messages, pull.bytes)

    def _on_frame(self, subject: bytes, reply: bytes, head: bytes, payload: bytes) -> None:
        self._last_sign = self._last_delivery = time.monotonic()
        name = self._subjects.get(subject)
        if name is None:
            if len(self._subjects) >= _SUBJECTS:
                self._subjects.clear()
            name = self._subjects[subject] = subject.decode(errors="surrogateescape")
        try:
            delivery = Delivery(name, reply, head, payload, self._link)
        except (ValueError, IndexError):
            log.warning("not from the stream: a message on %s with the reply subject %r", name, reply[:100])
            return
        self._received.append(delivery)
        self._credit.arrived(delivery.size)
        self._arrived.set()

    def _on_message(self, message: Msg) -> None:
        headers = message.headers or {}
        if message.reply:
            # Never more bytes than came: the credit would take a pull for ended that is not.
            head = "".join(f"\r\n{name}:{value}" for name, value in headers.items())
            block = f"NATS/1.0{head}\r\n\r\n".encode()
            self._on_frame(message.subject.encode(), message.reply.encode(), block, message.data)
            return
        self._last_sign = time.monotonic()
        status = headers.get("Status", "")
        if status == _HEARTBEAT:
            return
        if status in _PULL_ENDED:
            self._on_end(message.subject, headers)
        elif self._inbox is not None:
            self._inbox.lose()
        self._arrived.set()

    def _on_end(self, subject: str, headers: Mapping[str, str]) -> None:
        """A pull is over: expired, filled, or too small for the next message."""
        left = (int(headers.get(f"Nats-Pending-{what}", 0)) for what in ("Messages", "Bytes"))
        too_small = headers.get("Description", "") == _TOO_SMALL
        # One that brought nothing is not asked again before somebody waits: the answer may be the same at once.
        if self._credit.ended(int(subject.rpartition(".")[2]), *left, too_small=too_small):
            self._refill()

    async def _info(self) -> dict[str, Any]:
        return await self._link.api(f"CONSUMER.INFO.{self._stream}.{self._durable}")
