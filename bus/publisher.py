"""Group commit: whoever publishes while one batch commits travels in the next one.

One batch is in flight at a time. With two, the first could be refused and the second stored: a hole in a chain.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from enchanted.bus.batch import (
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    Ack,
    Outgoing,
    batch_acks,
    batch_frames,
    encode_batch,
    has_valid_headers,
    single_frame,
)
from enchanted.bus.errors import (
    ApiRefused,
    BusClosed,
    BusError,
    BusUnavailable,
    InvalidSubject,
    PartlyPublished,
    PayloadTooLarge,
    PublishForbidden,
    PublishOutcomeUnknown,
    PublishRefused,
    StateConflict,
    StreamFull,
    StreamMissing,
)
from enchanted.bus.groups import Group, ack_at, runs, without_repeats
from enchanted.bus.link import API, Link
from enchanted.bus.reader import OrderedReader, RawMessage, message_at
from enchanted.bus.spool import Spool, SpoolUnusable
from enchanted.bus.streams import DEAD_LETTERS_STREAM, MAX_DEAD_LETTER, MAX_MESSAGE, stream_of
from enchanted.bus.subjects import MAX_SUBJECT

_DUPLICATE_IN_BATCH = 10201
_WRONG_LAST_SEQUENCE = 10071
_RETRY_CODES = frozenset({10008, 10009, 10118, 10158, 10163, 10164, 10167, 10176, 10210})
"""JetStream not ready, no leader, stream offline, id in process, condition not known yet, another message on the
condition's subject in process (only a cluster says these three), too many requests, batch incomplete (its head was
lost), too many open batches."""
_FULL_CODES = frozenset({10002, 10023, 10028, 10047, 10077})
_TOO_LARGE_CODES = frozenset({10054, 10097})

_NO_SUBJECT = re.compile(r"[\s*>\x00-\x1f]|\.\.|\.$")

log = logging.getLogger(__name__)

_SCAN_SUBJECTS = 50
_FIRST_BACKOFF = 0.02
_MAX_BACKOFF = 2.0
_DRAIN_EVERY = 0.2
_DRAIN_AFTER_REFUSAL = 5.0
_MARK_EVERY = 300.0
"""Seconds; longer than the duplicate window, so an id the window still knew when it was spooled is looked up."""
_SHORTEST_ATTEMPT = 0.2
_MISSING_AFTER = 2.0
"""Seconds of "no responders" before a stream that JetStream does not know counts as missing."""


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


@dataclass(slots=True)
class _Counters:
    messages: int = 0
    batches: int = 0
    largest_batch: int = 0
    retries: int = 0
    duplicates: int = 0
    batched: int = 0
    last_commit: float = 0.0
    commit_seconds: float = 0.0


@dataclass(slots=True)
class _Mark:
    """A sequence the stream had at least `_MARK_EVERY` seconds ago; 0 until that is known."""

    old: int = 0
    new: int = 0
    at: float | None = None

    def note(self, seq: int, now: float) -> None:
        if self.at is None or now - self.at >= _MARK_EVERY:
            self.old, self.new, self.at = self.new, max(self.new, seq), now


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
        self._ack_timeout = ack_timeout
        self._clock = clock
        self._chance = chance or random.Random()
        self._queue: deque[Group] = deque()
        self._in_flight: list[Group] = []
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._counters = _Counters()
        self._spool = spool
        self._spool_after = spool_after
        self._marks: dict[str, _Mark] = {}
        self._pause = _DRAIN_EVERY
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
        counters = self._counters
        return PublisherStatistics(
            messages=counters.messages,
            batches=counters.batches,
            largest_batch=counters.largest_batch,
            retries=counters.retries,
            duplicates=counters.duplicates,
            waiting=sum(len(group.messages) for group in self._queue),
            mean_batch=counters.batched / max(1, counters.batches),
            last_commit=counters.last_commit,
            mean_commit=counters.commit_seconds / max(1, counters.batches),
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
                if self._spool is not None and self._spool.size and not await self._drain(self._spool):
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
        first = groups[0]
        if first.after is not None and first.after.error is not None:
            first.fail(first.after.error)
            return
        messages, positions = without_repeats(groups)
        deadline = self._patience(first, min(group.deadline for group in groups))
        try:
            acks = await self._commit(messages, deadline, unsure=unsure)
        except (_DuplicateInBatch, PublishRefused) as error:
            # Which group the refusal is about is not said, so each is asked about by itself.
            if len(groups) > 1:
                for group in groups:
                    await self._settle([group], unsure=isinstance(error, _DuplicateInBatch))
            elif isinstance(error, _DuplicateInBatch):
                await self._settle_duplicates(first, deadline)
            else:
                first.fail(error)
        except BusError as error:
            await self._undelivered(groups, error)
        else:
            for group, where in zip(groups, positions, strict=True):
                self._succeed(group, [ack_at(acks, position) for position in where])

    async def _settle_duplicates(self, group: Group, deadline: float) -> None:
        """One of the group's ids is in the stream: either all of it is, or what is missing goes singly, in order."""
        messages, (where,) = without_repeats([group])
        acks: list[Ack] = []
        try:
            for message in messages:
                acks += await self._commit([message], deadline)
                if len(acks) == 1 and acks[0].duplicate and await self._is_whole(messages, acks[0].seq):
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
        return min(deadline, self._clock() + self._spool_after)

    async def _undelivered(self, groups: Sequence[Group], error: BusError) -> None:
        """Spool what has no outcome, or fail it."""
        for group in groups:
            if self._spool is None or group.conditional or not isinstance(error, PublishOutcomeUnknown):
                group.fail(error)
            else:
                await self._to_spool(self._spool, group)

    async def _to_spool(self, spool: Spool, group: Group) -> None:
        try:
            await asyncio.to_thread(spool.append, group.messages, after=self._marks.get(group.stream, _Mark()).old)
        except BusError as error:
            group.fail(error)
        else:
            self._succeed(group, [Ack(seq=0, duplicate=False, spooled=True) for _ in group.messages])

    async def _queue_behind(self, spool: Spool) -> None:
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
            async with asyncio.timeout(self._pause):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _drain(self, spool: Spool) -> bool:
        """Publish what is spooled, in order, leaving out ids the stream has; whether the spool is empty now."""
        if not self._link.is_connected:
            return False
        try:
            # A server that hangs is found out here, before the reader's longer patience.
            await self._link.request(f"{API}.INFO", timeout=self._spool_after)
            known = await self._known(spool)
            for record in spool.records():
                fresh = [m for m in record.messages if m.event_id not in known.setdefault(stream_of(m.subject), set())]
                for message in fresh:
                    if message.event_id not in known[stream_of(message.subject)]:
                        await self._commit([message], self._clock() + self._spool_after)
                        known[stream_of(message.subject)].add(message.event_id)
                await asyncio.to_thread(spool.drained, record.end)
        except PublishRefused as error:
            log.error("the stream refuses an acknowledged message of the spool %s: %s", spool.path, error)
            self._pause = _DRAIN_AFTER_REFUSAL
            return False
        except SpoolUnusable as error:
            log.error("%s", error)
            self._pause = _DRAIN_AFTER_REFUSAL
            return False
        except BusError as error:
            self._pause = _DRAIN_EVERY
            log.debug("the spool waits: %s", error)
            return False
        return True

    async def _known(self, spool: Spool) -> dict[str, set[str]]:
        """Ids the streams have, by stream: the duplicate window may be over since they were first sent."""
        subjects: dict[str, set[str]] = {}
        after: dict[str, int] = {}
        for record in spool.records():
            stream = stream_of(record.messages[0].subject)
            subjects.setdefault(stream, set()).update(message.subject for message in record.messages)
            after[stream] = min(after.get(stream, record.after), record.after)
        known: dict[str, set[str]] = {}
        for stream, names in subjects.items():
            ordered, ids = sorted(names), known.setdefault(stream, set())
            for first in range(0, len(ordered), _SCAN_SUBJECTS):
                filters = ordered[first : first + _SCAN_SUBJECTS]
                async with OrderedReader(
                    self._link, stream, filters, after=after[stream], patience=self._spool_after, headers_only=True
                ) as reader:
                    while (message := await reader.next(wait=False)) is not None:
                        ids.add(message.headers.get("Nats-Msg-Id", ""))
        return known

    async def _is_whole(self, messages: list[Outgoing], first_seq: int) -> bool:
        """Whether the batch is in the stream in one piece: batches are atomic and without gaps, so its end tells."""
        last = await self._found(messages[-1], {"seq": first_seq + len(messages) - 1})
        return last is not None and last.seq == first_seq + len(messages) - 1

    def _succeed(self, group: Group, acks: list[Ack]) -> None:
        self._counters.messages += len(acks)
        self._counters.duplicates += sum(ack.duplicate for ack in acks)
        if not group.done.done():
            group.done.set_result(acks)

    async def _commit(self, messages: list[Outgoing], deadline: float, *, unsure: bool = False) -> list[Ack]:
        """Send the same messages until the stream says yes or no, or the time is up.

        ``unsure``: an earlier attempt, whose answer was lost, may be stored. Then only a condition that does not hold
        is a definite no; any other refusal is about this attempt alone.
        """
        started, backoff = self._clock(), _FIRST_BACKOFF
        while True:
            try:
                return await self._attempt(messages, deadline)
            except PublishRefused as error:
                if not unsure or isinstance(error, StateConflict):
                    raise
                raise PublishOutcomeUnknown(len(messages), self._clock() - started, str(error)) from error
            except BusUnavailable as error:
                now = self._clock()
                unsure = unsure or not isinstance(error.__cause__, ApiRefused)
                if now >= deadline:
                    raise PublishOutcomeUnknown(len(messages), self._retry_for, str(error)) from error
                if now - started > _MISSING_AFTER and await self._is_missing(messages[0].subject):
                    raise StreamMissing(messages[0].subject) from error
            self._counters.retries += 1
            elected = await self._link.pause(backoff * self._chance.uniform(0.5, 1.0), messages[0].subject)
            backoff = _FIRST_BACKOFF if elected else min(2 * backoff, _MAX_BACKOFF)
            await self._wait_connected(deadline)

    async def _wait_connected(self, deadline: float) -> None:
        # Not into nats-py's buffer while it reconnects: what waits there would be sent after we gave up on it.
        try:
            await self._link.wait_connected(max(0.0, deadline - self._clock()))
        except BusUnavailable:
            return

    async def _attempt(self, messages: list[Outgoing], deadline: float) -> list[Ack]:
        single = len(messages) == 1
        batch_id = f"{self._chance.getrandbits(128):032x}"
        begun = self._clock()
        timeout = self._ack_timeout
        if self._spool is not None:
            timeout = min(timeout, max(_SHORTEST_ATTEMPT, deadline - begun))
        if self._link.can_write:
            answer = await self._link.exchange_encoded(
                messages[0].subject,
                len(messages),
                lambda reply: encode_batch(messages, batch_id, reply),
                timeout=timeout,
            )
        else:
            frames = [single_frame(messages[0])] if single else batch_frames(messages, batch_id)
            answer = await self._link.exchange(frames, timeout=timeout)
        response: dict[str, Any] = json.loads(answer.data)
        if "error" in response:
            return [await self._refused(messages, ApiRefused(messages[0].subject, response["error"]))]
        stream = stream_of(messages[0].subject)
        self._marks.setdefault(stream, _Mark()).note(response["seq"], self._clock())
        self._counters.batches += 1
        self._counters.batched += len(messages)
        self._counters.last_commit = self._clock() - begun
        self._counters.commit_seconds += self._counters.last_commit
        self._counters.largest_batch = max(self._counters.largest_batch, len(messages))
        if single:
            return [Ack(seq=response["seq"], duplicate=bool(response.get("duplicate")))]
        return batch_acks(response["seq"], len(messages))

    async def _refused(self, messages: list[Outgoing], error: ApiRefused) -> Ack:
        """Turn an error of the server into ours; a conditional message that is stored already is no conflict."""
        message = messages[0]
        if error.err_code == _DUPLICATE_IN_BATCH:
            raise _DuplicateInBatch from error
        if error.err_code in _RETRY_CODES:
            raise BusUnavailable(message.subject, error.description) from error
        if error.err_code == _WRONG_LAST_SEQUENCE and message.expected_last is not None:
            query = {"seq": message.expected_last + 1, "next_by_subj": message.expected_subject or message.subject}
            stored = await self._found(message, query)
            if stored is not None:
                return Ack(seq=stored.seq, duplicate=True)
            raise StateConflict(
                message.expected_subject or message.subject, message.expected_last, error.description
            ) from error
        if error.err_code in _FULL_CODES:
            raise StreamFull(message.subject, error.description) from error
        if error.err_code in _TOO_LARGE_CODES:
            raise PayloadTooLarge(max(m.size for m in messages), MAX_MESSAGE) from error
        raise PublishForbidden(message.subject, f"{error.description} (error {error.err_code})") from error

    async def _found(self, message: Outgoing, query: dict[str, Any]) -> RawMessage | None:
        stored = await message_at(self._link, stream_of(message.subject), query)
        return stored if stored is not None and stored.headers.get("Nats-Msg-Id") == message.event_id else None

    async def _is_missing(self, subject: str) -> bool:
        query = json.dumps({"subject": subject}).encode()
        try:
            # A cluster without a leader does not answer; the stream may have its own again meanwhile.
            answer = await self._link.request(f"{API}.STREAM.NAMES", query, timeout=_SHORTEST_ATTEMPT)
        except BusUnavailable:
            return False
        response: dict[str, Any] = json.loads(answer.data)
        return "error" not in response and not response.get("streams")


class _DuplicateInBatch(BusError):
    """The server knows one of the batch's ids; the batch was refused whole."""
