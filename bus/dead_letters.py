"""Messages ingest cannot use: original bytes, with where they came from and why they are here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import ApiRefused, BusError, MessageMissing
from enchanted.bus.letter_headers import (
    DETAIL,
    LEFT_OUT,
    MSG_ID,
    REASON,
    SEQ,
    SUBJECT,
    TIME,
    Original,
    letter_headers,
    producers,
)
from enchanted.bus.ordered import OrderedReader
from enchanted.bus.reader import RawMessage, message_at
from enchanted.bus.streams import DEAD_LETTERS_STREAM, EVENTS_STREAM, stream_of
from enchanted.bus.subjects import DEAD, dead_subject

_LOGGED = 10
"""Dead letters of one batch that are logged one by one."""
_YOUNG = timedelta(seconds=30)
"""A message younger than this has no letter older than the duplicate window, even by a clock that is wrong a bit."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """A message that could not be used."""

    seq: int
    """Its sequence among the dead letters."""
    time: datetime
    """When it was put there."""
    reason: str
    detail: str
    original_subject: str
    original_seq: int
    original_time: datetime
    payload: bytes
    """The published bytes, untouched."""
    headers: Mapping[str, str]
    original_id: str = ""
    """The ``Nats-Msg-Id`` it was published with; empty when it had none."""

    @property
    def original_headers(self) -> dict[str, str]:
        """Those of the producer, without the server's and ours."""
        return producers(self.headers)

    @property
    def headers_left_out(self) -> int:
        """How many headers of the producer, its message id among them, had no room."""
        return int(self.headers.get(LEFT_OUT, "0"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Which message a dead letter was."""

    seq: int
    """Of the dead letter."""
    original_seq: int
    original_time: datetime


_Key = tuple[str, int, str]
"""Stream, sequence and time: of a stream that was made again the sequences begin again."""


class _Letters:
    """Which messages have a letter: the duplicate window knows the youngest, what is older is read and remembered."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[_Key, int] = {}
        self._read_to = 0
        self._created = ""
        self._reading = asyncio.Lock()

    async def of(self, originals: Sequence[Original]) -> dict[_Key, int]:
        """The letters of those messages that the window may have forgotten, by their sequences."""
        now = datetime.now(UTC)
        old = [_key(one) for one in originals if abs(now - one.time) >= _YOUNG]
        if not old:
            return {}
        async with self._reading:
            first = await self._read()
        return {key: seq for key in old if (seq := self._known.get(key, 0)) and seq >= first}

    async def _read(self) -> int:
        """Go on to the end of the stream; returns where it begins."""
        try:
            found = await self._bus.link.api(f"STREAM.INFO.{DEAD_LETTERS_STREAM}")
        except ApiRefused:
            # No such stream, or none that can be read: publishing says so better.
            return 0
        if found["created"] != self._created:
            self._known, self._read_to, self._created = {}, 0, found["created"]
        if found["state"]["last_seq"] > self._read_to:
            async with OrderedReader(
                self._bus.link, DEAD_LETTERS_STREAM, [f"{DEAD}.>"], after=self._read_to, headers_only=True
            ) as reader:
                while (raw := await reader.next(wait=False)) is not None:
                    self._read_to = raw.seq
                    if (seq := raw.headers.get(SEQ, "")).isdecimal():
                        stream = stream_of(raw.headers.get(SUBJECT, ""))
                        self._known[stream, int(seq), raw.headers.get(TIME, "")] = raw.seq
        first = int(found["state"]["first_seq"])
        if len(self._known) > 2 * found["state"]["messages"]:
            self._known = {key: seq for key, seq in self._known.items() if seq >= first}
        return first


def _key(original: Original) -> _Key:
    return stream_of(original.subject), original.seq, original.time.isoformat()


class DeadLetters:
    """The stream of dead letters."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._letters = _Letters(bus)

    async def put(self, original: Original, reason: str, detail: str) -> Ack:
        """Keep a message with a reason (one word, part of the subject) and a detail for people.

        The same message put again, for instance after a redelivery, is stored once.

        Raises:
            PublishRefused, PublishOutcomeUnknown: as Publisher.publish.
            BusUnavailable: whether it is there already cannot be found out.
        """
        if there := (await self._letters.of([original])).get(_key(original)):
            return Ack(seq=there, duplicate=True)
        return await self._keep(original, reason, detail)

    async def put_all(self, dead: Sequence[tuple[Original, str, str]]) -> dict[int, BusError]:
        """Keep many messages, each with reason and detail; they are committed together.

        Returns what hindered those that could not be put, by sequence.
        """
        try:
            there = await self._letters.of([original for original, _, _ in dead])
        except BusError as error:
            # One for all: each by itself would wait as long for a server that does not answer.
            return {original.seq: error for original, _, _ in dead}
        fresh = [one for one in dead if _key(one[0]) not in there]
        done = await asyncio.gather(*(self._keep(*one) for one in fresh), return_exceptions=True)
        kept: dict[int, BusError] = {}
        for (original, _, _), outcome in zip(fresh, done, strict=True):
            if isinstance(outcome, BusError):
                kept[original.seq] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
        put = [(original, detail) for original, _, detail in fresh if original.seq not in kept]
        for original, detail in put[:_LOGGED]:
            log.warning("message %d on %r is a dead letter: %s", original.seq, original.subject, detail)
        if len(put) > _LOGGED:
            log.warning("and %d more of the same batch", len(put) - _LOGGED)
        return kept

    async def _keep(self, original: Original, reason: str, detail: str) -> Ack:
        return await self._bus.publisher.publish(
            Outgoing(
                subject=dead_subject(reason),
                payload=original.payload,
                event_id=f"dead-{original.seq}-{original.time.isoformat()}",
                headers=letter_headers(original, reason, detail),
            )
        )

    async def list(self, *, after: int = 0, limit: int = 1000) -> list[DeadLetter]:
        """Dead letters in the order they were put, from sequence ``after`` + 1."""
        letters: list[DeadLetter] = []
        async with OrderedReader(self._bus.link, DEAD_LETTERS_STREAM, [f"{DEAD}.>"], after=after) as reader:
            while len(letters) < limit and (raw := await reader.next(wait=False)) is not None:
                letters.append(_parse(raw))
        return letters

    async def origins(self, *, after: int = 0) -> AsyncIterator[Origin]:
        """Which events are dead letters, from sequence ``after`` + 1, without reading their bytes.

        Spans have sequences of their own stream, which say nothing about an event.
        """
        subjects = [f"{DEAD}.>"]
        async with OrderedReader(
            self._bus.link, DEAD_LETTERS_STREAM, subjects, after=after, headers_only=True
        ) as reader:
            while (raw := await reader.next(wait=False)) is not None:
                letter = _parse(raw)
                if stream_of(letter.original_subject) not in (EVENTS_STREAM, ""):
                    continue
                yield Origin(letter.seq, letter.original_seq, letter.original_time)

    async def replay(self, letter: DeadLetter) -> Ack:
        """Publish the original bytes to the original subject again, with the original message id and headers.

        Within the stream's duplicate window the message it was counts as stored: then ``duplicate`` is set.

        Raises:
            PublishRefused, PublishOutcomeUnknown: as Publisher.publish.
        """
        return await self._bus.publisher.publish(
            Outgoing(
                subject=letter.original_subject,
                payload=letter.payload,
                event_id=letter.original_id or f"replay-{letter.seq}-{letter.time.isoformat()}",
                headers=letter.original_headers,
            )
        )

    async def get(self, seq: int) -> DeadLetter:
        """One dead letter by its own sequence.

        Raises:
            MessageMissing: there is none.
        """
        raw = await message_at(self._bus.link, DEAD_LETTERS_STREAM, {"seq": seq})
        if raw is None:
            raise MessageMissing(DEAD_LETTERS_STREAM, seq)
        return _parse(raw)


def _parse(raw: RawMessage) -> DeadLetter:
    headers = raw.headers
    return DeadLetter(
        seq=raw.seq,
        time=raw.time,
        reason=headers.get(REASON, ""),
        detail=headers.get(DETAIL, ""),
        original_subject=headers.get(SUBJECT, ""),
        original_seq=int(headers.get(SEQ, "0")),
        original_time=datetime.fromisoformat(headers[TIME]) if TIME in headers else raw.time,
        payload=raw.payload,
        headers=headers,
        original_id=headers.get(MSG_ID, ""),
    )
