"""A message of the stream as a consumer got it, and its acknowledgement."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from enchanted.bus.errors import BusUnavailable
from enchanted.bus.frames import headers_of
from enchanted.bus.link import Link

ACK = b"+ACK"
_TERM = b"+TERM"
_NANOSECONDS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MSG_ID = b"\r\nNats-Msg-Id:"

log = logging.getLogger(__name__)


class Delivery:
    """One message to deal with; without an acknowledgement it comes again after the consumer's ``ack_wait``."""

    # One is made for every event, so it holds what came and reads it when asked.
    __slots__ = ("head", "link", "nanoseconds", "num_delivered", "payload", "reply", "seq", "size", "subject")

    def __init__(self, subject: str, reply: bytes, head: bytes, payload: bytes, link: Link) -> None:
        # ``$JS.ACK.…``: nine tokens, or twelve where the account has a domain.
        tokens = reply.split(b".")
        first = 4 if len(tokens) == 9 else 6
        self.num_delivered = int(tokens[first])
        """1 the first time this consumer delivers it; a consumer that was made again starts over."""
        self.seq = int(tokens[first + 1])
        self.nanoseconds = int(tokens[first + 3])
        """When the server stored it, since 1970."""
        self.subject = subject
        self.payload = payload
        self.head = head
        """The header block as it came."""
        self.reply = reply
        self.link = link
        self.size = len(subject) + len(reply) + len(head) + len(payload)
        """Bytes, as the server counts them against a pull's ``max_bytes``."""

    def __repr__(self) -> str:
        return f"Delivery(seq={self.seq}, subject={self.subject!r}, num_delivered={self.num_delivered})"

    @property
    def headers(self) -> Mapping[str, str]:
        """By name; of a name that comes twice the last."""
        return dict(headers_of(self.head)) if self.head else {}

    @property
    def msg_id(self) -> bytes:
        """Its ``Nats-Msg-Id``; empty when it has none."""
        start = self.head.find(_MSG_ID)
        return self.head[start + len(_MSG_ID) : self.head.find(b"\r\n", start + 2)].strip() if start >= 0 else b""

    @property
    def time(self) -> datetime:
        """When the server stored it, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.nanoseconds // 1000)

    async def ack(self) -> None:
        """Done with it. May be lost with the connection: then it comes again."""
        await self._answer(ACK)

    async def nak(self, delay: float) -> None:
        """Deliver it again after ``delay`` seconds."""
        await self._answer(b"-NAK " + json.dumps({"delay": int(delay * _NANOSECONDS)}).encode())

    async def term(self) -> None:
        """Never deliver it again."""
        await self._answer(_TERM)

    async def _answer(self, answer: bytes) -> None:
        try:
            await self.link.send(self.reply.decode(), answer)
        except BusUnavailable as error:
            log.debug("acknowledgement of %d: %s", self.seq, error)


def encode_acks(replies: Sequence[bytes], answer_to: str) -> bytes:
    """Acknowledgements for the wire; the server answers the last one to ``answer_to``."""
    first = b"PUB " + b" 4\r\n+ACK\r\nPUB ".join(replies)
    return first + f" {answer_to} 4\r\n+ACK\r\n".encode()
