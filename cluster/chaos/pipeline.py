"""The data plane as processes of its own that can be killed, stopped and cut off from each other. For tests."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusUnavailable
from enchanted.bus.reader import consumer_state
from enchanted.bus.streams import EVENTS_STREAM, StreamLimits
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.chaos.proxy import TcpProxy
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import DURABLE

BACK_SECONDS = 60.0
STUCK_SECONDS = 75.0
"""Without one message acknowledged."""
LIMITS = StreamLimits(
    events_max_bytes=4 * 1024**3,
    blobs_max_bytes=64 * 1024**2,
    spans_max_bytes=64 * 1024**2,
    dead_letters_max_bytes=256 * 1024**2,
)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that was done to the pipeline."""

    kind: str
    """``kill``, ``stop`` or ``cut``."""
    victim: str
    at: float
    """Seconds since the pipeline began."""
    killed: int = 0
    """The process that was killed, or stopped."""
    back: int = 0
    """The process that took its place."""
    seconds: float = 0.0
    """Until that was there, or it went on."""

    def __str__(self) -> str:
        return f"{self.at:7.1f} s {self.kind} {self.victim:<6} {self.killed} -> {self.back} in {self.seconds:.2f} s"


class Worker:
    """An ingest worker's process, started again whenever it ends, as Ray does with the actor."""

    def __init__(self, nats_url: str, clickhouse_url: str, log: Path, way: str = "safe") -> None:
        self._arguments = ("-m", "enchanted.cluster.chaos.worker", way, nats_url, clickhouse_url)
        self._log = log
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.pid = 0
        """Of the process that began to work last."""
        self.starts = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._supervise())
        await self.back(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def back(self, other_than: int) -> int:
        """Wait for a process at work that is another one."""
        async with asyncio.timeout(BACK_SECONDS), self._changed:
            await self._changed.wait_for(lambda: self.pid not in (0, other_than))
        return self.pid

    async def _supervise(self) -> None:
        async with await anyio.open_file(self._log, "ab") as log:
            while True:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *self._arguments,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log.wrapped,
                    preexec_fn=_die_with_parent,
                )
                assert process.stdout is not None
                try:
                    if line := await process.stdout.readline():
                        async with self._changed:
                            self.pid, self.starts = int(line), self.starts + 1
                            self._changed.notify_all()
                    await process.wait()
                finally:
                    if process.returncode is None:
                        process.kill()
                        await process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Pipeline:
    """A bus, a worker and a store, and what was done to them."""

    bus: Bus
    """To ask what the stream and its consumer hold."""
    nats: NatsServer
    store: StoreProcess
    worker: Worker
    proxies: dict[str, TcpProxy]
    """Between the worker and the "bus" or "store"; empty when it is connected directly."""
    faults: list[Fault] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def pid(self, victim: str) -> int:
        """Of a part that runs."""
        return {"worker": lambda: self.worker.pid, "store": lambda: self.store.pid, "nats": lambda: self.nats.pid}[
            victim
        ]()

    async def kill(self, victim: str) -> Fault:
        """SIGKILL; returns when another process is in its place."""
        at, pid, back = time.monotonic(), self.pid(victim), 0
        if victim == "worker":
            os.kill(pid, signal.SIGKILL)
            back = await self.worker.back(pid)
        elif victim == "store":
            await self.store.stop(signal.SIGKILL)
            await self.store.start()
            back = self.store.pid
        else:
            await self.nats.kill()
            await self.nats.start()
            back = self.nats.pid
        return self._note("kill", victim, at, pid, back)

    async def stop(self, victim: str, seconds: float) -> Fault:
        """SIGSTOP, and SIGCONT after ``seconds``."""
        at, pid = time.monotonic(), self.pid(victim)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return self._note("stop", victim, at, pid, pid)

    async def cut(self, where: str) -> Fault:
        """Reset the worker's connections to the bus or the store; refuse new ones for a moment."""
        at, proxy = time.monotonic(), self.proxies[where]
        proxy.refuse = True
        proxy.cut()
        await asyncio.sleep(0.3)
        proxy.refuse = False
        return self._note("cut", where, at, 0, 0)

    async def until_acknowledged(self) -> float:
        """Wait until the worker has acknowledged all there is in the stream; the seconds that took.

        Raises:
            TimeoutError: nothing was acknowledged for STUCK_SECONDS.
        """
        begun = moved = time.monotonic()
        reached = -1
        while (acknowledged := await self.acknowledged()) < (last := await self.last_seq()):
            if acknowledged != reached:
                reached, moved = acknowledged, time.monotonic()
            if time.monotonic() - moved > STUCK_SECONDS:
                raise TimeoutError(f"stuck at {acknowledged} of {last}: {await self._state()}")
            await asyncio.sleep(0.1)
        return time.monotonic() - begun

    async def acknowledged(self) -> int:
        """The sequence up to which all is acknowledged; -1 while the bus does not say."""
        with contextlib.suppress(BusUnavailable):
            consumer = await consumer_state(self.bus.link, EVENTS_STREAM, DURABLE)
            return consumer.acknowledged if consumer is not None else 0
        return -1

    async def last_seq(self) -> float:
        """The stream's end; infinite while the bus does not say."""
        with contextlib.suppress(BusUnavailable):
            return (await self.bus.stream_info()).last_seq
        return math.inf

    async def _state(self) -> str:
        os.kill(self.worker.pid, signal.SIGUSR1)
        await asyncio.sleep(1.0)
        consumer = await self.bus.link.api(f"CONSUMER.INFO.{EVENTS_STREAM}.{DURABLE}")
        return f"{consumer}, worker {self.worker.pid} after {[str(fault) for fault in self.faults[-20:]]}"

    def _note(self, kind: str, victim: str, at: float, killed: int, back: int) -> Fault:
        seconds = time.monotonic() - at
        fault = Fault(kind=kind, victim=victim, at=at - self.begun, killed=killed, back=back, seconds=seconds)
        self.faults.append(fault)
        return fault


@asynccontextmanager
async def pipeline(
    folder: Path, *, way: str = "safe", proxied: bool = False, working: bool = True, limits: StreamLimits = LIMITS
) -> AsyncIterator[Pipeline]:
    """Everything started, with a worker of that way; ended with the block.

    Unless ``working``, the worker is to be entered by the caller.
    """
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(nats_server(folder / "nats", limits=limits))
        store = await stack.enter_async_context(store_process(folder / "store"))
        # A worker that is killed before it has made them would leave the checker without a table to ask.
        client = await connect(store.url)
        await apply_ddl(client)
        await client.close()
        urls, proxies = {"bus": nats.url, "store": store.url}, {}
        for where, port in (("bus", nats.port), ("store", store.port)) if proxied else ():
            proxies[where] = await stack.enter_async_context(TcpProxy(port))
            urls[where] = urls[where].replace(f":{port}", f":{proxies[where].port}")
        worker = Worker(urls["bus"], urls["store"], folder / "worker.log", way)
        if working:
            await stack.enter_async_context(worker)
        bus = await stack.enter_async_context(Bus.connect(nats.url, name="checker"))
        yield Pipeline(bus, nats, store, worker, proxies)


async def kill_every(made: Pipeline, victim: str, seconds: float, over: asyncio.Event) -> None:
    """Kill a part again and again, at most every so many seconds, until it is over.

    A worker has acknowledged something in between, however slow the machine is: who is killed before it can do
    anything proves nothing.
    """
    due = time.monotonic() + seconds
    while not await _within(over, due - time.monotonic()):
        due = time.monotonic() + seconds
        await made.kill(victim)
        reached = await made.acknowledged()
        while victim == "worker" and await made.acknowledged() <= reached and not over.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def fault_every(made: Pipeline, seconds: float, over: asyncio.Event, *, seed: int, stopped: float) -> None:
    """One fault of the menu every so many seconds, each once before any comes again, until it is over."""
    dice = random.Random(seed)
    menu: list[Callable[[], object]] = []
    due = time.monotonic() + seconds
    while not await _within(over, due - time.monotonic()):
        menu = menu or _menu(made, dice, stopped)
        await menu.pop()()  # type: ignore[misc]
        due += seconds


def _menu(made: Pipeline, dice: random.Random, stopped: float) -> list[Callable[[], object]]:
    def stop(victim: str) -> Callable[[], object]:
        return lambda: made.stop(victim, dice.uniform(0.5, 1.0) * stopped)

    parts = ("worker", "store", "nats")
    kills = [lambda part=part: made.kill(part) for part in parts]
    cuts = [lambda where=where: made.cut(where) for where in made.proxies]
    menu = [*kills, *(stop(part) for part in parts), *cuts]
    dice.shuffle(menu)
    return menu


async def _within(over: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await over.wait()
    except TimeoutError:
        return False
    return True
