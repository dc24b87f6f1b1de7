"""``python -m enchanted.cluster.store --folder DIR``: the store as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from enchanted.cluster.store.credentials import load
from enchanted.cluster.store.errors import StoreError
from enchanted.cluster.store.lock import FolderLock

if TYPE_CHECKING:
    from enchanted.cluster.store.engine import Engine
    from enchanted.cluster.store.front import Front

log = logging.getLogger(__name__)

DRAIN = 2.0
"""Seconds statements may go on after SIGTERM before they are cancelled."""
LAST_RESORT = 4.0
"""Seconds after SIGTERM by which every connection is closed."""


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or Ctrl-C; prints ``{"port": N}`` on stdout when ready."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if not ipaddress.ip_address(options.host).is_loopback:
        print("the store listens on loopback only: it speaks no TLS; put a ClickHouse server there", file=sys.stderr)
        return 2
    # Times without a zone mean UTC everywhere in the store, whatever the machine's zone is.
    os.environ["TZ"] = "UTC"
    time.tzset()
    folder: Path = options.folder.resolve()
    try:
        with FolderLock(folder):
            return _serve(folder, options)
    except (StoreError, OSError) as error:
        print(error, file=sys.stderr)
        return 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m enchanted.cluster.store", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123, help="0: a free one")
    parser.add_argument("--credentials", type=_path, help="made when missing; default: FOLDER/credentials.json")
    return parser


def _path(text: str) -> Path:
    return Path(text).absolute()


def _serve(folder: Path, options: argparse.Namespace) -> int:
    # chDB takes its time zone, and a second, when it is imported.
    from enchanted.cluster.store.engine import Engine
    from enchanted.cluster.store.front import Front

    spool = folder / "spool"
    for old in (spool, folder / "__cache__"):
        shutil.rmtree(old, ignore_errors=True)
    spool.mkdir(mode=0o700)
    # The engine keeps Protobuf schemas it is given as text below the working folder.
    os.chdir(folder)
    credentials = load(options.credentials or folder / "credentials.json")
    listener = socket.create_server((options.host, options.port), backlog=1024)
    # Inherited by every connection: without it each answer waits 40 ms for the client's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener, Engine(folder / "data") as engine:
        front = Front(engine, credentials, spool)
        asyncio.run(_until_told(front, engine, listener))
        front.close()
    return 0


class _Server(uvicorn.Server):
    """Ends by `should_exit` alone: uvicorn's own handlers raise the signal again, which would skip our close."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.told = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._end)
        yield

    def _end(self) -> None:
        self.should_exit = True
        self.told.set()


async def _until_told(front: Front, engine: Engine, listener: socket.socket) -> None:
    config = uvicorn.Config(
        front,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(LAST_RESORT),
        timeout_keep_alive=75,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    await server.listening.wait()
    print(json.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}), flush=True)
    await server.told.wait()
    await asyncio.wait([serving], timeout=DRAIN)
    if front.running:
        log.warning("%d statements are cancelled at shutdown", front.running)
        await asyncio.to_thread(engine.kill)
    await serving
    if front.running:
        # A statement that will not stop must not hold the process up; what was acknowledged is on the disk.
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
