"""TCP as a client sees it: in order or cut, late, stalled, or silent for ever. The bytes are nats-py's own."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from tests.simulation.loop import OUTSIDE, PROCESS, SimulatedLoop


class Session(Protocol):
    """The server's end of a connection."""

    def receive(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Pipe:
    """One direction: what is sent arrives in order, after a while, unless the connection is cut before."""

    def __init__(
        self, network: Network, arrive: Callable[[bytes], None], context: contextvars.Context, end: Callable[[], None]
    ) -> None:
        self._network = network
        self._arrive = arrive
        self._context = context
        self._end = end
        self._free_at = 0.0
        self._under_way: deque[bytes] = deque()
        self._lost_after = -1
        self.silent = False

    def send(self, data: bytes) -> None:
        if self.silent or self._lost_after >= 0:
            return
        self._under_way.append(data)
        self._schedule(self._deliver)

    def stall(self, seconds: float) -> None:
        """Nothing arrives for a while."""
        self._free_at = max(self._free_at, self._network.loop.time() + seconds)

    def cut(self, keep: int) -> None:
        """Only the first ``keep`` of the pieces under way still arrive, the last of them in part; then the end."""
        if self._lost_after < 0:
            self._lost_after = min(keep, len(self._under_way))
            self._schedule(self._end)

    def _schedule(self, what: Callable[[], None]) -> None:
        network = self._network
        self._free_at = max(self._free_at + 1e-9, network.loop.time() + network.latency())
        network.loop.call_at(self._free_at, what, context=self._context)

    def _deliver(self) -> None:
        data = self._under_way.popleft()
        if self.silent:
            return
        if self._lost_after >= 0:
            if self._lost_after == 0:
                return
            self._lost_after -= 1
            if self._lost_after == 0:
                data = data[: self._network.chance.randrange(len(data) + 1)]
        self._arrive(data)


class Connection(asyncio.Transport):
    """A client's transport, and the world's handle on the connection."""

    def __init__(self, network: Network, protocol: asyncio.Protocol, serve: Callable[[Connection], Session]) -> None:
        super().__init__()
        self._network = network
        self._protocol: Any = protocol
        self._context = contextvars.copy_context()
        self.closed = False
        self.down = Pipe(network, self._received, self._context, self._lost)
        self.session = serve(self)
        self.up = Pipe(network, self.session.receive, OUTSIDE, self.session.close)

    def write(self, data: Any) -> None:
        if not self.closed and not self._network.over:
            self.up.send(bytes(data))
            self._network.note_traffic(self)

    def to_client(self, data: bytes) -> None:
        """Called by the server."""
        if not self.closed:
            self.down.send(data)

    def cut(self, *, late: bool) -> None:
        """The connection breaks. ``late``: what the client sent before may still reach the server."""
        if self.closed:
            return
        self.closed = True
        self.down.cut(0)
        self.up.cut(self._network.chance.randrange(4) if late else 0)
        self._network.connections.pop(self, None)

    def silence(self) -> None:
        """From now on nothing arrives on either side, and neither is told."""
        self.up.silent = self.down.silent = True

    def _received(self, data: bytes) -> None:
        if self._protocol is not None:
            self._protocol.data_received(data)

    def _lost(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(ConnectionResetError("cut"))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.up.cut(1_000_000)
            self._network.connections.pop(self, None)
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self._network.loop.call_soon(protocol.connection_lost, None, context=self._context)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Network:
    """All connections to the one server."""

    def __init__(self, loop: SimulatedLoop, chance: Random) -> None:
        self.loop = loop
        self.chance = chance
        self.serve: Callable[[Connection], Session] | None = None
        """None while the server is down."""
        self.connections: dict[Connection, None] = {}
        self.on_traffic: Callable[[Connection], None] | None = None
        self.slow = 0.0
        """How often a piece takes long."""
        self.over = False
        loop.network = self.connect

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[Connection, asyncio.BaseProtocol]:
        await asyncio.sleep(self.latency())
        if self.serve is None or self.over:
            raise ConnectionRefusedError("nobody listens")
        protocol: Any = factory()
        connection = Connection(self, protocol, self.serve)
        self.connections[connection] = None
        process = PROCESS.get(None)
        if process is not None:
            process.on_death.append(lambda: connection.cut(late=True))
        protocol.connection_made(connection)
        return connection, protocol

    def latency(self) -> float:
        """Seconds until a piece arrives."""
        if self.slow and self.chance.random() < self.slow:
            return self.chance.uniform(0.05, 3.0)
        return 0.0001 + 0.002 * self.chance.random()

    def note_traffic(self, connection: Connection) -> None:
        if self.on_traffic is not None:
            self.on_traffic(connection)
