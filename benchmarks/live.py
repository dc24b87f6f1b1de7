"""How long until an event that is published is with each of very many live clients, and what does each cost?

``ENCHANTED_BENCH_SECONDS`` sets for how long events are offered to each number of clients.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from array import array
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from enchanted.benchmarks.case import Benchmark, Result, Row, told
from enchanted.benchmarks.figures import percentile
from enchanted.benchmarks.listeners import Way
from enchanted.benchmarks.players import Meter, Player, player
from enchanted.bus.testing import free_port, nats_server

QUESTION = "milliseconds from publish to every client of a live run, and CPU of the API for an event and a client"
WARM_UP = 1.0
"""Seconds of offered load that are left out."""
STUCK = 180.0
"""Seconds after which clients that have not got everything are given up."""
NOTES = (
    "freshness: from the publisher being handed an event, in an open loop of one process, until its bytes were there "
    "at a client, for all events and clients together; the first second left out; the stream synced before it answers",
    "beside it, in the same seconds: one nats-py subscription to the same subject, which waits for no disk",
    "the API a uvicorn in a process of its own without Ray Serve; all clients in one process, which counts events and "
    "takes no JSON apart; every client must have had every event, or the benchmark fails",
    "CPU: of the whole API process, over events times clients",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """Who listens to how much."""

    way: Way = "SSE"
    clients: int
    rate: int
    """Events/s."""
    idle: int = 0
    """Clients beside them that never read."""

    @property
    def name(self) -> str:
        """In rows."""
        beside = f" beside {self.idle} that never read" if self.idle else ""
        return f"{self.way}, {self.clients} clients{beside}, {self.rate}/s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What was measured of one crowd."""

    crowd: Crowd
    fresh: list[float]
    """Milliseconds, of all events and clients."""
    bare: list[float]
    reached: float
    """Events/s that were offered in truth."""
    cpu: dict[str, float]
    """Microseconds by process, for an event and a client."""


FULL = (
    *(Crowd(clients=clients, rate=rate) for rate in (100, 1_000) for clients in (1, 50, 200)),
    *(Crowd(way="WebSocket", clients=50, rate=rate) for rate in (100, 1_000)),
    Crowd(clients=50, rate=1_000, idle=5),
)
SMOKE = (
    Crowd(clients=1, rate=100),
    Crowd(way="WebSocket", clients=10, rate=300),
    Crowd(clients=10, rate=300, idle=2),
)


async def run(smoke: bool) -> Result:
    """Every crowd with a bus and an API of its own."""
    seconds = 2.0 if smoke else float(os.environ.get("ENCHANTED_BENCH_SECONDS", "10"))
    found = list[Row]()
    for crowd in SMOKE if smoke else FULL:
        told(crowd.name)
        found += rows(await heard(crowd, seconds))
    load = f"{seconds:g} s of events each; load average {os.getloadavg()[0]:.1f} at the end"
    return Result(benchmark="live", question=QUESTION, rows=tuple(found), notes=(*NOTES, load), smoke=smoke)


async def heard(crowd: Crowd, seconds: float) -> Heard:
    """Publish at the crowd's rate while it listens."""
    count = int(crowd.rate * seconds)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enchanted-bench-")))
        server = await stack.enter_async_context(nats_server(folder / "nats"))
        port, times = free_port(), folder / "times"

        async def join(role: str, *arguments: object, module: str = "listeners") -> Player:
            return await stack.enter_async_context(player(role, *arguments, module=module))

        api, bare, offering = await asyncio.gather(
            join("api", server.url, port),
            join("subscribe", server.url, count),
            join("offer", server.url, "", count, crowd.rate, 1, module="players"),
        )
        host = f"http://127.0.0.1:{port}"
        crowded = await join("listen", host, crowd.way, crowd.clients, crowd.idle, count, times)
        meter = Meter(**{"API": api.pid, "nats-server": server.pid, "clients": crowded.pid})
        for one in (api, bare, crowded, offering):
            one.begin()
        begun = time.perf_counter()
        async with asyncio.timeout(seconds + STUCK):
            published, subscribed, counts = sorted(await offering.found()), await bare.found(), await crowded.found()
        spent = meter.spent()
        told(f"all with everyone after {time.perf_counter() - begun:.1f} s")
        handed = [at for _, _, at in published]
        left_out = int(WARM_UP * crowd.rate)
        return Heard(
            crowd=crowd,
            fresh=latencies(handed, arrivals(times.read_bytes(), counts, count), left_out),
            bare=latencies(handed, [subscribed], left_out),
            reached=(count - 1) / (max(handed) - min(handed)),
            cpu={name: each / (count * crowd.clients) * 1e6 for name, each in spent.items()},
        )


def arrivals(raw: bytes, counts: list[int], count: int) -> list[array[float]]:
    """The times of each client, from the file of all.

    Raises:
        RuntimeError: a client did not get exactly ``count`` events.
    """
    if wrong := [one for one in counts if one != count]:
        raise RuntimeError(f"{len(wrong)} of {len(counts)} clients got other than {count} events: {wrong[:5]}")
    times = array("d", raw)
    return [times[start : start + count] for start in range(0, len(times), count)]


def latencies(handed: list[float], clients: list[array[float]] | list[list[float]], left_out: int) -> list[float]:
    """Milliseconds of each event on its way to each client, in the order of the stream; the first ones left out."""
    return [
        (there - at) * 1000
        for client in clients
        for at, there in zip(handed[left_out:], client[left_out:], strict=True)
    ]


def rows(heard: Heard) -> list[Row]:
    """Freshness beside the bare subscription's, and what it cost."""
    name = heard.crowd.name
    found = list[Row]()
    for word, share in (("p50", 0.5), ("p99", 0.99)):
        bare = f"{name}: bare subscription, {word}"
        found += [
            Row(name=bare, unit="ms", samples=[percentile(heard.bare, share)]),
            Row(name=f"{name}: {word}", unit="ms", samples=[percentile(heard.fresh, share)], floor=bare),
        ]
    found.append(Row(name=f"{name}: offered", unit="events/s", samples=[heard.reached]))
    return found + [
        Row(name=f"{name}: CPU of {process}", unit="µs/event and client", samples=[spent])
        for process, spent in heard.cpu.items()
    ]


BENCHMARK = Benchmark(name="live", question=QUESTION, run=run)
