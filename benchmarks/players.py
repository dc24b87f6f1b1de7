"""Processes a pipeline measurement is made of: each connects, says that it is ready, and begins when told.

``python -m enchanted.benchmarks.players ROLE NATS STORE ARGUMENT…``; it prints what it found and lives until its input
ends, so that its CPU can be read from outside.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import nats
import psutil
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from enchanted.benchmarks import ingest
from enchanted.benchmarks.load import AGENTS, Published, load, mean_bytes
from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.connection import Bus
from enchanted.ingest import wire
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.rows import Row as Message
from enchanted.ingest.tables import connect
from enchanted.ingest.worker import IngestWorker, collect_seldom
from enchanted.schemas.events import parse_event

PUBLISHERS = 500
TICK = 0.01
"""Seconds between the moments at which offered load is due."""
START_DEADLINE = 120.0
LONGEST = 64 * 1024**2
"""Bytes of what a process may have found."""
Role = Callable[..., Awaitable[Any]]


class Player:
    """One of them, seen from the benchmark."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def ready(self) -> None:
        """Wait until it is connected and has what it needs."""
        assert self._process.stdout is not None
        async with asyncio.timeout(START_DEADLINE):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process of the measurement ended before it was ready; its error is above")

    def begin(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def found(self) -> Any:
        """What it found; it still lives, so that its CPU can be read."""
        assert self._process.stdout is not None
        return json.loads(await self._process.stdout.readline() or b"null")

    async def end(self) -> Any:
        """End it; returns what it found."""
        found, _ = await self._process.communicate(b"")
        return json.loads(found or b"null")


@asynccontextmanager
async def player(
    role: str, *arguments: object, module: str = "players", environment: Mapping[str, str] | None = None
) -> AsyncIterator[Player]:
    """A process of this role of a module of benchmarks, ready to begin; killed with the block if it has not ended.

    ``environment``: variables it has beside ours.
    """
    command = (sys.executable, "-m", f"enchanted.benchmarks.{module}", role, *(str(one) for one in arguments))
    pipe = asyncio.subprocess.PIPE
    # What it leaves when it is killed goes as well; not below a folder with a long name, there are sockets in it.
    with tempfile.TemporaryDirectory(prefix="eb-", ignore_cleanup_errors=True) as folder:
        variables = {**os.environ, **(environment or {}), "TMPDIR": folder}
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LONGEST, env=variables)
        try:
            one = Player(process)
            await one.ready()
            yield one
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


class Meter:
    """CPU seconds of processes, from /proc: in steps of 10 ms."""

    def __init__(self, **pids: int) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._begun = self._now()

    def spent(self) -> dict[str, float]:
        """CPU seconds of each since it was made."""
        return {name: now - self._begun[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: float(one.user + one.system) for name, one in times.items()}


async def publish_all(nats_url: str, events: list[Published]) -> None:
    """As fast as batches go."""
    async with Bus.connect(nats_url) as bus:
        await bus.publisher.publish_many([one.outgoing for one in events])


async def offer(
    nats_url: str, _store_url: str, count: str, rate: str, agents: str = str(AGENTS)
) -> list[tuple[int, float, float]]:
    """Open loop: what is due is published whatever became of the rest. Sequence, acknowledged at, handed over at."""
    events = load(int(count), seed=7, agents=int(agents))
    return await offered(nats_url, [one.outgoing for one in events], float(rate))


async def offered(nats_url: str, messages: list[Outgoing], rate: float) -> list[tuple[int, float, float]]:
    """Messages in an open loop, as many a second; what `offer` returns."""
    acknowledged = list[tuple[int, float, float]]()

    async def publish(message: Outgoing) -> None:
        handed = time.perf_counter()
        ack: Ack = await bus.publisher.publish(message)
        acknowledged.append((ack.seq, time.perf_counter(), handed))

    async with Bus.connect(nats_url) as bus, asyncio.TaskGroup() as group:
        begin()
        begun, sent = time.perf_counter(), 0
        while sent < len(messages):
            due = min(len(messages), int((time.perf_counter() - begun) * rate) + 1)
            for one in messages[sent:due]:
                group.create_task(publish(one))
            sent = due
            await asyncio.sleep(TICK)
    return acknowledged


async def publish(
    nats_url: str, _store_url: str, count: str, seed: str = "8", agents: str = str(AGENTS), text: str = ""
) -> tuple[float, int]:
    """Closed loops that share one connection, as agents in one process do.

    Returns the events' bytes on average, and how many agents had one.
    """
    events = load(int(count), int(seed), agents=int(agents), text=int(text) if text else None)
    told = mean_bytes(events), len({parse_event(one.raw).agent_id for one in events})
    waiting = iter([one.outgoing for one in events])

    async def loop() -> None:
        for message in waiting:
            await bus.publisher.publish(message)

    async with Bus.connect(nats_url) as bus:
        begin()
        await asyncio.gather(*(loop() for _ in range(PUBLISHERS)))
    return told


async def work(nats_url: str, store_url: str, rows: str, seconds: str) -> None:
    """The ingest worker as it is deployed, until input ends."""
    limits = BatchLimits(rows=int(rows), seconds=float(seconds))
    async with IngestWorker(nats_url=nats_url, clickhouse_url=store_url, limits=limits) as worker:
        await worker.ready()
        collect_seldom()
        begin()
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(sys.stdin.read)
        await worker.close()
        await running


async def fetch(nats_url: str, store_url: str, count: str) -> None:
    """The obvious ingestor of `ingest`: fetch 1,000, parse, insert rows, acknowledge each."""
    await ingest.fetching(nats_url, store_url, int(count), begin)


async def bare(nats_url: str, store_url: str, count: str) -> None:
    """The floor of freshness: what came is inserted each second; no check, hash, look-up or acknowledgement."""
    bus, table, created = await nats.connect(nats_url), await connect(store_url), datetime.now(UTC)
    waiting: list[Message] = []
    done, digest = 0, bytes(32)

    async def keep(message: Msg) -> None:
        at = message.metadata
        micros = int(at.timestamp.timestamp() * 1_000_000)
        waiting.append(Message(at.sequence.stream, micros, message.subject, message.data, digest, "", True, False))

    begin()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    await bus.jetstream().subscribe("swarm.events.>", stream=ingest.STREAM, cb=keep, config=config, manual_ack=True)
    while done < int(count):
        await asyncio.sleep(1.0)
        if not waiting:
            continue
        body = memoryview(wire.body(waiting))
        done += len(waiting)
        waiting.clear()
        await table.raw_insert(wire.target(created), insert_block=body, settings=wire.SETTINGS, fmt=wire.FORMAT)  # type: ignore[arg-type]
    await bus.close()
    await table.close()


def begin() -> None:
    """Say that everything is connected, and wait to be told."""
    print("ready", flush=True)
    sys.stdin.readline()


ROLES: dict[str, Role] = {"offer": offer, "publish": publish, "work": work, "fetch": fetch, "bare": bare}


def play(roles: dict[str, Role]) -> None:
    """Play the role that is named first."""
    role, *arguments = sys.argv[1:]
    print(json.dumps(asyncio.run(_play(roles[role], arguments))), flush=True)
    sys.stdin.read()


async def _play(role: Role, arguments: list[str]) -> Any:
    return await role(*arguments)


if __name__ == "__main__":
    play(ROLES)
