"""Bus: one connection to NATS with everything Enchanted does through it."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from enchanted.bus.blobs import BlobStore
from enchanted.bus.errors import BusAccessDenied, BusNotTrusted, BusUnavailable, BusUnreachable, MessageMissing
from enchanted.bus.fields import inflate
from enchanted.bus.link import Link
from enchanted.bus.ordered import OrderedReader, read_all
from enchanted.bus.publisher import Publisher
from enchanted.bus.reader import RawMessage, as_event, last_of_each, message_at
from enchanted.bus.streams import EVENTS_STREAM, Durability, StreamInfo, StreamLimits, ensure, parse_info
from enchanted.bus.subjects import ALL_EVENTS, run_filters
from enchanted.schemas.events import StoredEvent, SwarmEvent

_SETTINGS = "$SYS.REQ.SERVER.PING.JSZ"


class Bus:
    """Open it with ``async with Bus.connect(url) as bus``; everything in one process may share one."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        sys_url: str | None = None,
        connect_timeout: float = 10.0,
        ack_timeout: float = 5.0,
        retry_for: float = 75.0,
    ) -> None:
        self.link = Link(url, name=name, connect_timeout=connect_timeout)
        self.publisher = Publisher(self.link, ack_timeout=ack_timeout, retry_for=retry_for)
        self.blobs = BlobStore(self.link, self.publisher)
        self._sys_url = sys_url

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        name: str = "enchanted",
        sys_url: str | None = None,
        connect_timeout: float = 10.0,
        ack_timeout: float = 5.0,
        retry_for: float = 75.0,
    ) -> Self:
        """A bus that connects when it is entered.

        ``url`` carries the credentials: ``nats://user:password@host:port``; ``tls://`` insists on TLS. A certificate
        is checked against the system's authorities, or those in the file ``SSL_CERT_FILE``. ``sys_url`` is the same
        server as a user of its system account; without it the server's sync setting cannot be read. Times in seconds:
        for the first connection, for one acknowledgement, and for repeating a publish that is not acknowledged.
        """
        return cls(
            url,
            name=name,
            sys_url=sys_url,
            connect_timeout=connect_timeout,
            ack_timeout=ack_timeout,
            retry_for=retry_for,
        )

    async def open(self) -> Self:
        """Connect.

        Raises:
            BusUnreachable: no server answers.
            BusAccessDenied: the server refuses the credentials.
            BusNotTrusted: its certificate is not that of a server we trust.
        """
        await self.link.open()
        return self

    async def close(self) -> None:
        """Publish what is queued (at most 10 s), then close. Idempotent."""
        await self.publisher.close()
        await self.link.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ensure_streams(self, limits: StreamLimits = StreamLimits()) -> None:  # noqa: B008  # frozen
        """Create the streams and the blob bucket where they are missing.

        Raises:
            StreamDiffers: one exists with other settings; it is never altered.
        """
        await ensure(self.link, limits)

    async def durability(self) -> Durability:
        """What the server says about its own settings."""
        if self._sys_url is None:
            return Durability(sync_always=None, detail="not verified: no system account to ask")
        system = Link(self._sys_url, name="enchanted-settings", connect_timeout=5.0)
        try:
            await system.open()
            answer = json.loads((await system.request(_SETTINGS, b"{}")).data)
        except (BusUnavailable, BusUnreachable, BusAccessDenied, BusNotTrusted) as error:
            return Durability(sync_always=None, detail=f"not verified: {error}")
        finally:
            await system.close()
        return read_durability(answer)

    async def stream_info(self) -> StreamInfo:
        """What the events stream holds."""
        return parse_info(await self.link.api(f"STREAM.INFO.{EVENTS_STREAM}"))

    async def read_run(self, run_id: str, *, after: int = 0, until: int | None = None) -> list[StoredEvent]:
        """Every event of the run after sequence ``after``, up to ``until``, in stream order; blobs are not inflated.

        Events of producers that do not put the run into the subject are found through the table only.
        """
        messages = await read_all(self.link, EVENTS_STREAM, run_filters(run_id), after=after, until=until)
        return [event for event in map(as_event, messages) if event is not None]

    async def last_of_each(self, subject: str) -> list[StoredEvent]:
        """The newest event of every subject that ``subject`` (with wildcards) stands for."""
        found = [as_event(raw) for raw in await last_of_each(self.link, EVENTS_STREAM, subject)]
        return [stored for stored in found if stored is not None]

    async def inflate(self, event: SwarmEvent) -> SwarmEvent:
        """A copy with the fields that were moved to the blob store put back.

        Raises:
            BlobMissing, BlobCorrupt, BlobUnfit: a field's content is gone, not what was stored, or not of this event.
        """
        return await inflate(event, self.blobs)

    async def tail(
        self, subject: str = ALL_EVENTS, *, after: int | None = None, created: datetime | None = None
    ) -> AsyncGenerator[StoredEvent, None]:
        """Events in order from sequence ``after`` + 1, or those stored from now on; goes on over reconnects.

        "Now" is when the first event is asked for. Bytes that are no event are left out. ``created``: of the stream
        that ``after`` is a sequence of; the present one by default.

        Raises:
            StreamMadeAgain: it was deleted, and another one has its name or has not come so far.
        """
        if after is None:
            info = await self.stream_info()
            after, created = info.last_seq, info.created
        async with OrderedReader(
            self.link, EVENTS_STREAM, [subject], after=after, patience=math.inf, one_stream=True, created=created
        ) as reader:
            while (message := await reader.next(wait=True)) is not None:
                event = as_event(message)
                if event is not None:
                    yield event

    async def get(self, seq: int) -> StoredEvent | RawMessage:
        """One message of the events stream; raw if its bytes are no event.

        Raises:
            MessageMissing: the stream has none with this sequence.
        """
        raw = await message_at(self.link, EVENTS_STREAM, {"seq": seq})
        if raw is None:
            raise MessageMissing(EVENTS_STREAM, seq)
        return as_event(raw) or raw


def read_durability(answer: Mapping[str, Any]) -> Durability:
    """Read the server's answer about its JetStream settings."""
    config = answer.get("data", {}).get("config")
    if config is None:
        return Durability(sync_always=None, detail="not verified: the server runs no JetStream")
    # The server leaves the field out where it is false.
    if config.get("sync_always", False):
        return Durability(sync_always=True, detail="every acknowledgement follows an fsync")
    seconds = config.get("sync_interval", 0) / 1e9
    return Durability(
        sync_always=False,
        detail=f"a power cut loses up to {seconds:.0f} s of acknowledged events; set sync_interval: always",
    )
