"""Group commit: whoever publishes while one batch commits travels in the next one.

One batch is in flight at a time. With two, the first could be refused and the second stored: a hole in a chain.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enchanted.bus.batch import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, Ack, Outgoing, has_valid_headers
from enchanted.bus.commit import Committer, DuplicateInBatch
from enchanted.bus.errors import (
    BusClosed,
    BusError,
    InvalidSubject,
    PartlyPublished,
    PayloadTooLarge,
    PublishForbidden,
    PublishOutcomeUnknown,
    PublishRefused,
)
from enchanted.bus.groups import Group, ack_at, runs, without_repeats
from enchanted.bus.link import Link
from enchanted.bus.spool import Spool
from enchanted.bus.spooling import Drain
from enchanted.bus.streams import DEAD_LETTERS_STREAM, MAX_DEAD_LETTER, MAX_MESSAGE, stream_of
from enchanted.bus.subjects import MAX_SUBJECT

_NO_SUBJECT = re.compile(r"[\s*>\x00-\x1f]|\.\.|\.$")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublisherStatistics:
    """Counts since the publisher was made."""

    messages: int = 0
    batches: int = 0
    largest_batch: int = 0
    retries: int = 0
    duplicates: int = 0
    waiting: int = 0
    """Messages queued behind the batch in flight."""
    mean_batch: float = 0.0
    """Messages per committed batch; `largest_batch` is the largest."""
    last_commit: float = 0.0
    """Seconds from sending the latest committed batch to its acknowledgement."""
    mean_commit: float = 0.0
    spool_bytes: int = 0
    """Bytes of the spool that are not in the stream yet."""


class Publisher:
    """Publishes with acknowledgement; shared by everything in a process that writes through one connection.

    With a ``spool``, unconditional messages that the bus does not acknowledge within ``spool_after`` seconds are
    written there, and the Ack says ``spooled``: durable on this disk, no sequence, invisible to readers until drained.
    From then on everything goes behind it, in order, until the spool is empty. Conditional messages are never
    spooled: they wait for the drain, and end with PublishOutcomeUnknown at their deadline. What the stream refuses
    while it is drained stays in the spool, is logged, and holds up all that follows, because it was acknowledged.

    An AgentLog and a BlobStore need sequences and read back what they wrote: give them a publisher without a spool.
    A spool is for callers that only add, such as foreign feeds and telemetry, and that handle ``Ack.spooled``.
    """

    def __init__(
        self,
        link: Link,
        *,
        retry_for: float = 75.0,
        ack_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
        spool: Spool | None = None,
        spool_after: float = 2.0,
    ) -> None:
        """``retry_for``: seconds an unknown outcome is retried; must stay well inside the duplicate window."""
        self._link = link
        self._retry_for = retry_for
        self._clock = clock
        self._committer = Committer(
            link, retry_for=retry_for, ack_timeout=ack_timeout, hurried=spool is not None, clock=clock, chance=chance
        )
        self._spool = None
        if spool is not None:
            self._spool = Drain(spool, link, self._committer, patience=spool_after, clock=clock)
        self._queue: deque[Group] = deque()
        self._in_flight: list[Group] = []
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._acknowledged = self._duplicates = 0
        self._wake = asyncio.Event()

    async def publish(self, message: Outgoing) -> Ack:
        """Publish one message; returns when the stream has stored it.

        Raises:
            StateConflict: its condition does not hold.
            PublishRefused: any other definite refusal; nothing was stored.
            PublishOutcomeUnknown: no acknowledgement within the retry time.
        """
        return (await self.publish_many([message]))[0]

    async def publish_many(self, messages: Sequence[Outgoing], *, retry_for: float | None = None) -> list[Ack]:
        """Publish messages contiguously and in order, as one atomic batch where they fit into one.

        ``retry_for`` overrides the publisher's seconds.

        Raises:
            PartlyPublished: more than fits a batch, or ids that were there already, and one was refused.
            Otherwise as `publish`.
        """
        if self._closed:
            raise BusClosed
        if not messages:
            return []
        for message in messages:
            self._check(message)
        groups = self._enqueue(messages, self._clock() + (self._retry_for if retry_for is None else retry_for))
        acks: list[Ack] = []
        for group in groups:
            try:
                # Not shielded: a caller that is cancelled cancels its outcome, and the group is stored all the same.
                acks += await group.done
            except PublishRefused as error:
                if acks:
                    raise PartlyPublished(len(acks), len(messages)) from error
                raise
            except PartlyPublished as error:
                raise PartlyPublished(len(acks) + error.stored, len(messages)) from error.__cause__
        return acks

    async def drain(self) -> None:
        """Return when the spool is empty; call it after a restart, so that what is in it need not wait for a publish.

        Raises:
            BusClosed: the publisher was closed first.
        """
        while self._spool is not None and self._spool.size:
            if self._closed:
                raise BusClosed
            self._start()
            if self._worker is not None:
                await asyncio.wait({self._worker}, timeout=0.1)

    def statistics(self) -> PublisherStatistics:
        """Counts so far."""
        counters = self._committer.counters
        return PublisherStatistics(
            messages=self._acknowledged,
            batches=counters.batches,
            largest_batch=counters.largest,
            retries=counters.retries,
            duplicates=self._duplicates,
            waiting=sum(len(group.messages) for group in self._queue),
            mean_batch=counters.messages / max(1, counters.batches),
            last_commit=counters.last_seconds,
            mean_commit=counters.seconds / max(1, counters.batches),
            spool_bytes=self._spool.size if self._spool is not None else 0,
        )

    async def close(self, *, timeout: float = 10.0) -> None:
        """Take nothing new, give what is queued ``timeout`` seconds, fail the rest with BusClosed. Idempotent."""
        self._closed = True
        self._wake.set()
        worker = self._worker
        if worker is not None and not worker.done():
            await asyncio.wait({worker}, timeout=timeout)
            worker.cancel()
            await asyncio.wait({worker})

    def _check(self, message: Outgoing) -> None:
        stream = stream_of(message.subject)
        if not stream or len(message.subject) > MAX_SUBJECT or _NO_SUBJECT.search(message.subject):
            raise InvalidSubject(message.subject)
        if not has_valid_headers(message):
            raise PublishForbidden(message.subject, "header names must be printable ASCII without separators")
        limit = MAX_DEAD_LETTER if stream == DEAD_LETTERS_STREAM else MAX_MESSAGE
        # The stream counts headers too, batch headers included.
        if message.size > min(limit, self._link.max_payload):
            raise PayloadTooLarge(message.size, min(limit, self._link.max_payload))

    def _enqueue(self, messages: Sequence[Outgoing], deadline: float) -> list[Group]:
        loop = asyncio.get_running_loop()
        groups: list[Group] = []
        for part in runs(messages):
            group = Group(part, deadline, loop.create_future(), groups[-1] if groups else None)
            groups.append(group)
        if len(groups) > 1:
            for group in groups:
                # After the first refusal, or when cancelled, the caller does not ask for the other outcomes.
                group.done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._queue.extend(groups)
        self._wake.set()
        self._start()
        return groups

    def _start(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._queue or (self._spool is not None and self._spool.size and not self._closed):
                if self._spool is not None and self._spool.size and not await self._spool.empty():
                    await self._queue_behind(self._spool)
                    continue
                if not self._queue:
                    break
                self._in_flight = self._take()
                await self._settle(self._in_flight)
                # Those just answered come back first; otherwise they would miss this batch and wait for two.
                await asyncio.sleep(0)
        finally:
            for group in [*self._in_flight, *self._queue]:
                group.fail(BusClosed())
            self._in_flight = []
            self._queue.clear()

    def _take(self) -> list[Group]:
        first = self._queue.popleft()
        groups, count, size = [first], len(first.messages), first.size
        while self._queue and not first.conditional:
            group = self._queue[0]
            count, size = count + len(group.messages), size + group.size
            if group.conditional or group.after is not None or group.stream != first.stream:
                break
            if count > MAX_BATCH_MESSAGES or size > MAX_BATCH_BYTES:
                break
            groups.append(self._queue.popleft())
        return groups

    async def _settle(self, groups: list[Group], *, unsure: bool = False) -> None:
        """Give every group its outcome. ``unsure``: some of it may be stored already."""
        while groups:
            groups, unsure = await self._try(groups, unsure=unsure), True

    async def _try(self, groups: list[Group], *, unsure: bool) -> list[Group]:
        """Send the groups as one batch until the first of their deadlines; returns those without an outcome."""
        first = groups[0]
        if first.after is not None and first.after.error is not None:
            first.fail(first.after.error)
            return []
        messages, positions = without_repeats(groups)
        deadline = self._patience(first, min(group.deadline for group in groups))
        try:
            acks = await self._committer.commit(messages, deadline, unsure=unsure)
        except (DuplicateInBatch, PublishRefused) as error:
            # Which group the refusal is about is not said, so each is asked about by itself.
            if len(groups) > 1:
                for group in groups:
                    await self._settle([group], unsure=isinstance(error, DuplicateInBatch))
            elif isinstance(error, DuplicateInBatch):
                await self._settle_duplicates(first, deadline)
            else:
                first.fail(error)
        except BusError as error:
            left = self._with_time_left(groups, error)
            again = set(left)
            await self._undelivered([group for group in groups if group not in again], error)
            return left
        else:
            for group, where in zip(groups, positions, strict=True):
                self._succeed(group, [ack_at(acks, position) for position in where])
        return []

    def _with_time_left(self, groups: list[Group], error: BusError) -> list[Group]:
        """Those whose batch ran out of another caller's time: they may be sent again without it."""
        if self._spool is not None or not isinstance(error, PublishOutcomeUnknown):
            return []
        if isinstance(error.__cause__, PublishRefused):
            # An answer, not silence: it would come again at once, until the last deadline.
            return []
        now = self._clock()
        return [group for group in groups if group.deadline > now]

    async def _settle_duplicates(self, group: Group, deadline: float) -> None:
        """One of the group's ids is in the stream: either all of it is, or what is missing goes singly, in order."""
        messages, (where,) = without_repeats([group])
        acks: list[Ack] = []
        try:
            for message in messages:
                acks += await self._committer.commit([message], deadline)
                if len(acks) == 1 and acks[0].duplicate and await self._committer.is_whole(messages, acks[0].seq):
                    acks = [Ack(seq=acks[0].seq + k, duplicate=True) for k in range(len(messages))]
                    break
        except PublishRefused as error:
            # Without an acknowledgement it is not known which of the ids is the one that is there.
            why = PublishOutcomeUnknown(len(messages), self._retry_for, str(error))
            told = PartlyPublished(len(acks), len(messages)) if acks else why
            told.__cause__ = error
            group.fail(told)
        except BusError as error:
            await self._undelivered([group], error)
        else:
            self._succeed(group, [ack_at(acks, position) for position in where])

    def _patience(self, first: Group, deadline: float) -> float:
        if self._spool is None or first.conditional:
            return deadline
        return min(deadline, self._clock() + self._spool.patience)

    async def _undelivered(self, groups: Sequence[Group], error: BusError) -> None:
        """Spool what has no outcome, or fail it."""
        for group in groups:
            if self._spool is None or group.conditional or not isinstance(error, PublishOutcomeUnknown):
                group.fail(error)
            else:
                await self._to_spool(self._spool, group)

    async def _to_spool(self, spool: Drain, group: Group) -> None:
        try:
            acks = await spool.put(group.messages)
        except BusError as error:
            group.fail(error)
        else:
            self._succeed(group, acks)

    async def _queue_behind(self, spool: Drain) -> None:
        """The bus is away: what is queued goes to the spool, up to a conditional message, which waits."""
        self._wake.clear()
        while self._queue:
            group = self._queue[0]
            if group.after is not None and group.after.error is not None:
                group.fail(group.after.error)
            elif not group.conditional:
                self._in_flight = [group]
                await self._to_spool(spool, group)
            elif self._clock() >= group.deadline:
                group.fail(PublishOutcomeUnknown(1, self._retry_for, "the spool before it is not drained"))
            else:
                break
            self._queue.popleft()
        try:
            async with asyncio.timeout(spool.pause):
                await self._wake.wait()
        except TimeoutError:
            return

    def _succeed(self, group: Group, acks: list[Ack]) -> None:
        self._acknowledged += len(acks)
        self._duplicates += sum(ack.duplicate for ack in acks)
        if not group.done.done():
            group.done.set_result(acks)
