"""Reading the stream in order: one message, a whole run, or everything as it comes.

An ordered reader is a pull consumer without acknowledgements whose sequence is checked. Whatever goes wrong (the
server restarted, a message is missing, nothing comes) it is made again after the last message seen.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from nats.aio.msg import Msg

from enchanted.bus.errors import ApiRefused, BusClosed, BusUnavailable, StreamMadeAgain
from enchanted.bus.link import API, Inbox, Link
from enchanted.bus.streams import parse_info, parse_time
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, parse_event

_NO_CONSUMER = 10014
_NO_MESSAGE = 10037
_NOT_NOW = frozenset({10005, 10008, 10009, 10023, 10039, 10076})
"""What a server that has just started, or a cluster without a leader, answers to a request for a consumer."""
_PAGE_ENDED = ("204", "404")
_PAGE_WAIT = 5.0
_NANOSECONDS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEARTBEAT = "100"
_PULL = 512
_PULL_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RawMessage:
    """A message as the stream holds it."""

    seq: int
    time: datetime
    subject: str
    payload: bytes
    headers: Mapping[str, str]


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


def as_event(raw: RawMessage) -> StoredEvent | None:
    """Decode a message; None where protobuf rejects the bytes."""
    try:
        event = parse_event(raw.payload)
    except NotAnEvent:
        return None
    return StoredEvent(seq=raw.seq, time=raw.time, subject=raw.subject, raw=raw.payload, event=event)


async def message_at(link: Link, stream: str, query: Mapping[str, Any]) -> RawMessage | None:
    """One message from the stream's leader, by ``seq``, ``seq`` and ``next_by_subj``, or ``last_by_subj``."""
    try:
        found = (await link.api(f"STREAM.MSG.GET.{stream}", query))["message"]
    except ApiRefused as error:
        if error.err_code == _NO_MESSAGE:
            return None
        raise
    return RawMessage(
        seq=found["seq"],
        time=parse_time(found["time"]),
        subject=found["subject"],
        payload=base64.b64decode(found.get("data", "")),
        headers=_parse_headers(base64.b64decode(found.get("hdrs", ""))),
    )


async def last_of_each(link: Link, stream: str, subject: str) -> list[RawMessage]:
    """The newest message of every subject that ``subject`` (with wildcards) stands for."""
    subjects: list[str] = []
    while True:
        query = {"subjects_filter": subject, "offset": len(subjects)}
        answer = await link.api(f"STREAM.INFO.{stream}", query)
        page = (answer["state"].get("subjects") or {}).keys()
        subjects += page
        if not page or len(subjects) >= answer.get("total", 0):
            break
    found = [await message_at(link, stream, {"last_by_subj": one}) for one in subjects]
    return [message for message in found if message is not None]


def _parse_headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}


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
            "max_bytes": _PULL_BYTES,
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


async def read_range(
    link: Link, stream: str, first: int, last: int, *, batch: int = 1000, max_bytes: int = _PULL_BYTES
) -> AsyncGenerator[RawMessage, None]:
    """The messages the stream has from sequence ``first`` to ``last``, in order, without a consumer.

    At most ``batch`` messages and about ``max_bytes`` are under way at a time. Any replica may answer, so on a cluster
    a message that is left out may be one it does not have yet.

    Raises:
        BusUnavailable: the server stopped answering; ask again from the last message on.
    """
    received: asyncio.Queue[Msg | None] = asyncio.Queue()
    inbox = await link.open_inbox(received.put_nowait, lambda: received.put_nowait(None))
    try:
        while first <= last:
            request = {"seq": first, "next_by_subj": ">", "batch": min(batch, last - first + 1), "max_bytes": max_bytes}
            await link.send(f"{API}.DIRECT.GET.{stream}", json.dumps(request).encode(), inbox.subject)
            begun = first
            while (raw := await _next_direct(received, stream)) is not None:
                first = raw.seq + 1
                if raw.seq <= last:
                    yield raw
            if first == begun:
                return
    finally:
        await link.close_inbox(inbox)


async def _next_direct(received: asyncio.Queue[Msg | None], stream: str) -> RawMessage | None:
    """The next message of a page; None at its end."""
    what = f"direct get from {stream}"
    try:
        async with asyncio.timeout(_PAGE_WAIT):
            message = await received.get()
    except TimeoutError as error:
        raise BusUnavailable(what, "no answer in time") from error
    if message is None:
        raise BusUnavailable(what, "the connection broke")
    headers = message.headers or {}
    status = headers.get("Status", "")
    if status in _PAGE_ENDED:
        return None
    if status or "Nats-Sequence" not in headers:
        raise BusUnavailable(what, f"status {status} {headers.get('Description', '')}")
    return RawMessage(
        seq=int(headers["Nats-Sequence"]),
        time=parse_time(headers["Nats-Time-Stamp"]),
        subject=headers["Nats-Subject"],
        payload=message.data,
        headers=headers,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerState:
    """How far a durable consumer is."""

    acknowledged: int
    """Every message up to this sequence is acknowledged."""
    pending: int
    """Not delivered yet."""
    ack_pending: int
    """Delivered and not acknowledged."""


async def consumer_state(link: Link, stream: str, durable: str) -> ConsumerState | None:
    """Where the consumer stands; None when there is none of this name."""
    try:
        info = await link.api(f"CONSUMER.INFO.{stream}.{durable}")
    except ApiRefused as error:
        if error.err_code == _NO_CONSUMER:
            return None
        raise
    return ConsumerState(
        acknowledged=info["ack_floor"]["stream_seq"], pending=info["num_pending"], ack_pending=info["num_ack_pending"]
    )


async def holes(link: Link, stream: str) -> list[int]:
    """The sequences between the stream's first and last that it does not have, as its leader says."""
    return list((await link.api(f"STREAM.INFO.{stream}", {"deleted_details": True}))["state"].get("deleted") or ())
