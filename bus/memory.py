"""The in-memory twin of Bus, for tests of what stands above it; the same conformance suite holds both."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.errors import BlobMissing, InvalidSubject, MessageMissing, PayloadTooLarge, StateConflict
from enchanted.bus.fields import inflate
from enchanted.bus.reader import RawMessage, as_event
from enchanted.bus.streams import EVENTS_STREAM, MAX_MESSAGE, Durability, StreamInfo, StreamLimits, stream_of
from enchanted.bus.subjects import ALL_EVENTS, matches, run_filters
from enchanted.schemas.events import StoredEvent, SwarmEvent


class InMemoryBlobs:
    """Content by its SHA-256."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self._content[name] = data
        return name

    async def has(self, sha256: str) -> bool:
        return sha256 in self._content

    async def get(self, sha256: str) -> bytes:
        if sha256 not in self._content:
            raise BlobMissing(sha256)
        return self._content[sha256]


class InMemoryPublisher:
    """Stores at once; ids are kept for ever."""

    def __init__(self, messages: list[RawMessage], changed: asyncio.Condition) -> None:
        self._messages = messages
        self._changed = changed
        self._ids: dict[str, int] = {}

    async def publish(self, message: Outgoing) -> Ack:
        return (await self.publish_many([message]))[0]

    async def publish_many(self, messages: Sequence[Outgoing], *, retry_for: float | None = None) -> list[Ack]:
        for message in messages:
            if not stream_of(message.subject):
                raise InvalidSubject(message.subject)
            if message.size > MAX_MESSAGE:
                raise PayloadTooLarge(message.size, MAX_MESSAGE)
        async with self._changed:
            acks = [self._store(message) for message in messages]
            self._changed.notify_all()
        return acks

    def _store(self, message: Outgoing) -> Ack:
        if message.event_id in self._ids:
            return Ack(seq=self._ids[message.event_id], duplicate=True)
        if message.expected_last is not None:
            filter_ = message.expected_subject or message.subject
            last = max((m.seq for m in self._messages if matches(filter_, m.subject)), default=0)
            if last != message.expected_last:
                raise StateConflict(filter_, message.expected_last, f"it is {last}")
        seq = self._ids[message.event_id] = len(self._messages) + 1
        headers = {"Nats-Msg-Id": message.event_id, **message.headers}
        self._messages.append(
            RawMessage(
                seq=seq, time=datetime.now(UTC), subject=message.subject, payload=message.payload, headers=headers
            )
        )
        return Ack(seq=seq, duplicate=False)


class InMemoryBus:
    """A bus without a server: everything is gone with the object."""

    def __init__(self) -> None:
        self._messages: list[RawMessage] = []
        self._changed = asyncio.Condition()
        self._created = datetime.now(UTC)
        self.publisher = InMemoryPublisher(self._messages, self._changed)
        self.blobs = InMemoryBlobs()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def ensure_streams(self, limits: StreamLimits = StreamLimits()) -> None:  # noqa: B008  # frozen
        return None

    async def durability(self) -> Durability:
        return Durability(sync_always=False, detail="in memory: nothing survives the process")

    async def stream_info(self) -> StreamInfo:
        return StreamInfo(
            created=self._created,
            first_seq=min(1, len(self._messages)),
            last_seq=len(self._messages),
            messages=len(self._messages),
            bytes=sum(len(message.payload) for message in self._messages),
        )

    async def read_run(self, run_id: str, *, after: int = 0, until: int | None = None) -> list[StoredEvent]:
        filters = run_filters(run_id)
        chosen = [m for m in self._messages[after:until] if any(matches(f, m.subject) for f in filters)]
        return [event for event in map(as_event, chosen) if event is not None]

    async def inflate(self, event: SwarmEvent) -> SwarmEvent:
        return await inflate(event, self.blobs)

    async def tail(self, subject: str = ALL_EVENTS, *, after: int | None = None) -> AsyncGenerator[StoredEvent, None]:
        position = len(self._messages) if after is None else after
        while True:
            async with self._changed:
                while position >= len(self._messages):
                    await self._changed.wait()
            message = self._messages[position]
            position += 1
            event = as_event(message) if matches(subject, message.subject) else None
            if event is not None:
                yield event

    async def last_of_each(self, subject: str) -> list[StoredEvent]:
        newest = {message.subject: message for message in self._messages if matches(subject, message.subject)}
        found = [as_event(raw) for raw in newest.values()]
        return [stored for stored in found if stored is not None]

    async def get(self, seq: int) -> StoredEvent | RawMessage:
        if not 1 <= seq <= len(self._messages):
            raise MessageMissing(EVENTS_STREAM, seq)
        raw = self._messages[seq - 1]
        return as_event(raw) or raw
