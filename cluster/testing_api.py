"""For tests: the API in a process of its own, which can be killed, frozen, and brought back on the same port.

``python -m enchanted.cluster.testing_api NATS STORE FOLDER PORT``; it lives until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from enchanted.bus.testing import free_port
from enchanted.cluster.testing_world import TOKEN
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, served


class ApiProcess:
    """An API before a world's services, beside the world's own."""

    def __init__(self, world: World, folder: Path) -> None:
        self._port = free_port()
        self._arguments = (world.nats.url, world.store_url, str(folder), str(self._port))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it is, and will be again."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """It was started and not killed since."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; returns when it answers."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "enchanted.cluster.testing_api", *self._arguments, stdin=pipe, stdout=pipe
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n", "the API ended before it was ready"

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """`kill -9`; returns when it is gone."""
        assert self._process is not None
        if self.running:
            self._process.kill()
        await self._process.communicate()


@contextlib.asynccontextmanager
async def api_process(world: World, folder: Path) -> AsyncIterator[ApiProcess]:
    """One that answers; it ends with the block."""
    process = ApiProcess(world, folder)
    await process.start()
    try:
        yield process
    finally:
        await process.kill()


async def serve(nats_url: str, store_url: str, folder: str, port: str) -> None:
    """The API until input ends."""
    deps = Dependencies(
        store=Store(store_url, deadline=30), bus=BusLink(nats_url), access=Access(token=TOKEN), cache=Path(folder)
    )
    async with served(deps, int(port)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
