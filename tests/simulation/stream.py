"""One stream of the server: messages, the duplicate window, atomic batches, and what an fsync has made safe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from enchanted.bus.subjects import matches
from tests.simulation.loop import OUTSIDE, SimulatedLoop
from tests.simulation.session import Request

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_ABANDONED = 10.0
_OPEN_BATCHES = 50
_LARGEST_BATCH = 1000

Reply = Callable[[str, dict[str, Any] | None], None]


@dataclass(frozen=True, slots=True)
class Message:
    """As the stream holds it."""

    seq: int
    at: float
    """When it was stored."""
    subject: str
    headers: bytes
    payload: bytes
    msg_id: str

    @property
    def time(self) -> datetime:
        return BEGINNING + timedelta(microseconds=int(self.at * 1e6))

    @property
    def nanoseconds(self) -> int:
        return int(BEGINNING.timestamp()) * 1_000_000_000 + int(self.at * 1e6) * 1000


@dataclass(slots=True)
class _OpenBatch:
    begun: float
    requests: list[Request] = field(default_factory=list)


class Refused(Exception):
    """The server's answer is an error."""

    def __init__(self, err_code: int, why: str, code: int = 400) -> None:
        super().__init__(why)
        self.answer = {"error": {"code": code, "err_code": err_code, "description": why}}


class Stream:
    """`visible` messages are safe and readable; those after them are written, and not yet safe."""

    def __init__(
        self, name: str, loop: SimulatedLoop, chance: Random, reply: Reply, *, window: float, safe: bool
    ) -> None:
        self.name = name
        self.messages: list[Message] = []
        self.visible = 0
        self.on_visible: list[Callable[[], None]] = []
        self.pick_refusal: Callable[[Request], Refused | None] = lambda _: None
        self._loop = loop
        self._chance = chance
        self._reply = reply
        self._window = window
        self._safely = safe
        self._ids: dict[str, Message] = {}
        self._batches: dict[str, _OpenBatch] = {}
        self._busy_until = 0.0
        self._life = 0

    def take(self, request: Request) -> None:
        """A message for the stream; the answer comes when it is safe."""
        try:
            if request.header("Nats-Batch-Id"):
                answer = self._batched(request)
            else:
                refusal = self.pick_refusal(request)
                if refusal is not None:
                    raise refusal
                answer = self._single(request)
        except Refused as refused:
            self._reply(request.reply, refused.answer)
            return
        if answer is None:
            self._reply(request.reply, None)
            return
        self._answer_when_safe(request.reply, answer)

    def crash(self, *, power: bool) -> None:
        """The process ends; with a power cut what is not safe is kept up to a point nobody knows."""
        self._life += 1
        self._batches.clear()
        if power:
            del self.messages[self._chance.randint(self.visible, len(self.messages)) :]
        elif self._chance.random() < 0.3:
            # In the middle of writing.
            del self.messages[max(self.visible, len(self.messages) - self._chance.randrange(4)) :]
        self.visible = len(self.messages)
        self._ids = {message.msg_id: message for message in self.messages if message.msg_id}

    def at(self, seq: int) -> Message | None:
        """The readable message with a sequence."""
        return self.messages[seq - 1] if 1 <= seq <= self.visible else None

    def next_on(self, seq: int, filters: Sequence[str]) -> Message | None:
        """The first readable message from a sequence on that matches one of the filters."""
        for message in self.messages[max(0, seq - 1) : self.visible]:
            if not filters or any(matches(one, message.subject) for one in filters):
                return message
        return None

    def last_on(self, filter_: str) -> Message | None:
        """The last message, readable or not, on a subject."""
        for message in reversed(self.messages):
            if matches(filter_, message.subject):
                return message
        return None

    def _single(self, request: Request) -> dict[str, Any]:
        known = self._known(request.header("Nats-Msg-Id"))
        if known is not None:
            return {"stream": self.name, "seq": known.seq, "duplicate": True}
        expected = request.header("Nats-Expected-Last-Subject-Sequence")
        if expected:
            guard = request.header("Nats-Expected-Last-Subject-Sequence-Subject") or request.subject
            last = self.last_on(guard)
            if (last.seq if last else 0) != int(expected):
                raise Refused(10071, f"wrong last sequence: {last.seq if last else 0}")
        return {"stream": self.name, "seq": self._store(request).seq}

    def _batched(self, request: Request) -> dict[str, Any] | None:
        batch_id, number = request.header("Nats-Batch-Id"), int(request.header("Nats-Batch-Sequence"))
        now = self._loop.time()
        if number == 1:
            refusal = self.pick_refusal(request)
            if refusal is not None:
                raise refusal
            for old in [key for key, batch in self._batches.items() if now - batch.begun > _ABANDONED]:
                del self._batches[old]
            if len(self._batches) >= _OPEN_BATCHES:
                raise Refused(10210, "too many inflight")
            self._batches[batch_id] = _OpenBatch(now)
        open_batch = self._batches.get(batch_id)
        if open_batch is None or number != len(open_batch.requests) + 1 or now - open_batch.begun > _ABANDONED:
            self._batches.pop(batch_id, None)
            raise Refused(10176, "batch publish is incomplete")
        open_batch.requests.append(request)
        if not request.header("Nats-Batch-Commit"):
            return None
        del self._batches[batch_id]
        return self._commit(batch_id, open_batch.requests)

    def _commit(self, batch_id: str, requests: list[Request]) -> dict[str, Any]:
        ids = [request.header("Nats-Msg-Id") for request in requests]
        assert len(ids) <= _LARGEST_BATCH
        if len(set(ids)) != len(ids) or any(self._known(one) for one in ids):
            raise Refused(10201, "batch publish contains duplicate message id")
        last = [self._store(request) for request in requests][-1]
        return {"stream": self.name, "seq": last.seq, "batch": batch_id, "count": len(requests)}

    def _known(self, msg_id: str) -> Message | None:
        known = self._ids.get(msg_id) if msg_id else None
        return known if known is not None and self._loop.time() - known.at <= self._window else None

    def _store(self, request: Request) -> Message:
        msg_id = request.header("Nats-Msg-Id")
        seq = len(self.messages) + 1
        message = Message(seq, self._loop.time(), request.subject, request.headers, request.payload, msg_id)
        self.messages.append(message)
        if msg_id:
            self._ids[msg_id] = message
        return message

    def _answer_when_safe(self, reply: str, answer: dict[str, Any]) -> None:
        seconds = 0.0005 + 0.004 * self._chance.random()
        if not self._safely:
            self._reply(reply, answer)
            reply, seconds = "", seconds + 1.0
        self._busy_until = max(self._busy_until + 1e-6, self._loop.time() + seconds)
        self._loop.call_at(self._busy_until, self._safe, self._life, len(self.messages), reply, answer, context=OUTSIDE)

    def _safe(self, life: int, count: int, reply: str, answer: dict[str, Any]) -> None:
        if life != self._life:
            return
        self.visible = max(self.visible, count)
        self._reply(reply, answer)
        for told in self.on_visible:
            told()
