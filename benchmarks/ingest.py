"""What does an event cost from the stream into the table? Ours beside obvious ingestors and beside the floor."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import nats
import psutil
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout

from enchanted.benchmarks.case import Benchmark, Result, Row
from enchanted.benchmarks.load import AGENTS, Published, load, mean_bytes
from enchanted.bus.connection import Bus
from enchanted.bus.subjects import EVENTS
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.store.testing import store_process
from enchanted.ingest import wire
from enchanted.ingest.rows import COLUMNS, event_values
from enchanted.ingest.rows import Row as Message
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import IngestWorker, collect_seldom
from enchanted.ingest.writer import LATER
from enchanted.schemas.events import SwarmEvent, parse_event

QUESTION = "microseconds of CPU an event costs from the stream into the table, with one worker; and events per second"
STREAM, PULL = "ENCHANTED_SWARM", "$JS.API.CONSUMER.MSG.NEXT"
ROWS, BYTES = 10_000, 8 * 1024**2
Begin = Callable[[], None]
"""To be called when everything is connected: what is measured starts here."""


async def ours(nats_url: str, store_url: str, count: int, begin: Begin) -> None:
    """The worker as it is deployed."""
    async with IngestWorker(nats_url=nats_url, clickhouse_url=store_url) as worker:
        await worker.ready()
        collect_seldom()
        begin()
        running = asyncio.create_task(worker.run())
        while worker.statistics().rows < count:  # noqa: ASYNC110 - a reader would poll
            await asyncio.sleep(0.02)
        await worker.close()
        await running


def _obvious(message: Msg, created: datetime) -> tuple[object, ...]:
    position, raw = message.metadata, message.data
    digest = hashlib.sha256(raw).digest()
    micros = int(position.timestamp.timestamp() * 1_000_000)
    row = Message(position.sequence.stream, micros, message.subject, raw, digest, "", False, False)
    return event_values(parse_event(raw), row, created)


async def fetching(nats_url: str, store_url: str, count: int, begin: Begin) -> None:
    """Fetch 1,000, parse, insert rows, acknowledge each."""
    bus, table, created = await nats.connect(nats_url), await connect(store_url), datetime.now(UTC)
    subscription = await bus.jetstream().pull_subscribe("swarm.events.>", durable="obvious", stream=STREAM)
    done = 0
    begin()
    while done < count:
        try:
            messages = await subscription.fetch(1_000, timeout=2)
        except NatsTimeout:
            continue
        rows = [_obvious(message, created) for message in messages]
        await table.insert("events", rows, column_names=list(COLUMNS), column_type_names=list(COLUMNS.values()))
        for message in messages:
            await message.ack()
        done += len(messages)
    await bus.close()
    await table.close()


async def pushed(nats_url: str, store_url: str, count: int, begin: Begin) -> None:
    """A push subscription that inserts each 1,000."""
    bus, table, created = await nats.connect(nats_url), await connect(store_url), datetime.now(UTC)
    waiting: list[Msg] = []
    done = asyncio.Event()
    total = 0

    async def receive(message: Msg) -> None:
        nonlocal total
        waiting.append(message)
        if len(waiting) < 1_000:
            return
        rows = [_obvious(one, created) for one in waiting]
        await table.insert("events", rows, column_names=list(COLUMNS), column_type_names=list(COLUMNS.values()))
        for one in waiting:
            await one.ack()
        total += len(waiting)
        waiting.clear()
        if total >= count:
            done.set()

    begin()
    await bus.jetstream().subscribe("swarm.events.>", durable="pushed", stream=STREAM, cb=receive, manual_ack=True)
    await done.wait()
    await bus.close()
    await table.close()


async def _frames(nats_url: str, count: int, begin: Begin) -> AsyncGenerator[list[Message], None]:
    """Batches of ``count`` events straight from the socket: no check, hash or acknowledgement."""
    parts = urlsplit(nats_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**22)
    login = json.dumps({"user": parts.username, "pass": parts.password, "verbose": False, "headers": True})
    request = json.dumps({"batch": count, "expires": 60_000_000_000})
    ask = f"CONNECT {login}\r\nSUB in 1\r\nPUB {PULL}.{STREAM}.floor in {len(request)}\r\n{request}\r\n"
    begin()
    writer.write(ask.encode())
    batch: list[Message] = []
    done = size = 0
    buffer, at = bytearray(), 0
    digest = bytes(32)
    while done < count:
        if not (more := await reader.read(2**20)):
            raise ConnectionError("nats-server closed the connection of the floor; its log says why")
        buffer = buffer[at:] + more
        at = 0
        while (end := buffer.find(b"\r\n", at)) >= 0:
            words = buffer[at:end].split()
            verb = bytes(words[0])
            if verb not in (b"MSG", b"HMSG"):
                at = end + 2
                continue
            whole = int(words[-1])
            if len(buffer) < end + whole + 4:
                break
            head = int(words[-2]) if verb == b"HMSG" else 0
            raw = bytes(buffer[end + 2 + head : end + 2 + whole])
            at = end + whole + 4
            position = words[3].split(b".")
            micros = int(position[-2]) // 1000
            batch.append(Message(int(position[-4]), micros, words[1].decode(), raw, digest, "", True, False))
            size += len(raw)
            if len(batch) == ROWS or size >= BYTES or done + len(batch) == count:
                yield batch
                done, size = done + len(batch), 0
                batch = []
    writer.close()


async def _insert(store_url: str, batches: AsyncIterator[list[Message]]) -> None:
    table, created = await connect(store_url), datetime.now(UTC)
    async for batch in batches:
        rows, settings = wire.block(batch), {**wire.SETTINGS, **LATER}
        await table.raw_insert(wire.target(created), insert_block=rows, settings=settings, fmt=wire.FORMAT)
    await table.close()


async def floor(nats_url: str, store_url: str, count: int, begin: Begin) -> None:
    """Frames straight from the socket into a Protobuf insert: no check, no hash, no look-up, no acknowledgement."""
    await _insert(store_url, _frames(nats_url, count, begin))


async def lean_read(nats_url: str, _store_url: str, count: int, begin: Begin) -> None:
    """The floor's read alone."""
    async for _ in _frames(nats_url, count, begin):
        pass


async def bare_fetch(nats_url: str, _store_url: str, count: int, begin: Begin) -> None:
    """The pull of nats-py alone: fetch 1,000, forget them, acknowledge none."""
    bus = await nats.connect(nats_url)
    subscription = await bus.jetstream().pull_subscribe_bind("floor", STREAM)
    done = 0
    begin()
    while done < count:
        done += len(await subscription.fetch(1_000, timeout=60))
    await bus.close()


async def bare_insert(nats_url: str, store_url: str, count: int, begin: Begin) -> None:
    """The floor's insert alone, of events that were read before the clock starts."""
    batches = [batch async for batch in _frames(nats_url, count, lambda: None)]

    async def kept() -> AsyncGenerator[list[Message], None]:
        begin()
        for batch in batches:
            yield batch

    await _insert(store_url, kept())


OURS, FLOOR = "ingest worker", "lean read + bare Protobuf insert"
OBVIOUS = ("fetch(1000) + row insert", "push + row insert")
PULLS = ("bare pull, lean read", "bare pull, fetch(1000) of nats-py")
"""They put nothing into the table."""
INSERT = "bare Protobuf insert"
CASES: dict[str, Callable[[str, str, int, Begin], Awaitable[None]]] = {
    **dict(zip(OBVIOUS, (fetching, pushed), strict=True)),
    **dict(zip(PULLS, (lean_read, bare_fetch), strict=True)),
    INSERT: bare_insert,
    FLOOR: floor,
    OURS: ours,
}


async def run(smoke: bool) -> Result:
    """Every case in turn on the same stream, each in a process of its own with a store of its own."""
    events, repeats = (2_000, 1) if smoke else (30_000, 5)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        async with nats_server(Path(folder, "nats")) as server:
            payloads = load(events)
            await _publish(server, payloads)
            for repeat in range(repeats):
                for name in CASES:
                    count = events // 3 // 1_000 * 1_000 or 1_000 if name in OBVIOUS else events
                    place = Path(folder, f"store-{repeat}-{list(CASES).index(name)}")
                    samples[name].append(await _sample(server, place, name, count))
    notes = (
        f"{events} events of {mean_bytes(payloads):.0f} bytes on average, {AGENTS} agents; "
        "a third of them for row inserts",
        "CPU of the worker and of the store's process; imports, connections and the tables' making left out",
        "the same table and fsync for all; the floor checks, hashes, looks up and acknowledges nothing",
        f"the floor's parts by themselves: '{PULLS[0]}', and '{INSERT}' of what was read before the clock starts",
    )
    return Result(benchmark="ingest", question=QUESTION, rows=_rows(samples), notes=notes, smoke=smoke)


def _rows(samples: dict[str, list[dict[str, float]]]) -> tuple[Row, ...]:
    def of(name: str, *keys: str) -> list[float]:
        return [sum(sample[key] for key in keys) for sample in samples[name]]

    rows = [Row(name=f"{name}: CPU", unit="µs/event", samples=of(name, "worker")) for name in PULLS]
    rows += [
        Row(name=f"{name}: CPU", unit="µs/event", samples=of(name, "worker", "store"))
        for name in (INSERT, *OBVIOUS, FLOOR)
    ]
    best = min((row for row in rows if row.name in {f"{name}: CPU" for name in OBVIOUS}), key=lambda row: row.median)
    total = of(OURS, "worker", "store")
    rows.append(Row(name=f"{OURS}: CPU over the obvious", unit="µs/event", samples=total, floor=best.name))
    rows.append(Row(name=f"{OURS}: CPU over the floor", unit="µs/event", samples=total, floor=f"{FLOOR}: CPU"))
    rows += [Row(name=f"{name}: rate", unit="events/s", samples=of(name, "rate")) for name in PULLS]
    for name in (INSERT, *OBVIOUS, FLOOR, OURS):
        rows.append(Row(name=f"{name}: worker", unit="µs/event", samples=of(name, "worker")))
        rows.append(Row(name=f"{name}: store", unit="µs/event", samples=of(name, "store")))
        rows.append(Row(name=f"{name}: rate", unit="events/s", samples=of(name, "rate")))
    return tuple(rows)


async def _sample(server: NatsServer, folder: Path, name: str, count: int) -> dict[str, float]:
    async with store_process(folder) as store:
        table = await connect(store.url)
        await apply_ddl(table)
        await _fresh_consumers(server)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "enchanted.benchmarks.ingest",
            *(name, server.url, store.url, str(store.pid), str(count)),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            printed, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.communicate()
        if child.returncode:
            raise RuntimeError(f"{name} ended with code {child.returncode}; its error is above")
        measured: dict[str, float] = json.loads(printed)
        stored = (await table.query("SELECT count() FROM events")).result_rows[0][0]
        await table.close()
    if stored < count and name not in PULLS:
        raise RuntimeError(f"{name} stored {stored} of {count} events")
    return measured


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _fresh_consumers(server: NatsServer) -> None:
    async with Bus.connect(server.url) as bus:
        stream = await bus.link.api(f"CONSUMER.NAMES.{STREAM}")
        for name in stream.get("consumers") or ():
            await bus.link.api(f"CONSUMER.DELETE.{STREAM}.{name}")
        config = {"durable_name": "floor", "ack_policy": "none", "deliver_policy": "all"}
        await bus.link.api(f"CONSUMER.CREATE.{STREAM}.floor", {"stream_name": STREAM, "config": config})


async def _publish(server: NatsServer, events: list[Published]) -> None:
    async with Bus.connect(server.url) as bus:
        await bus.publisher.publish_many([one.outgoing for one in events])


async def _child(name: str, nats_url: str, store_url: str, store_pid: int, count: int) -> dict[str, float]:
    begun: dict[str, float] = {}

    def begin() -> None:
        begun.update(cpu=time.process_time(), wall=time.perf_counter(), store=_cpu(store))

    store = psutil.Process(store_pid)
    await _warm_up(store_url)
    await CASES[name](nats_url, store_url, count, begin)
    return {
        "worker": (time.process_time() - begun["cpu"]) / count * 1e6,
        "store": (_cpu(store) - begun["store"]) / count * 1e6,
        "rate": count / (time.perf_counter() - begun["wall"]),
    }


async def _warm_up(store_url: str) -> None:
    """The client imports half of itself at its first insert."""
    table, now = await connect(store_url), datetime.now(UTC)
    await table.command("CREATE TABLE warm_up AS events")
    row = event_values(SwarmEvent(), Message(1, 1, EVENTS, b"", bytes(32), "", False, False), now)
    for _ in range(3):
        await table.insert("warm_up", [row], column_names=list(COLUMNS), column_type_names=list(COLUMNS.values()))
    await table.close()


BENCHMARK = Benchmark(name="ingest", question=QUESTION, run=run)

if __name__ == "__main__":
    print(
        json.dumps(asyncio.run(_child(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))),
        flush=True,
    )
