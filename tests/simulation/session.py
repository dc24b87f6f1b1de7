"""The server's end of a connection: the NATS protocol, subscriptions, and who is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.network import Connection

MAX_PAYLOAD = 2 * 1024 * 1024
_INFO = json.dumps(
    {
        "server_id": "simulated",
        "version": "2.15.1",
        "proto": 1,
        "host": "simulated",
        "port": 4222,
        "headers": True,
        "max_payload": MAX_PAYLOAD,
        "jetstream": True,
        "client_id": 1,
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """A message from a client."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes

    def header(self, name: str) -> str:
        """One header's value; empty when it is not there."""
        start = self.headers.find(f"\r\n{name}:".encode())
        if start < 0:
            return ""
        start += len(name) + 3
        return self.headers[start : self.headers.index(b"\r\n", start)].decode().strip()


class ServerSession:
    """Reads what a client writes; a piece may end anywhere."""

    def __init__(self, connection: Connection, handle: Callable[[Request], None], gone: Callable[[], None]) -> None:
        self._connection = connection
        self._handle = handle
        self._gone = gone
        self._buffer = b""
        self._subjects: dict[str, str] = {}
        self._sids: dict[str, str] = {}
        self.closed = False

    def greet(self) -> None:
        """The first line is the server's."""
        self._connection.to_client(f"INFO {_INFO}\r\n".encode())

    def close(self) -> None:
        """The client is gone, or the server. Idempotent."""
        if not self.closed:
            self.closed = True
            self._subjects.clear()
            self._gone()

    def sid_of(self, subject: str) -> str | None:
        """The subscription that takes a subject: itself, or ``prefix.*``."""
        sid = self._subjects.get(subject)
        return sid if sid is not None else self._subjects.get(subject.rpartition(".")[0] + ".*")

    def send(self, sid: str, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        """One message to the client."""
        answer = f"{reply} " if reply else ""
        if headers:
            sizes = f"{len(headers)} {len(headers) + len(payload)}"
            line = f"HMSG {subject} {sid} {answer}{sizes}\r\n"
        else:
            line = f"MSG {subject} {sid} {answer}{len(payload)}\r\n"
        self._connection.to_client(b"".join((line.encode(), headers, payload, b"\r\n")))

    def receive(self, data: bytes) -> None:
        if self.closed:
            return
        self._buffer = data = self._buffer + data if self._buffer else data
        at = 0
        while not self.closed:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            words = data[at:end].decode().split()
            then = end + 2
            if words[0] in ("PUB", "HPUB"):
                size = int(words[-1])
                if len(data) < then + size + 2:
                    break
                self._published(words, data[then : then + size])
                then += size + 2
            else:
                self._control(words)
            at = then
        self._buffer = data[at:]

    def _published(self, words: list[str], body: bytes) -> None:
        lengths = 2 if words[0] == "HPUB" else 1
        reply = words[2] if len(words) == 3 + lengths else ""
        head = int(words[-2]) if lengths == 2 else 0
        self._handle(Request(words[1], reply, body[:head], body[head:]))

    def _control(self, words: list[str]) -> None:
        match words[0].upper():
            case "PING":
                self._connection.to_client(b"PONG\r\n")
            case "SUB":
                subject, sid = words[1], words[-1]
                self._subjects[subject], self._sids[sid] = sid, subject
            case "UNSUB":
                self._subjects.pop(self._sids.pop(words[1], ""), None)
            case "CONNECT" | "PONG":
                return
            case other:
                raise AssertionError(f"the client writes {other!r}")
