"""A publisher's spool at work: filled while the bus is away, published in order when it is back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.commit import Committer
from enchanted.bus.errors import BusError, PublishRefused
from enchanted.bus.link import API, Link
from enchanted.bus.ordered import OrderedReader
from enchanted.bus.spool import Spool, SpoolUnusable
from enchanted.bus.streams import stream_of

log = logging.getLogger(__name__)

_SCAN_SUBJECTS = 50
_DRAIN_EVERY = 0.2
_DRAIN_AFTER_REFUSAL = 5.0


class Drain:
    """Puts messages into a spool, and what is in it into the streams, once."""

    def __init__(
        self,
        spool: Spool,
        link: Link,
        committer: Committer,
        *,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``patience``: seconds that the bus may take for an answer before it counts as away."""
        self._spool = spool
        self._link = link
        self._committer = committer
        self._clock = clock
        self.patience = patience
        self.pause = _DRAIN_EVERY
        """Seconds until draining is worth another try."""

    @property
    def size(self) -> int:
        """Bytes that are not in the stream yet."""
        return self._spool.size

    async def put(self, messages: list[Outgoing]) -> list[Ack]:
        """Append messages of one stream, durably.

        Raises:
            BusError: the spool is full or cannot be written.
        """
        old = self._committer.old_sequence(stream_of(messages[0].subject))
        await asyncio.to_thread(self._spool.append, messages, after=old)
        return [Ack(seq=0, duplicate=False, spooled=True) for _ in messages]

    async def empty(self) -> bool:
        """Publish what is spooled, in order, leaving out ids the stream has; whether the spool is empty now."""
        if not self._link.is_connected:
            return False
        try:
            # A server that hangs is found out here, before the reader's longer patience.
            await self._link.request(f"{API}.INFO", timeout=self.patience)
            known = await self._known()
            for record in self._spool.records():
                fresh = [m for m in record.messages if m.event_id not in known.setdefault(stream_of(m.subject), set())]
                for message in fresh:
                    if message.event_id not in known[stream_of(message.subject)]:
                        await self._committer.commit([message], self._clock() + self.patience)
                        known[stream_of(message.subject)].add(message.event_id)
                await asyncio.to_thread(self._spool.drained, record.end)
        except PublishRefused as error:
            log.error("the stream refuses an acknowledged message of the spool %s: %s", self._spool.path, error)
            self.pause = _DRAIN_AFTER_REFUSAL
            return False
        except SpoolUnusable as error:
            log.error("%s", error)
            self.pause = _DRAIN_AFTER_REFUSAL
            return False
        except BusError as error:
            self.pause = _DRAIN_EVERY
            log.debug("the spool waits: %s", error)
            return False
        return True

    async def _known(self) -> dict[str, set[str]]:
        """Ids the streams have, by stream: the duplicate window may be over since they were first sent."""
        subjects: dict[str, set[str]] = {}
        after: dict[str, int] = {}
        for record in self._spool.records():
            stream = stream_of(record.messages[0].subject)
            subjects.setdefault(stream, set()).update(message.subject for message in record.messages)
            after[stream] = min(after.get(stream, record.after), record.after)
        known: dict[str, set[str]] = {}
        for stream, names in subjects.items():
            ordered, ids = sorted(names), known.setdefault(stream, set())
            for first in range(0, len(ordered), _SCAN_SUBJECTS):
                filters = ordered[first : first + _SCAN_SUBJECTS]
                async with OrderedReader(
                    self._link, stream, filters, after=after[stream], patience=self.patience, headers_only=True
                ) as reader:
                    while (message := await reader.next(wait=False)) is not None:
                        ids.add(message.headers.get("Nats-Msg-Id", ""))
        return known
