"""Reading the stream in order: a whole run, or everything as it comes.

An ordered reader is a pull consumer without acknowledgements whose sequence is checked. Whatever goes wrong (the
server restarted, a message is missing, nothing comes) it is made again after the last message seen.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from nats.aio.msg import Msg

from enchanted.bus.errors import ApiRefused, BusClosed, BusUnavailable, StreamMadeAgain
from enchanted.bus.link import API, Inbox, Link
from enchanted.bus.reader import PULL_BYTES, RawMessage, message_at
from enchanted.bus.streams import parse_info

_NOT_NOW = frozenset({10005, 10008, 10009, 10023, 10039, 10076})
"""What a server that has just started, or a cluster without a leader, answers to a request for a consumer."""
_NANOSECONDS = 1_000_000_000
_HEARTBEAT = "100"
_PULL = 512
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Position:
    """What the reply subject of a delivered message says: ``$JS.ACK.…``."""

    num_delivered: int
    stream_seq: int
    consumer_seq: int
    time: datetime
    num_pending: int


def parse_position(reply: str) -> Position:
    """Read the reply subject, in the form with a domain (12 tokens) or without (9)."""
    tokens = reply.split(".")
    delivered, stream_seq, consumer_seq, nanoseconds, pending = tokens[4:9] if len(tokens) == 9 else tokens[6:11]
    return Position(
        int(delivered),
        int(stream_seq),
        int(consumer_seq),
        _EPOCH + timedelta(microseconds=int(nanoseconds) // 1000),
        int(pending),
    )


class OrderedReader:
    """Messages of a stream that match the filters, each once, in order, from a sequence on."""

    def __init__(
        self,
        link: Link,
        stream: str,
        filters: Sequence[str],
        *,
        after: int,
        heartbeat: float = 1.0,
        patience: float = 60.0,
        headers_only: bool = False,
        one_stream: bool = False,
        created: datetime | None = None,
    ) -> None:
        """Both in seconds. After 2.5 heartbeats without a sign of life the consumer is made again, for ``patience``.

        ``headers_only``: messages come without their payload. ``one_stream``: another one of the same name is refused,
        which is any but that of the time ``created``, or of that at opening.
        """
        self._link = link
        self._stream = stream
        self._filters = list(filters)
        self._heartbeat = heartbeat
        self._patience = patience
        self._headers_only = headers_only
        self._one_stream = one_stream
        self._stream_created = created
        self._last = after
        self._inbox: Inbox | None = None
        self._name = ""
        self._received: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._consumer_seq = 0
        self._quota = 0
        self._pending = 0
        self._clustered = False
        self._last_there: int | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Make the consumer; waits for a server that restarts.

        Raises:
            BusUnavailable: the server did not come back within the reader's patience.
            ApiRefused: it makes no consumer, or would not within that time.
            StreamMadeAgain: another stream has the name now.
        """
        give_up = time.monotonic() + self._patience
        while True:
            try:
                await self._link.wait_connected(max(0.0, give_up - time.monotonic()))
                await self._create()
                await self._require_same()
                return
            except StreamMadeAgain:
                await self.close()
                raise
            except (BusUnavailable, ApiRefused) as error:
                await self.close()
                refused = isinstance(error, ApiRefused) and error.err_code not in _NOT_NOW
                if refused or time.monotonic() >= give_up:
                    raise
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Remove the consumer. Idempotent."""
        name, self._name = self._name, ""
        await self._drop()
        if name:
            try:
                await self._link.send(f"{API}.CONSUMER.DELETE.{self._stream}.{name}")
            except (BusUnavailable, BusClosed):
                return  # it lives in the server's memory and expires by itself

    async def next(self, *, wait: bool) -> RawMessage | None:
        """The next message, waiting for one to be stored; without ``wait`` None after all that was there at opening."""
        while wait or self._pending or await self._is_behind():
            if not self._received:
                await self._refill()
                continue
            message = self._received.popleft()
            if not message.reply:
                await self._on_status((message.headers or {}).get("Status", ""))
                continue
            position = parse_position(message.reply)
            if position.consumer_seq != self._consumer_seq + 1:
                await self._again()
                continue
            self._consumer_seq, self._last = position.consumer_seq, position.stream_seq
            self._quota -= 1
            self._pending = position.num_pending
            return RawMessage(
                seq=position.stream_seq,
                time=position.time,
                subject=message.subject,
                payload=message.data,
                headers=message.headers or {},
            )
        return None

    async def _is_behind(self) -> bool:
        """Whether the replica that is read lacks messages the stream's leader had when this was first asked."""
        if not self._clustered:
            return False
        if self._last_there is None:
            info = await self._link.api(f"STREAM.INFO.{self._stream}", patience=self._patience)
            self._last_there = int(info["state"]["last_seq"])
        if self._last >= self._last_there:
            return False
        queries = [{"seq": self._last + 1, "next_by_subj": one} for one in self._filters]
        found = [await message_at(self._link, self._stream, query) for query in queries]
        return any(message is not None and message.seq <= self._last_there for message in found)

    async def _on_status(self, status: str) -> None:
        # 408 and 409: this pull is over. Anything else, "no responders" above all: the consumer is gone.
        if status in ("408", "409"):
            self._quota = 0
        elif status != _HEARTBEAT:
            await self._again()
        elif self._pending and await self._at_end():
            # The server counts messages that it cannot read among those that are to come.
            self._pending = 0

    async def _at_end(self) -> bool:
        for subject in self._filters:
            query = {"seq": self._last + 1, "next_by_subj": subject}
            if await message_at(self._link, self._stream, query) is not None:
                return False
        return True

    async def _refill(self) -> None:
        """Wait for something to arrive, asking for more first if nothing is asked for."""
        inbox = self._inbox
        if inbox is None or inbox.lost:
            await self._again()
            return
        self._arrived.clear()
        if self._quota <= 0:
            try:
                await self._pull(inbox)
            except BusUnavailable:
                await self._again()
                return
        try:
            async with asyncio.timeout(2.5 * self._heartbeat):
                await self._arrived.wait()
        except TimeoutError:
            await self._again()

    async def _again(self) -> None:
        await self._drop()
        await asyncio.sleep(0.02)
        await self.open()

    async def _drop(self) -> None:
        self._received.clear()
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await self._link.close_inbox(inbox)

    async def _create(self) -> None:
        name = f"read-{secrets.token_hex(8)}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 30 * _NANOSECONDS,
            "filter_subjects": self._filters,
            "headers_only": self._headers_only,
        }
        request = {"stream_name": self._stream, "action": "create", "config": config}
        created = await self._link.api(f"CONSUMER.CREATE.{self._stream}.{name}", request, patience=0.0)
        self._name, self._consumer_seq, self._quota = name, 0, 0
        self._pending = created["num_pending"]
        self._clustered = "cluster" in created
        self._inbox = await self._link.open_inbox(self._on_message, self._arrived.set)

    async def _require_same(self) -> None:
        if not self._one_stream:
            return
        info = parse_info(await self._link.api(f"STREAM.INFO.{self._stream}", patience=0.0))
        self._stream_created = self._stream_created or info.created
        # One that was brought back from a copy has the old time and fewer messages.
        if info.created != self._stream_created or info.last_seq < self._last:
            raise StreamMadeAgain(self._stream, self._last)

    async def _pull(self, inbox: Inbox) -> None:
        request = {
            "batch": _PULL,
            "max_bytes": PULL_BYTES,
            "expires": 30 * _NANOSECONDS,
            "idle_heartbeat": int(self._heartbeat * _NANOSECONDS),
        }
        await self._link.send(
            f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", json.dumps(request).encode(), inbox.subject
        )
        self._quota = _PULL

    def _on_message(self, message: Msg) -> None:
        self._received.append(message)
        self._arrived.set()


async def read_all(
    link: Link, stream: str, filters: Sequence[str], *, after: int = 0, until: int | None = None
) -> list[RawMessage]:
    """Every message that matches the filters now, in order, up to sequence ``until``."""
    messages: list[RawMessage] = []
    async with OrderedReader(link, stream, filters, after=after) as reader:
        while (message := await reader.next(wait=False)) is not None and (until is None or message.seq <= until):
            messages.append(message)
    return messages
