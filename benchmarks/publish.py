"""How fast can events be made durable? Group commit beside the same load published singly and a hand-batched loop."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
from nats.aio.client import Client

from enchanted.benchmarks.case import Benchmark, Result, Row
from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, nats_server

QUESTION = "events per second, each acknowledged after fsync, with 64 publishers at once; and one publisher's latency"
PUBLISHERS = 64
SUBJECT = "swarm.events.coder.decision"
PAYLOAD = bytes(925)
HAND_BATCH = 500


async def run(smoke: bool) -> Result:
    """Measure every case against one server with ``sync_interval: always``."""
    events, repeats = (640, 1) if smoke else (12_800, 5)
    with tempfile.TemporaryDirectory() as folder:
        async with nats_server(Path(folder)) as server:
            rates: dict[str, list[float]] = {"single": [], "hand-batched": [], "group commit": []}
            latencies: dict[str, list[float]] = {"js.publish p50": [], "Publisher p50": []}
            for _ in range(repeats):
                rates["single"].append(await _rate(server, _singly, events // 8))
                rates["hand-batched"].append(await _rate(server, _by_hand, events))
                rates["group commit"].append(await _rate(server, _group_commit, events))
                latencies["js.publish p50"].append(await _latency_bare(server, 200))
                latencies["Publisher p50"].append(await _latency(server, 200))
    rows = (
        Row(name="single", unit="events/s", samples=rates["single"]),
        Row(name="hand-batched", unit="events/s", samples=rates["hand-batched"], floor="single"),
        Row(name="group commit", unit="events/s", samples=rates["group commit"], floor="hand-batched"),
        Row(name="group commit over single", unit="events/s", samples=rates["group commit"], floor="single"),
        Row(name="js.publish p50", unit="ms", samples=latencies["js.publish p50"]),
        Row(name="Publisher p50", unit="ms", samples=latencies["Publisher p50"], floor="js.publish p50"),
    )
    notes = (f"{PUBLISHERS} publishers, payload {len(PAYLOAD)} bytes, sync_interval always, one process",)
    return Result(benchmark="publish", question=QUESTION, rows=rows, notes=notes, smoke=smoke)


async def _rate(server: NatsServer, load: Callable[[NatsServer, int], Awaitable[float]], events: int) -> float:
    return events / await load(server, events)


async def _singly(server: NatsServer, events: int) -> float:
    client = await nats.connect(server.url)
    stream = client.jetstream()

    async def publisher(count: int) -> None:
        for _ in range(count):
            await stream.publish(SUBJECT, PAYLOAD, headers={"Nats-Msg-Id": new_id()}, timeout=60)

    seconds = await _timed(publisher, events)
    await client.close()
    return seconds


async def _group_commit(server: NatsServer, events: int) -> float:
    async with Bus.connect(server.url) as bus:

        async def publisher(count: int) -> None:
            for _ in range(count):
                await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=PAYLOAD, event_id=new_id()))

        return await _timed(publisher, events)


async def _timed(publisher: Callable[[int], Awaitable[None]], events: int) -> float:
    begun = time.perf_counter()
    await asyncio.gather(*(publisher(events // PUBLISHERS) for _ in range(PUBLISHERS)))
    return time.perf_counter() - begun


async def _by_hand(server: NatsServer, events: int) -> float:
    client = await nats.connect(server.url)
    begun = time.perf_counter()
    for first in range(0, events, HAND_BATCH):
        await _batch(client, min(HAND_BATCH, events - first))
    seconds = time.perf_counter() - begun
    await client.close()
    return seconds


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


BENCHMARK = Benchmark(name="publish", question=QUESTION, run=run)
