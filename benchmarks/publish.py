"""How fast can events be made durable? Group commit beside the same load published singly and hand-batched loops.

Every case publishes the same payload with a new id in the same header, and counts an event once it is acknowledged.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client

from enchanted.benchmarks.case import Benchmark, Result, Row
from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, nats_server

QUESTION = "events per second, each acknowledged after fsync, with 1 to 500 publishers at once; one publisher's latency"
SUBJECT = "swarm.events.coder.decision"
PAYLOAD = bytes(925)
PROCESSES, CONNECTIONS, PER_CONNECTION = 2, 8, 4

NOTES = (
    f"payload {len(PAYLOAD)} bytes, sync_interval always, publishers are closed loops; 'hand N' is one bare "
    "nats-py loop of atomic batches of N; cases are interleaved, figures are medians",
    "CPU is that of the publishing process, nats-server's is not in it",
    f"{PROCESSES} x {CONNECTIONS} connections: processes and connections in each, {PER_CONNECTION} publishers on each "
    "connection; connecting is not in the time",
)


@dataclass(frozen=True, slots=True)
class _Sample:
    """One run of one case."""

    rate: float
    cpu: float
    """Microseconds for one event."""


_Load = Callable[[str, int, int], Awaitable[_Sample]]


async def run(smoke: bool) -> Result:
    """Measure every case against one server with ``sync_interval: always``."""
    scale, repeats = (0.1, 1) if smoke else (1.0, 5)
    samples: dict[str, list[_Sample]] = {}
    latencies: dict[str, list[float]] = {"js.publish p50": [], "Publisher p50": []}
    with tempfile.TemporaryDirectory() as folder:
        async with nats_server(Path(folder)) as server:
            for _ in range(repeats):
                for name, (load, width, events) in _CASES.items():
                    each = max(1, int(events * scale) // width)
                    samples.setdefault(name, []).append(await load(server.url, width, each))
                for name, grouped in (("single", False), ("group commit", True)):
                    many = await asyncio.to_thread(_many, server, grouped, max(1, int((40 if grouped else 4) * scale)))
                    samples.setdefault(f"{name} {PROCESSES} x {CONNECTIONS} connections", []).append(many)
                latencies["js.publish p50"].append(await _latency_bare(server, 100))
                latencies["Publisher p50"].append(await _latency(server, 100))
    return Result(benchmark="publish", question=QUESTION, rows=_rows(samples, latencies), notes=NOTES, smoke=smoke)


def _rows(samples: dict[str, list[_Sample]], latencies: dict[str, list[float]]) -> tuple[Row, ...]:
    many = f"{PROCESSES} x {CONNECTIONS} connections"
    floors = {f"group commit {n}": f"hand {n}" for n in (16, 64, 500)} | {f"group commit {many}": f"single {many}"}
    rows = [
        Row(name=name, unit="events/s", samples=[s.rate for s in taken], floor=floors.get(name, ""))
        for name, taken in samples.items()
    ]
    group = [s.rate for s in samples["group commit 64"]]
    rows += [
        Row(name="group commit 64 over single 64", unit="events/s", samples=group, floor="single 64"),
        Row(name="group commit 64 over hand 500", unit="events/s", samples=group, floor="hand 500"),
    ]
    rows += [
        Row(name=f"{name} CPU", unit="us/event", samples=[s.cpu for s in taken]) for name, taken in samples.items()
    ]
    rows += [
        Row(name=name, unit="ms", samples=taken, floor="js.publish p50" if name == "Publisher p50" else "")
        for name, taken in latencies.items()
    ]
    return tuple(rows)


async def _singly(url: str, publishers: int, each: int) -> _Sample:
    client = await nats.connect(url)
    sample = await _timed(lambda: _publish_bare(client, each), publishers, each)
    await client.close()
    return sample


async def _publish_bare(client: Client, count: int) -> None:
    stream = client.jetstream()
    for _ in range(count):
        await stream.publish(SUBJECT, PAYLOAD, headers={"Nats-Msg-Id": new_id()}, timeout=60)


async def _group_commit(url: str, publishers: int, each: int) -> _Sample:
    async with Bus.connect(url) as bus:
        return await _timed(lambda: _publish(bus, each), publishers, each)


async def _publish(bus: Bus, count: int) -> None:
    for _ in range(count):
        await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=PAYLOAD, event_id=new_id()))


async def _by_hand(url: str, size: int, batches: int) -> _Sample:
    client = await nats.connect(url)

    async def loop() -> None:
        for _ in range(batches):
            await _batch(client, size)

    sample = await _timed(loop, 1, size * batches)
    await client.close()
    return sample


async def _timed(publisher: Callable[[], Awaitable[None]], publishers: int, each: int) -> _Sample:
    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(publisher() for _ in range(publishers)))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return _Sample(publishers * each / seconds, cpu / (publishers * each) * 1e6)


async def _batch(client: Client, size: int) -> None:
    batch = new_id()
    for number in range(1, size):
        headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number), "Nats-Msg-Id": new_id()}
        await client.publish(SUBJECT, PAYLOAD, headers=headers)
    headers = {
        "Nats-Batch-Id": batch,
        "Nats-Batch-Sequence": str(size),
        "Nats-Batch-Commit": "1",
        "Nats-Msg-Id": new_id(),
    }
    await client.request(SUBJECT, PAYLOAD, timeout=60, headers=headers)


def _many(server: NatsServer, grouped: bool, each: int) -> _Sample:
    """Several connections in several processes at once."""
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        begin = time.perf_counter() + 2.0
        done = list(
            pool.map(_process, [server.url] * PROCESSES, [grouped] * PROCESSES, [each] * PROCESSES, [begin] * PROCESSES)
        )
    events = PROCESSES * CONNECTIONS * PER_CONNECTION * each
    seconds = max(end for _, end, _ in done) - min(start for start, _, _ in done)
    return _Sample(events / seconds, sum(cpu for _, _, cpu in done) / events * 1e6)


def _process(url: str, grouped: bool, each: int, begin: float) -> tuple[float, float, float]:
    """Start, end (on the clock all processes share) and CPU seconds of this process's part."""
    return asyncio.run(_connections(url, grouped, each, begin))


async def _connections(url: str, grouped: bool, each: int, begin: float) -> tuple[float, float, float]:
    async with AsyncExitStack() as stack:
        loops = [await _connection(stack, url, grouped, each) for _ in range(CONNECTIONS)]
        await asyncio.sleep(max(0.0, begin - time.perf_counter()))
        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(loop() for loop in loops for _ in range(PER_CONNECTION)))
        return start, time.perf_counter(), time.process_time() - cpu


async def _connection(stack: AsyncExitStack, url: str, grouped: bool, each: int) -> Callable[[], Awaitable[None]]:
    if grouped:
        bus = await stack.enter_async_context(Bus.connect(url))
        return lambda: _publish(bus, each)
    client = await nats.connect(url)
    stack.push_async_callback(client.close)
    return lambda: _publish_bare(client, each)


async def _latency_bare(server: NatsServer, count: int) -> float:
    client = await nats.connect(server.url)
    stream = client.jetstream()
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        await stream.publish(SUBJECT, PAYLOAD, headers={"Nats-Msg-Id": new_id()})
        samples.append(time.perf_counter() - begun)
    await client.close()
    return sorted(samples)[count // 2] * 1_000


async def _latency(server: NatsServer, count: int) -> float:
    samples = []
    async with Bus.connect(server.url) as bus:
        for _ in range(count):
            begun = time.perf_counter()
            await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=PAYLOAD, event_id=new_id()))
            samples.append(time.perf_counter() - begun)
    return sorted(samples)[count // 2] * 1_000


_CASES: dict[str, tuple[_Load, int, int]] = {
    "single 1": (_singly, 1, 60),
    "single 64": (_singly, 64, 256),
    "hand 16": (_by_hand, 16, 960),
    "hand 64": (_by_hand, 64, 3_200),
    "hand 500": (_by_hand, 500, 5_000),
    "group commit 1": (_group_commit, 1, 60),
    "group commit 16": (_group_commit, 16, 960),
    "group commit 64": (_group_commit, 64, 3_200),
    "group commit 500": (_group_commit, 500, 5_000),
}

BENCHMARK = Benchmark(name="publish", question=QUESTION, run=run)
