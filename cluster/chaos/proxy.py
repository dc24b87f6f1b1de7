"""A TCP proxy that misbehaves. For tests; see tests/chaos/test_network.py."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def abort(self) -> None:
        """Reset both sides: nothing that waits is delivered."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class TcpProxy:
    """Forwards one loopback port to another, as well as it is told to."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0
        self.swallow_replies = False
        """What the server says is thrown away; what the client says arrives."""
        self.refuse = False
        """New connections are reset at once."""
        self.delay = 0.0
        """Seconds each piece waits, in both directions."""
        self.swallowed = 0
        """Bytes of replies thrown away."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for connection in list(self._connections):
            connection.abort()

    def pause(self) -> None:
        """Forward nothing; connections stay open, as behind a dead switch."""
        self._open.clear()

    def resume(self) -> None:
        """Forward again, what waited first."""
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, server_writer)
        self._connections.add(connection)
        for source, sink, is_reply in ((reader, server_writer, False), (server_reader, writer, True)):
            task = asyncio.create_task(self._forward(connection, source, sink, is_reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                if is_reply and self.swallow_replies:
                    self.swallowed += len(piece)
                    continue
                sink.write(piece)
                await sink.drain()
        self._connections.discard(connection)
        connection.abort()
