"""One batch until the stream says yes or no: attempts, what an answer means, and what may be sent again."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from enchanted.bus.batch import Ack, Outgoing, batch_acks, batch_frames, encode_batch, single_frame
from enchanted.bus.errors import (
    ApiRefused,
    BusError,
    BusUnavailable,
    PayloadTooLarge,
    PublishForbidden,
    PublishOutcomeUnknown,
    PublishRefused,
    StateConflict,
    StreamFull,
    StreamMissing,
)
from enchanted.bus.link import API, Link
from enchanted.bus.reader import RawMessage, message_at
from enchanted.bus.streams import MAX_MESSAGE, stream_of

_DUPLICATE_IN_BATCH = 10201
_WRONG_LAST_SEQUENCE = 10071
_RETRY_CODES = frozenset({10008, 10009, 10118, 10158, 10163, 10164, 10167, 10176, 10210})
"""JetStream not ready, no leader, stream offline, id in process, condition not known yet, another message on the
condition's subject in process (only a cluster says these three), too many requests, batch incomplete (its head was
lost), too many open batches."""
_FULL_CODES = frozenset({10002, 10023, 10028, 10047, 10077})
_TOO_LARGE_CODES = frozenset({10054, 10097})

_FIRST_BACKOFF = 0.02
_MAX_BACKOFF = 2.0
_MARK_EVERY = 300.0
"""Seconds; longer than the duplicate window, so an id the window still knew when it was spooled is looked up."""
_SHORTEST_ATTEMPT = 0.2
_MISSING_AFTER = 2.0
"""Seconds of "no responders" before a stream that JetStream does not know counts as missing."""


@dataclass(slots=True)
class _Mark:
    """A sequence the stream had at least `_MARK_EVERY` seconds ago; 0 until that is known."""

    old: int = 0
    new: int = 0
    at: float | None = None

    def note(self, seq: int, now: float) -> None:
        if self.at is None or now - self.at >= _MARK_EVERY:
            self.old, self.new, self.at = self.new, max(self.new, seq), now


@dataclass(slots=True)
class Counters:
    """Of committed batches and of attempts that came to nothing."""

    batches: int = 0
    largest: int = 0
    messages: int = 0
    retries: int = 0
    last_seconds: float = 0.0
    seconds: float = 0.0

    def count(self, messages: int, seconds: float) -> None:
        """A batch was committed."""
        self.batches += 1
        self.messages += messages
        self.largest = max(self.largest, messages)
        self.last_seconds = seconds
        self.seconds += seconds


class DuplicateInBatch(BusError):
    """The server knows one of the batch's ids; the batch was refused whole."""


class Committer:
    """Sends batches through one connection, each until its outcome is known or its time is up."""

    def __init__(
        self,
        link: Link,
        *,
        retry_for: float,
        ack_timeout: float,
        hurried: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        """``hurried``: an attempt takes no longer than to the deadline, because there is a spool to go to."""
        self._link = link
        self._retry_for = retry_for
        self._ack_timeout = ack_timeout
        self._hurried = hurried
        self._clock = clock
        self._chance = chance or random.Random()
        self._marks: dict[str, _Mark] = {}
        self.counters = Counters()

    def old_sequence(self, stream: str) -> int:
        """A sequence the stream had before anything that is sent now was sent first; 0 while that is not known."""
        return self._marks.get(stream, _Mark()).old

    async def commit(self, messages: list[Outgoing], deadline: float, *, unsure: bool = False) -> list[Ack]:
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
            self.counters.retries += 1
            elected = await self._link.pause(backoff * self._chance.uniform(0.5, 1.0), messages[0].subject)
            backoff = _FIRST_BACKOFF if elected else min(2 * backoff, _MAX_BACKOFF)
            await self._wait_connected(deadline)

    async def is_whole(self, messages: list[Outgoing], first_seq: int) -> bool:
        """Whether the batch is in the stream in one piece: batches are atomic and without gaps, so its end tells."""
        last = await self._found(messages[-1], {"seq": first_seq + len(messages) - 1})
        return last is not None and last.seq == first_seq + len(messages) - 1

    async def _attempt(self, messages: list[Outgoing], deadline: float) -> list[Ack]:
        single = len(messages) == 1
        batch_id = f"{self._chance.getrandbits(128):032x}"
        begun = self._clock()
        timeout = self._ack_timeout
        if self._hurried:
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
        self.counters.count(len(messages), self._clock() - begun)
        if single:
            return [Ack(seq=response["seq"], duplicate=bool(response.get("duplicate")))]
        return batch_acks(response["seq"], len(messages))

    async def _refused(self, messages: list[Outgoing], error: ApiRefused) -> Ack:
        """Turn an error of the server into ours; a conditional message that is stored already is no conflict."""
        message = messages[0]
        if error.err_code == _DUPLICATE_IN_BATCH:
            raise DuplicateInBatch from error
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

    async def _wait_connected(self, deadline: float) -> None:
        # Not into nats-py's buffer while it reconnects: what waits there would be sent after we gave up on it.
        try:
            await self._link.wait_connected(max(0.0, deadline - self._clock()))
        except BusUnavailable:
            return

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
