"""For tests: a real nats-server that can be killed and started again, and an in-memory bus."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from enchanted.bus.connection import Bus
from enchanted.bus.link import Link
from enchanted.bus.memory import InMemoryBus
from enchanted.bus.server_config import MAX_FILE_STORE, Sync, render
from enchanted.bus.staging import BatchStaging
from enchanted.bus.streams import StreamLimits

__all__ = ["SMALL_LIMITS", "InMemoryBus", "NatsServer", "all_stopped", "free_port", "nats_server"]

SMALL_LIMITS = StreamLimits(
    events_max_bytes=256 * 1024**2,
    blobs_max_bytes=256 * 1024**2,
    spans_max_bytes=64 * 1024**2,
    dead_letters_max_bytes=64 * 1024**2,
)

_PR_SET_PDEATHSIG = 1


_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A TCP port that was free a moment ago, and is none of those that Linux gives away by itself (from 32,768 on)."""
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class NatsServer:
    """A nats-server process with its own folder, port and credentials."""

    def __init__(self, folder: Path, *, sync: Sync = "always", max_file_store: int = MAX_FILE_STORE) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self.url = f"nats://app:{self.password}@127.0.0.1:{self.port}"
        self.sys_url = f"nats://sys:{self.password}@127.0.0.1:{self.port}"
        self._sync = sync
        self._max_file_store = max_file_store
        self._process: asyncio.subprocess.Process | None = None
        self.staging = BatchStaging(folder / "store")

    @property
    def pid(self) -> int:
        """The process id; 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start the process; returns when JetStream answers."""
        config = await self._write_config()
        self.staging.prepare()
        binary = Path(sys.executable).parent / "nats-server"
        log = await anyio.open_file(self.folder / "nats.log", "ab")
        async with log:
            self._process = await asyncio.create_subprocess_exec(
                binary, "-c", config, stdout=log.wrapped, stderr=log.wrapped, preexec_fn=_die_with_parent
            )
        link = Link(self.url, name="readiness", connect_timeout=60.0)
        try:
            await link.open()
            await link.api("INFO")
        finally:
            await link.close()
        self.staging.tend()

    async def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM. Idempotent."""
        await self._end(signal.SIGTERM)

    async def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers. Returns when every thread has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        async with asyncio.timeout(60.0):
            while not all_stopped(self.pid):  # noqa: ASYNC110  # /proc has no event for it
                await asyncio.sleep(0.002)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(with_signal)
        async with asyncio.timeout(20.0):
            await process.wait()
        self.staging.remove()

    async def _write_config(self) -> Path:
        folder = anyio.Path(self.folder)
        await folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nats.conf"
        text = render(
            port=self.port,
            store_dir=self.folder / "store",
            user="app",
            password=self.password,
            sys_user="sys",
            sys_password=self.password,
            sync=self._sync,
            max_file_store=self._max_file_store,
        )
        await config.write_text(text)
        return Path(config)


def all_stopped(pid: int) -> bool:
    """Whether every thread of a process stands still after SIGSTOP."""
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) == {"T"}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@asynccontextmanager
async def nats_server(
    folder: Path,
    *,
    sync: Sync = "always",
    max_file_store: int = MAX_FILE_STORE,
    limits: StreamLimits | None = SMALL_LIMITS,
) -> AsyncIterator[NatsServer]:
    """A running server with our streams made (none with ``limits=None``); ended when the block ends."""
    server = NatsServer(folder, sync=sync, max_file_store=max_file_store)
    try:
        await server.start()
        if limits is not None:
            async with Bus.connect(server.url, name="setup") as bus:
                await bus.ensure_streams(limits)
            server.staging.tend()
        yield server
    finally:
        await server.kill()
