"""Messages ingest cannot use: original bytes, with where they came from and why they are here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from enchanted.bus.batch import HEADER_NAME, Ack, Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusError, MessageMissing
from enchanted.bus.reader import OrderedReader, RawMessage, message_at
from enchanted.bus.streams import DEAD_LETTERS_STREAM, EVENTS_STREAM, stream_of
from enchanted.bus.subjects import DEAD, dead_subject

_SUBJECT = "Enchanted-Subject"
_SEQ = "Enchanted-Sequence"
_TIME = "Enchanted-Time"
_REASON = "Enchanted-Reason"
_DETAIL = "Enchanted-Detail"
_MSG_ID = "Enchanted-Msg-Id"
_MAX_DETAIL = 1024
_LOGGED = 10
"""Dead letters of one batch that are logged one by one."""

log = logging.getLogger(__name__)


class Original(Protocol):
    """What is dead-lettered: a Delivery or a RawMessage."""

    @property
    def seq(self) -> int: ...
    @property
    def time(self) -> datetime: ...
    @property
    def subject(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


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
        return {name: value for name, value in self.headers.items() if not name.startswith(("Nats-", "Enchanted-"))}


@dataclass(frozen=True, slots=True)
class Origin:
    """Which message a dead letter was."""

    seq: int
    """Of the dead letter."""
    original_seq: int
    original_time: datetime


class DeadLetters:
    """The stream of dead letters."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def put(self, original: Original, reason: str, detail: str) -> Ack:
        """Keep a message with a reason (one word, part of the subject) and a detail for people.

        The same message put again, for instance after a redelivery, is stored once.

        Raises:
            PublishRefused, PublishOutcomeUnknown: as Publisher.publish.
        """
        headers = {
            name: value
            for name, value in original.headers.items()
            if HEADER_NAME.fullmatch(name) and not name.startswith("Nats-")
        }
        headers |= {
            _SUBJECT: original.subject.encode(errors="surrogateescape").decode(errors="backslashreplace"),
            _SEQ: str(original.seq),
            _TIME: original.time.isoformat(),
            _REASON: reason,
            _DETAIL: _one_line(detail),
        }
        if msg_id := original.headers.get("Nats-Msg-Id", ""):
            headers[_MSG_ID] = msg_id
        return await self._bus.publisher.publish(
            Outgoing(
                subject=dead_subject(reason),
                payload=original.payload,
                event_id=f"dead-{original.seq}-{original.time.isoformat()}",
                headers=headers,
            )
        )

    async def put_all(self, dead: Sequence[tuple[Original, str, str]]) -> dict[int, BusError]:
        """Keep many messages, each with reason and detail; they are committed together.

        Returns what hindered those that could not be put, by sequence.
        """
        done = await asyncio.gather(*(self.put(*one) for one in dead), return_exceptions=True)
        kept: dict[int, BusError] = {}
        for (original, _, _), outcome in zip(dead, done, strict=True):
            if isinstance(outcome, BusError):
                kept[original.seq] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
        put = [(original, detail) for original, _, detail in dead if original.seq not in kept]
        for original, detail in put[:_LOGGED]:
            log.warning("message %d on %r is a dead letter: %s", original.seq, original.subject, detail)
        if len(put) > _LOGGED:
            log.warning("and %d more of the same batch", len(put) - _LOGGED)
        return kept

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


def _one_line(text: str) -> str:
    cut = text[:_MAX_DETAIL].encode("utf-8", "replace").decode()
    return " ".join(cut.split())


def _parse(raw: RawMessage) -> DeadLetter:
    headers = raw.headers
    return DeadLetter(
        seq=raw.seq,
        time=raw.time,
        reason=headers.get(_REASON, ""),
        detail=headers.get(_DETAIL, ""),
        original_subject=headers.get(_SUBJECT, ""),
        original_seq=int(headers.get(_SEQ, "0")),
        original_time=datetime.fromisoformat(headers[_TIME]) if _TIME in headers else raw.time,
        payload=raw.payload,
        headers=headers,
        original_id=headers.get(_MSG_ID, ""),
    )
