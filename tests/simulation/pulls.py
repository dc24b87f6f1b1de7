"""Consumers as the server keeps them: who asked for how many, what is out, and when it comes again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.simulation.loop import OUTSIDE, SimulatedLoop
from tests.simulation.stream import Message, Stream

_NANOSECONDS = 1e9

Deliver = Callable[[str, str, str, bytes, bytes], bool]
"""To an inbox: subject, reply, headers, payload; whether anybody is there."""


@dataclass(slots=True, eq=False)
class _Pull:
    inbox: str
    left: int
    bytes: float
    expires: float
    heartbeat: float
    last_sign: float

    def ended(self, status: str) -> bytes:
        """The server's last word on it."""
        size = 0 if math.isinf(self.bytes) else int(self.bytes)
        head = f"NATS/1.0 {status}\r\nNats-Pending-Messages: {self.left}\r\nNats-Pending-Bytes: {size}\r\n\r\n"
        return head.encode()


@dataclass(slots=True)
class _Out:
    """Delivered and not acknowledged."""

    since: float
    count: int


@dataclass(slots=True)
class Position:
    """What a consumer keeps on disk; not always the newest after a crash."""

    next_seq: int = 1
    unacknowledged: dict[int, int] = field(default_factory=dict)
    """Sequence → times delivered."""


class Consumer:
    """One consumer of a stream, durable or for one reader."""

    def __init__(
        self, name: str, stream: Stream, loop: SimulatedLoop, deliver: Deliver, config: dict[str, Any]
    ) -> None:
        self.name = name
        self._stream = stream
        self._loop = loop
        self._deliver = deliver
        self._out: dict[int, _Out] = {}
        self._again: dict[int, int] = {}
        self._delivered = 0
        self._pulls: deque[_Pull] = deque()
        self._alarm_at = float("inf")
        self.next_seq = int(config.get("opt_start_seq", 1))
        self.durable = bool(config.get("durable_name"))
        self.gone = False
        self.configure(config)

    def configure(self, config: dict[str, Any]) -> None:
        """New settings; what is out is measured by the new ack_wait."""
        self._acks = config["ack_policy"] == "explicit"
        self._filters = list(config.get("filter_subjects", ()))
        self._headers_only = bool(config.get("headers_only"))
        self._max_out = int(config.get("max_ack_pending", 1000))
        self._ack_wait = config.get("ack_wait", 30 * _NANOSECONDS) / _NANOSECONDS
        self._set_alarm()

    def info(self) -> dict[str, Any]:
        """The answer to CONSUMER.INFO."""
        unacknowledged = [*self._out, *self._again]
        floor = min(unacknowledged) - 1 if unacknowledged else self.next_seq - 1
        return {
            "name": self.name,
            "num_pending": self._pending(),
            "num_ack_pending": len(unacknowledged),
            "ack_floor": {"stream_seq": floor},
        }

    def pull(self, inbox: str, request: dict[str, Any]) -> None:
        """MSG.NEXT."""
        now = self._loop.time()
        expires = now + request.get("expires", 30 * _NANOSECONDS) / _NANOSECONDS
        heartbeat = request.get("idle_heartbeat", 0) / _NANOSECONDS
        size = float(request.get("max_bytes", math.inf))
        pull = _Pull(inbox, int(request.get("batch", 1)), size, expires, heartbeat or 1e9, now)
        self._pulls.append(pull)
        self._loop.call_at(min(expires, now + pull.heartbeat), self._sign, pull, context=OUTSIDE)
        self.work()

    def acknowledge(self, seq: int) -> None:
        """+ACK, or +TERM."""
        self._out.pop(seq, None)
        self._again.pop(seq, None)
        self.work()

    def work(self) -> None:
        """Deliver what can be delivered, to the open pulls in turn."""
        while self._pulls and not self.gone:
            found = self._next()
            if found is None:
                return
            message, count = found
            pull = self._pulls.popleft()
            reply = (
                f"$JS.ACK.{self._stream.name}.{self.name}.{count}.{message.seq}.{self._delivered + 1}"
                f".{message.nanoseconds}.{self._pending() - (count == 1)}"
            )
            payload = b"" if self._headers_only else message.payload
            size = len(message.subject) + len(reply) + len(message.headers) + len(payload)
            if size > pull.bytes:
                self._end(pull, "409 Message Size Exceeds MaxBytes")
                continue
            if not self._deliver(pull.inbox, message.subject, reply, message.headers, payload):
                continue
            self._sent(message.seq, count)
            pull.bytes -= size
            pull.left = pull.left - 1 if pull.bytes else 0
            pull.last_sign = self._loop.time()
            if pull.left:
                self._pulls.append(pull)
            elif pull.bytes and not math.isinf(pull.bytes):
                self._end(pull, "409 Batch Completed")

    def position(self) -> Position:
        """What would be on disk now."""
        counts = {seq: out.count for seq, out in self._out.items()} | self._again
        return Position(self.next_seq, counts)

    def crash(self, position: Position) -> None:
        """Start again from what was on disk; who asked is forgotten."""
        self._pulls.clear()
        self._out.clear()
        self.next_seq = min(position.next_seq, self._stream.visible + 1)
        self._again = {seq: count for seq, count in sorted(position.unacknowledged.items()) if seq < self.next_seq}

    def end(self, status: bytes) -> None:
        """Tell everyone who waits that it is over."""
        pulls, self._pulls = list(self._pulls), deque()
        for pull in pulls:
            self._deliver(pull.inbox, pull.inbox, "", status, b"")

    def _end(self, pull: _Pull, status: str) -> None:
        self._deliver(pull.inbox, pull.inbox, "", pull.ended(status), b"")

    def _sent(self, seq: int, count: int) -> None:
        self._delivered += 1
        self._again.pop(seq, None)
        if count == 1:
            self.next_seq = seq + 1
        if self._acks:
            self._out[seq] = _Out(self._loop.time(), count)
            self._set_alarm()

    def _next(self) -> tuple[Message, int] | None:
        if self._again:
            seq = min(self._again)
            message = self._stream.at(seq)
            assert message is not None
            return message, self._again[seq] + 1
        if self._acks and len(self._out) >= self._max_out:
            return None
        message = self._stream.next_on(self.next_seq, self._filters)
        return None if message is None else (message, 1)

    def _pending(self) -> int:
        if not self._filters:
            return self._stream.visible - self.next_seq + 1
        count, seq = 0, self.next_seq
        while (message := self._stream.next_on(seq, self._filters)) is not None:
            count, seq = count + 1, message.seq + 1
        return count

    def _sign(self, pull: _Pull) -> None:
        """A heartbeat, or the end of the pull."""
        if pull not in self._pulls or self.gone:
            return
        now = self._loop.time()
        if now >= pull.expires:
            self._pulls.remove(pull)
            self._end(pull, "408 Request Timeout")
            return
        if now - pull.last_sign >= pull.heartbeat - 1e-6:
            pull.last_sign = now
            if not self._deliver(pull.inbox, pull.inbox, "", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b""):
                self._pulls.remove(pull)
                return
        self._loop.call_at(min(pull.expires, pull.last_sign + pull.heartbeat), self._sign, pull, context=OUTSIDE)

    def _set_alarm(self) -> None:
        if not self._out:
            return
        due = max(self._loop.time() + 0.1, min(out.since for out in self._out.values()) + self._ack_wait)
        if due < self._alarm_at:
            self._alarm_at = due
            self._loop.call_at(due, self._alarm, due, context=OUTSIDE)

    def _alarm(self, due: float) -> None:
        if due != self._alarm_at:
            return
        self._alarm_at = float("inf")
        late = [seq for seq, out in self._out.items() if self._loop.time() - out.since >= self._ack_wait - 1e-6]
        for seq in late:
            self._again[seq] = self._out.pop(seq).count
        self._set_alarm()
        self.work()


def disk_after_crash(consumer: Consumer, chance: Random, older: Position) -> Position | None:
    """What a crash leaves of a consumer: its position, an older one, everything to deliver again, or nothing."""
    kind = chance.random()
    if kind < 0.4:
        return consumer.position()
    if kind < 0.6:
        return older
    if kind < 0.85:
        counts = consumer.position().unacknowledged
        return Position(consumer.next_seq, {seq: counts.get(seq, 1) for seq in range(1, consumer.next_seq)})
    return None
