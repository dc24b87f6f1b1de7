"""A real store process for tests: its own folder, a free port, ended with the block."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from enchanted.cluster.store.credentials import Credentials, load

START_DEADLINE = 30.0
STOP_DEADLINE = 60.0
_PR_SET_PDEATHSIG = 1


class StoreProcess:
    """A store under a test's control: it can be killed and started again on the same folder and port."""

    def __init__(self, folder: Path, port: int = 0, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.port = port
        self._host = host
        self._process: asyncio.subprocess.Process | None = None

    @property
    def credentials(self) -> Credentials:
        """Both logins."""
        return load(self.folder / "credentials.json")

    @property
    def url(self) -> str:
        """For the writer: ``http://user:password@host:port/database``."""
        return self.credentials.writer.url(self.port)

    @property
    def reader_url(self) -> str:
        """For the reader."""
        return self.credentials.reader.url(self.port)

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        if self._process is None:
            raise RuntimeError("the store is not running; call start()")
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it listens; a port that was free the first time is kept."""
        place = ["--folder", str(self.folder), "--host", self._host, "--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "enchanted.cluster.store",
            *place,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_DEADLINE)
        if not line:
            raise RuntimeError((await self._process.stderr.read()).decode())
        self.port = int(json.loads(line)["port"])

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, with SIGKILL or politely; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(how)
        try:
            # The pipes are read to their end, or a chatty process would never get to its own.
            await asyncio.wait_for(process.communicate(), STOP_DEADLINE)
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise
        return process.returncode or 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@asynccontextmanager
async def store_process(folder: Path) -> AsyncIterator[StoreProcess]:
    """A running store to be killed and restarted at will."""
    store = StoreProcess(folder)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


@asynccontextmanager
async def running_store(folder: Path) -> AsyncIterator[str]:
    """The writer's URL of a store that runs as long as the block."""
    async with store_process(folder) as store:
        yield store.url
