"""Processes of `live`: the API alone, very many clients of it, and a bare subscription.

``python -m enchanted.benchmarks.listeners ROLE ARGUMENT…``, as `players`. Clients only count what comes: a client that
took JSON apart would be what is measured.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import time
from array import array
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import nats
from nats.aio.msg import Msg

from enchanted.benchmarks.players import Role, begin, play
from enchanted.bus.subjects import ALL_EVENTS
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import served

Way = Literal["SSE", "WebSocket"]
TOKEN, RUN = "bench-token", "run-0"
"""The run of all events that `load` makes for one agent."""
MARKS: dict[Way, bytes] = {"SSE": b"\ndata: ", "WebSocket": b'"stream_time":'}
"""What each event has once in its bytes: inside of JSON no text has a bare line end or quote."""
SIGN = 1.0
"""Seconds between signs of life: the first one tells a WebSocket's client that it has been taken on."""
_NO_STORE = "http://127.0.0.1:9/default"


class Listener(asyncio.Protocol):
    """One connection: when each event's bytes were there. An idle one never reads."""

    def __init__(self, way: Way, host: str, wanted: int, *, idle: bool = False) -> None:
        self.arrived = array("d")
        self.begun, self.done = asyncio.Event(), asyncio.Event()
        self._way, self._host, self._wanted, self._idle = way, host, wanted, idle
        self._rest = b""
        self._upgraded = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._idle:  # or the kernel would take megabytes for it
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        transport.write(opening(self._way, self._host))

    def data_received(self, data: bytes) -> None:
        """Count."""
        now = time.perf_counter()
        assert self._transport is not None
        if self._way == "WebSocket" and not self._upgraded:
            self._upgraded = True
            self._transport.write(text_frame(json.dumps({"token": TOKEN, "filter": {"run": RUN}})))
            return
        self.begun.set()
        if self._idle:
            self._transport.pause_reading()
            return
        mark = MARKS[self._way]
        data = self._rest + data
        self.arrived.extend([now] * data.count(mark))
        self._rest = data[1 - len(mark) :]
        if len(self.arrived) >= self._wanted:
            self.done.set()

    def connection_lost(self, _: Exception | None) -> None:
        """Whoever waits for more is not left waiting."""
        self.begun.set()
        self.done.set()

    def leave(self) -> None:
        """Go without a word."""
        if self._transport is not None:
            self._transport.abort()


def address(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def opening(way: Way, host: str) -> bytes:
    """The request for a live stream of the run from now on."""
    head = f"Host: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
    if way == "SSE":
        return f"GET /api/v1/stream?run={RUN} HTTP/1.1\r\n{head}\r\n".encode()
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    return f"GET /api/v1/live HTTP/1.1\r\n{head}{upgrade}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()


def text_frame(text: str) -> bytes:
    """A WebSocket frame from a client, masked with zeros; at most 125 bytes."""
    body = text.encode()
    if len(body) > 125:
        raise ValueError("a longer text needs another head")
    return bytes((0x81, 0x80 | len(body))) + bytes(4) + body


async def api(nats_url: str, port: str, store_url: str = _NO_STORE) -> None:
    """The API by itself, until input ends."""
    with tempfile.TemporaryDirectory(prefix="enchanted-bench-") as folder:
        deps = Dependencies(
            store=Store(store_url), bus=BusLink(nats_url), access=Access(token=TOKEN), cache=Path(folder),
            heartbeat=SIGN, settled=timedelta(0),
        )  # fmt: skip
        async with served(deps, int(port)):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            await asyncio.to_thread(sys.stdin.read)


async def listen(api_url: str, way: Way, clients: str, idle: str, count: str, into: str) -> list[int]:
    """So many clients, each until it has ``count`` events; their times go into a file, in the order of clients."""
    host = urlsplit(api_url).netloc
    reading = [Listener(way, host, int(count)) for _ in range(int(clients))]
    lazy = [Listener(way, host, 0, idle=True) for _ in range(int(idle))]
    await asyncio.gather(*(_joined(one, api_url) for one in (*reading, *lazy)))
    begin()
    for one in reading:
        await one.done.wait()
    for one in (*reading, *lazy):
        one.leave()
    await asyncio.to_thread(Path(into).write_bytes, b"".join(one.arrived.tobytes() for one in reading))
    return [len(one.arrived) for one in reading]


async def _joined(one: Listener, api_url: str) -> None:
    await asyncio.get_running_loop().create_connection(lambda: one, *address(api_url))
    await one.begun.wait()


async def subscribe(nats_url: str, count: str) -> list[float]:
    """The floor: a core subscription to every event's subject, in nats-py; when each message was there."""
    arrived, done = list[float](), asyncio.Event()

    async def keep(_: Msg) -> None:
        arrived.append(time.perf_counter())
        if len(arrived) >= int(count):
            done.set()

    bus = await nats.connect(nats_url)
    await bus.subscribe(ALL_EVENTS, cb=keep)
    await bus.flush()
    begin()
    await done.wait()
    await bus.close()
    return arrived


ROLES: dict[str, Role] = {"api": api, "listen": listen, "subscribe": subscribe}


if __name__ == "__main__":
    play(ROLES)
