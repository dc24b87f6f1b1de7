"""What we do with nats-py's private parts, all in one place: write many messages at once, and read many at once.

nats-py keeps connection, security, reconnects and everything that is not a message for one of our readers. Tested with
nats-py 2.16.0; where a part is missing, `CAN_WRITE` or `CAN_READ` says so and the public way is taken, which is slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nats.errors
from nats.aio.client import Client

CAN_WRITE = all(hasattr(Client, name) for name in ("_send_command", "_flush_pending"))
CAN_READ = hasattr(Client(), "_ps") and all(hasattr(Client()._ps, name) for name in ("parse", "reset"))

_LINE = 4096
"""Bytes a control line has at most: the server's default, and nats-py's own limit."""
_MESSAGES = (b"MSG", b"HMSG")

Take = Callable[[bytes, bytes, bytes, bytes], None]
"""Given subject, reply subject, headers as they came (empty for none) and payload."""


class FrameReader:
    """In nats-py's parser's place: hands the messages of some subscriptions over and the rest on.

    Only messages with a reply subject are handed over: those without one are the server's own words. nats-py's parser
    is given whole frames, so that it never waits in the middle of one.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inner = client._ps
        self._takers: dict[bytes, Take] = {}
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = 0
        self._connection = 0

    def take(self, subscription: int, take: Take) -> None:
        """From now on ``take`` gets what comes for a subscription."""
        self._takers[b"%d" % subscription] = take

    def leave(self, subscription: int) -> None:
        """Back to nats-py. Idempotent."""
        self._takers.pop(b"%d" % subscription, None)

    def reset(self) -> None:
        """Forget what has come: the connection is a new one."""
        self._pieces, self._size, self._needed = [], 0, 0
        self._connection += 1
        self._inner.reset()

    async def parse(self, data: bytes = b"") -> None:
        """Take what the socket gave."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return
        whole = data if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._size = [], 0
        connection = self._connection
        end = await self._frames(whole)
        if connection != self._connection:
            # What is left is of a connection that broke meanwhile.
            return
        if end < len(whole):
            self._pieces = [whole[end:]]
        self._size = len(whole) - end

    async def _frames(self, data: bytes) -> int:
        """Deal with every whole frame; returns where the first that is not whole begins."""
        takers, find, size = self._takers, data.find, len(data)
        # What goes to nats-py's parser begins here.
        passed = at = 0
        count = amount = 0
        self._needed = 0
        while at < size:
            end = find(b"\r\n", at)
            if end < 0:
                if size - at > _LINE:
                    raise nats.errors.ProtocolError("nats: a control line without an end")
                break
            words = data[at:end].split()
            if not words or words[0] not in _MESSAGES:
                at = end + 2
                continue
            body, whole = end + 2, _number(words[-1])
            if body + whole + 2 > size:
                self._needed = body + whole + 2 - at
                break
            headed = words[0] == b"HMSG"
            take = takers.get(words[2]) if len(words) == 5 + headed else None
            if take is None:
                at = body + whole + 2
                continue
            if passed < at:
                await self._inner.parse(data[passed:at])
            head = body + _number(words[4]) if headed else body
            if head > body + whole:
                raise nats.errors.ProtocolError("nats: malformed MSG")
            at = passed = body + whole + 2
            take(words[1], words[3], data[body:head], data[head : at - 2])
            count, amount = count + 1, amount + whole
        if passed < at:
            await self._inner.parse(data[passed:at])
        self._client.stats["in_msgs"] += count
        self._client.stats["in_bytes"] += amount
        return at


def _number(word: bytes) -> int:
    # int() would also take signs and underscores.
    if not word.isdigit():
        raise nats.errors.ProtocolError("nats: malformed MSG")
    return int(word)


def reader_of(client: Client) -> FrameReader:
    """The reader of a client, put in its parser's place the first time."""
    parser: object = client._ps
    if isinstance(parser, FrameReader):
        return parser
    reader = FrameReader(client)
    client._ps = reader  # type: ignore[assignment]
    return reader


async def write(client: Client, wire: bytes, messages: int) -> None:
    """Hand encoded messages to nats-py in one piece: its buffer, flusher, TLS and reconnect stay in charge.

    The same steps as its ``_send_publish``.
    """
    if not client.is_connected:
        raise nats.errors.ConnectionReconnectingError
    client.stats["out_msgs"] += messages
    client.stats["out_bytes"] += len(wire)
    await client._send_command(wire)
    await client._flush_pending()


def headers_of(block: bytes) -> Iterator[tuple[str, str]]:
    """Names and values of a header block, in order; what follows the protocol's version is its status."""
    first, *lines = block.split(b"\r\n")
    _, _, status = first.partition(b" ")
    if status:
        code, _, description = status.decode(errors="replace").strip().partition(" ")
        yield "Status", code
        if description:
            yield "Description", description.strip()
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            yield name.decode(errors="replace").strip(), value.decode(errors="replace").strip()
