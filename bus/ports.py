"""What the rest of Enchanted needs of a bus; the real one and the in-memory twin both fit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.reader import RawMessage
from enchanted.bus.streams import Durability, StreamInfo, StreamLimits
from enchanted.bus.subjects import ALL_EVENTS
from enchanted.schemas.events import StoredEvent, SwarmEvent


class PublisherPort(Protocol):
    """Publishes with acknowledgement."""

    async def publish(self, message: Outgoing) -> Ack: ...

    async def publish_many(self, messages: Sequence[Outgoing], *, retry_for: float | None = None) -> list[Ack]: ...


class BlobPort(Protocol):
    """Content by its SHA-256."""

    async def put(self, data: bytes) -> str: ...

    async def has(self, sha256: str) -> bool: ...

    async def get(self, sha256: str) -> bytes: ...


class BusPort(Protocol):
    """The bus."""

    @property
    def publisher(self) -> PublisherPort: ...

    @property
    def blobs(self) -> BlobPort: ...

    async def ensure_streams(self, limits: StreamLimits = ...) -> None: ...

    async def durability(self) -> Durability: ...

    async def stream_info(self) -> StreamInfo: ...

    async def read_run(self, run_id: str, *, after: int = 0, until: int | None = None) -> list[StoredEvent]: ...

    async def last_of_each(self, subject: str) -> list[StoredEvent]: ...

    async def inflate(self, event: SwarmEvent) -> SwarmEvent: ...

    def tail(self, subject: str = ALL_EVENTS, *, after: int | None = None) -> AsyncGenerator[StoredEvent, None]: ...

    async def get(self, seq: int) -> StoredEvent | RawMessage: ...
