"""Group commit: whoever publishes while one batch commits travels in the next one.

One batch is in flight at a time. With two, the first could be refused and the second stored: a hole in a chain.
"""

from __future__ import annotations

import asyncio
import json
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
from enchanted.bus.link import Link
from enchanted.bus.reader import RawMessage, message_at
from enchanted.bus.streams import DEAD_LETTERS_STREAM, MAX_DEAD_LETTER, MAX_MESSAGE, stream_of
from enchanted.bus.subjects import MAX_SUBJECT

_DUPLICATE_IN_BATCH = 10201
_WRONG_LAST_SEQUENCE = 10071
_RETRY_CODES = frozenset({10008, 10009, 10118, 10158, 10176, 10210})
"""JetStream not ready, no leader, stream offline, id in process, batch incomplete (its head was lost), too many open
batches."""
_FULL_CODES = frozenset({10002, 10023, 10028, 10047, 10077})
_TOO_LARGE_CODES = frozenset({10054, 10097})

_NO_SUBJECT = re.compile(r"[\s*>\x00-\x1f]|\.\.|\.$")

_FIRST_BACKOFF = 0.02
_MAX_BACKOFF = 2.0
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


class Publisher:
    """Publishes with acknowledgement; shared by everything in a process that writes through one connection."""

    def __init__(
        self,
        link: Link,
        *,
        retry_for: float = 75.0,
        ack_timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
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
        )

    async def close(self, *, timeout: float = 10.0) -> None:
        """Take nothing new, give what is queued ``timeout`` seconds, fail the rest with BusClosed. Idempotent."""
        self._closed = True
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
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return groups

    async def _work(self) -> None:
        try:
            while self._queue:
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

    async def _settle(self, groups: list[Group]) -> None:
        """Give every group its outcome."""
        first = groups[0]
        if first.after is not None and first.after.error is not None:
            first.fail(first.after.error)
            return
        messages, positions = without_repeats(groups)
        deadline = min(group.deadline for group in groups)
        try:
            acks = await self._commit(messages, deadline)
        except (_DuplicateInBatch, PublishRefused) as error:
            # Which group the refusal is about is not said, so each is asked about by itself.
            if len(groups) > 1:
                for group in groups:
                    await self._settle([group])
            elif isinstance(error, _DuplicateInBatch):
                await self._settle_duplicates(first, deadline)
            else:
                first.fail(error)
        except BusError as error:
            for group in groups:
                group.fail(error)
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
            partly = PartlyPublished(len(acks), len(messages))
            partly.__cause__ = error
            group.fail(partly if acks else error)
        except BusError as error:
            group.fail(error)
        else:
            self._succeed(group, [ack_at(acks, position) for position in where])

    async def _is_whole(self, messages: list[Outgoing], first_seq: int) -> bool:
        """Whether the batch is in the stream in one piece: batches are atomic and without gaps, so its end tells."""
        last = await self._found(messages[-1], {"seq": first_seq + len(messages) - 1})
        return last is not None and last.seq == first_seq + len(messages) - 1

    def _succeed(self, group: Group, acks: list[Ack]) -> None:
        self._counters.messages += len(acks)
        self._counters.duplicates += sum(ack.duplicate for ack in acks)
        if not group.done.done():
            group.done.set_result(acks)

    async def _commit(self, messages: list[Outgoing], deadline: float) -> list[Ack]:
        """Send the same messages until the stream says yes or no, or the time is up."""
        started, backoff = self._clock(), _FIRST_BACKOFF
        while True:
            try:
                return await self._attempt(messages)
            except BusUnavailable as error:
                now = self._clock()
                if now >= deadline:
                    raise PublishOutcomeUnknown(len(messages), self._retry_for, str(error)) from error
                if now - started > _MISSING_AFTER and await self._is_missing(messages[0].subject):
                    raise StreamMissing(messages[0].subject) from error
            self._counters.retries += 1
            await asyncio.sleep(backoff * self._chance.uniform(0.5, 1.0))
            backoff = min(2 * backoff, _MAX_BACKOFF)
            await self._wait_connected(deadline)

    async def _wait_connected(self, deadline: float) -> None:
        # Not into nats-py's buffer while it reconnects: what waits there would be sent after we gave up on it.
        try:
            await self._link.wait_connected(max(0.0, deadline - self._clock()))
        except BusUnavailable:
            return

    async def _attempt(self, messages: list[Outgoing]) -> list[Ack]:
        single = len(messages) == 1
        batch_id = f"{self._chance.getrandbits(128):032x}"
        begun = self._clock()
        if self._link.can_write:
            answer = await self._link.exchange_encoded(
                messages[0].subject,
                len(messages),
                lambda reply: encode_batch(messages, batch_id, reply),
                timeout=self._ack_timeout,
            )
        else:
            frames = [single_frame(messages[0])] if single else batch_frames(messages, batch_id)
            answer = await self._link.exchange(frames, timeout=self._ack_timeout)
        response: dict[str, Any] = json.loads(answer.data)
        if "error" in response:
            return [await self._refused(messages, ApiRefused(messages[0].subject, response["error"]))]
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
        try:
            answer = await self._link.api("STREAM.NAMES", {"subject": subject}, patience=0.0)
        except (BusUnavailable, ApiRefused):
            return False
        return not answer.get("streams")


class _DuplicateInBatch(BusError):
    """The server knows one of the batch's ids; the batch was refused whole."""
