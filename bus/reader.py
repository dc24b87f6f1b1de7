"""Asking the stream without a consumer: one message, the last of each subject, a range, what it lacks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nats.aio.msg import Msg

from enchanted.bus.errors import ApiRefused, BusUnavailable
from enchanted.bus.link import API, Link
from enchanted.bus.streams import parse_time
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, parse_event

_NO_CONSUMER = 10014
_NO_MESSAGE = 10037
_PAGE_ENDED = ("204", "404")
_PAGE_WAIT = 5.0
PULL_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RawMessage:
    """A message as the stream holds it."""

    seq: int
    time: datetime
    subject: str
    payload: bytes
    headers: Mapping[str, str]


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


async def read_range(
    link: Link, stream: str, first: int, last: int, *, batch: int = 1000, max_bytes: int = PULL_BYTES
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
