"""Three NATS nodes hold the stream; each is killed, stopped and cut off in turn, under load."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enchanted.bus.agent_log import AgentLog, new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import PublishOutcomeUnknown, PublishRefused
from enchanted.bus.ordered import read_all
from enchanted.bus.reader import RawMessage, message_at
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.cluster.chaos.killed import Victim
from enchanted.cluster.chaos.nodes import Node, NodeCluster, node_cluster
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest import tables
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.worker import IngestWorker
from enchanted.schemas import events
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import verify
from enchanted.schemas.events import SwarmEvent

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root"),
]

CONNECTIONS = 4
PUBLISHERS = 16
AGENTS = 3
SUBJECT = "swarm.events.coder.decision.plain"
RUN = "agents"
FAULTS = ("kill", "pause", "cut")

Hashes = dict[str, str]
"""Event id -> hash of the published bytes."""


@dataclass
class Load:
    """Publishers and agents that write without end, and what they were told."""

    ok: Hashes = field(default_factory=dict)
    failed: Hashes = field(default_factory=dict)
    unknown: Hashes = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    last: float = field(default_factory=time.monotonic)
    """When the latest acknowledgement came."""
    gap: float = 0.0
    """Seconds without any acknowledgement, at most, since `begin`."""
    longest_gap: float = 0.0
    """Likewise, of all."""
    longest_wait: float = 0.0
    """Seconds one publish waited for its own, likewise."""
    since: Counter[int] = field(default_factory=Counter)
    """Acknowledgements of each writer, likewise."""

    def begin(self) -> None:
        """Measure from now on."""
        self.last, self.gap, self.longest_wait = time.monotonic(), 0.0, 0.0
        self.since.clear()

    def acknowledged(self, writer: int, begun: float, hashes: Hashes) -> None:
        now = time.monotonic()
        self.gap, self.last = max(self.gap, now - self.last), now
        self.longest_gap = max(self.longest_gap, self.gap)
        self.longest_wait = max(self.longest_wait, now - begun)
        self.since[writer] += 1
        self.ok |= hashes

    async def publisher(self, bus: Bus, writer: int, chance: random.Random) -> None:
        """Single events, with three outcomes."""
        while not self.stop.is_set():
            event = SwarmEvent(event_id=new_id(), run_id="plain", agent_id=f"publisher-{writer}")
            event.decision.rationale = "x" * chance.randrange(100, 2_000)
            raw = event.SerializeToString()
            hashes, begun = {event.event_id: sha256_hex(raw)}, time.monotonic()
            try:
                await bus.publisher.publish(Outgoing(subject=SUBJECT, payload=raw, event_id=event.event_id))
            except PublishRefused:
                self.failed |= hashes
            except PublishOutcomeUnknown:
                self.unknown |= hashes
            else:
                self.acknowledged(writer, begun, hashes)
            await asyncio.sleep(chance.uniform(0.0, 0.06))

    async def agent(self, bus: Bus, writer: int, chance: random.Random) -> None:
        """Chained events, three at a time, and now and then a state change on condition."""
        log = AgentLog(bus, run_id=RUN, role="coder", agent_name=f"coder-{writer}")
        last = 0
        while not self.stop.is_set():
            begun = time.monotonic()
            if chance.random() < 0.3:
                change = SwarmEvent(workspace_id=f"w{writer}")
                change.state_change.target_type = "ENV_VAR"
                stored = [await log.emit_change(change, expected_last=last)]
                last = stored[0].seq
            else:
                drafts = [events.system_signal(status="HEALTHY", detail="x" * 300) for _ in range(3)]
                stored = await log.emit(*drafts)
            self.acknowledged(writer, begun, {one.event.event_id: sha256_hex(one.raw) for one in stored})
            await asyncio.sleep(chance.uniform(0.0, 0.06))

    async def until_all_go_on(self, cluster: NodeCluster, *, times: int = 3, seconds: float = 60.0) -> None:
        """Return when every writer has been acknowledged so often since `begin`."""
        deadline = time.monotonic() + seconds
        while behind := [writer for writer in range(PUBLISHERS + AGENTS) if self.since[writer] < times]:
            if time.monotonic() > deadline:
                logs = "\n".join(f"{node.name}:\n{node.said(60)}" for node in cluster.nodes)
                raise AssertionError(f"of {PUBLISHERS} publishers and {AGENTS} agents {behind} do not go on; {logs}")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def under_load(cluster: NodeCluster, chance: random.Random) -> AsyncIterator[Load]:
    """Writers over several connections; at the end of the block each finishes what it is at."""
    load = Load()
    async with AsyncExitStack() as stack:
        # One connection gives up early, so that there are outcomes nobody knows.
        patience = [2.0] + [75.0] * CONNECTIONS
        buses = [
            await stack.enter_async_context(Bus.connect(cluster.url, name=f"load-{k}", retry_for=seconds))
            for k, seconds in enumerate(patience)
        ]
        plain, agents = buses[:CONNECTIONS], buses[CONNECTIONS]
        writing = [
            load.publisher(bus, writer, random.Random(chance.random()))
            for writer, bus in zip(range(PUBLISHERS), itertools.cycle(plain), strict=False)
        ]
        writing += [load.agent(agents, PUBLISHERS + k, random.Random(chance.random())) for k in range(AGENTS)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(writer) for writer in writing]
            try:
                yield load
            finally:
                load.stop.set()
            await asyncio.wait(tasks)


@asynccontextmanager
async def ingest(cluster: NodeCluster, store: StoreProcess) -> AsyncIterator[IngestWorker]:
    limits = BatchLimits(rows=2_000, seconds=0.2)
    # What a node that is lost had delivered, and we had not received, comes again after ack_wait.
    place = {"nats_url": cluster.url, "clickhouse_url": store.url}
    async with IngestWorker(**place, limits=limits, ack_wait=10.0) as worker:
        running = asyncio.create_task(worker.run())
        yield worker
        running.cancel()
        outcome = (await asyncio.gather(running, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError), f"ingest ended by itself: {outcome!r}"


def begin_and_end(node: Node, fault: str) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]:
    return {
        "kill": (node.kill, node.start),
        "pause": (node.pause, node.resume),
        "cut": (node.cut, node.heal),
        "separate": (node.separate, node.join),
    }[fault]


async def strike(cluster: NodeCluster, load: Load, node: Node, fault: str) -> str:
    """One fault, until all writers go on without the node, and then until it has caught up; says what was seen."""
    begin, end = begin_and_end(node, fault)
    leads = (await cluster.leader()) is node
    victim = Victim(node.pids[-1])
    load.begin()
    began = time.monotonic()
    await begin()
    await load.until_all_go_on(cluster)
    held = time.monotonic() - began
    gap, wait = load.gap, load.longest_wait
    load.begin()
    await end()
    if fault == "kill":
        victim.assert_replaced_by(node.pids[-1])
    await load.until_all_go_on(cluster)
    await cluster.until_current()
    return (
        f"{fault:<8} {node.name} {'leader' if leads else 'follower'} for {held:.1f} s: "
        f"none acknowledged for {gap:.1f} s, one waited {wait:.1f} s; "
        f"afterwards {load.gap:.1f} and {load.longest_wait:.1f} s"
    )


async def strike_all(cluster: NodeCluster, load: Load, chance: random.Random, faults: list[str]) -> None:
    """Each fault on another node, and again from the first node on; of the nodes that are left the leader first."""
    left: list[Node] = []
    for fault in faults:
        left = left or chance.sample(cluster.nodes, len(cluster.nodes))
        leader = await cluster.leader()
        node = leader if leader in left else left[0]
        left.remove(node)
        print(await strike(cluster, load, node, fault), flush=True)


async def stored_messages(cluster: NodeCluster) -> list[RawMessage]:
    async with Bus.connect(cluster.url, name="after") as bus:
        return await read_all(bus.link, EVENTS_STREAM, ["swarm.events.>"])


async def rows_once_there_are(store: StoreProcess, count: int) -> list[tuple[str, str]]:
    client = await tables.connect(store.url)
    query = "SELECT event_id, payload_sha256 FROM events FINAL"
    try:
        async with asyncio.timeout(60):
            while len((await client.query(query)).result_rows) < count:  # noqa: ASYNC110 - a table has no event
                await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)
        return [(str(event_id), str(digest)) for event_id, digest in (await client.query(query)).result_rows]
    finally:
        await client.close()


def assert_no_loss(load: Load, messages: list[RawMessage]) -> None:
    """Every acknowledged event is there with its bytes, none twice, no refused one, and no other."""
    stored = [(message.headers["Nats-Msg-Id"], sha256_hex(message.payload)) for message in messages]
    twice = [one for one, count in Counter(event_id for event_id, _ in stored).items() if count > 1]
    assert not twice, f"{len(twice)} events are stored twice"
    assert load.ok.items() <= dict(stored).items(), f"lost: {len(load.ok.items() - dict(stored).items())}"
    assert dict(stored).items() <= (load.ok | load.unknown).items(), "stored, and refused or never published"


async def copy_of(cluster: NodeCluster, node: Node, last: int) -> Hashes:
    """What one node has, asked of it as the leader."""
    await cluster.make_leader(node)
    found: Hashes = {}
    async with Bus.connect(cluster.url, name="copy") as bus:
        for first in range(1, last + 1, 64):
            seqs = range(first, min(first + 64, last + 1))
            for raw in await asyncio.gather(*(message_at(bus.link, EVENTS_STREAM, {"seq": seq}) for seq in seqs)):
                assert raw is not None
                found[raw.headers["Nats-Msg-Id"]] = sha256_hex(raw.payload)
    return found


async def survives(tmp_path: Path, seed: int, faults: list[str], *, copies: bool = False) -> None:
    chance = random.Random(seed)
    async with node_cluster(tmp_path / "nats") as cluster, store_process(tmp_path / "store") as store:
        async with ingest(cluster, store) as worker:
            async with under_load(cluster, chance) as load:
                await load.until_all_go_on(cluster)
                await strike_all(cluster, load, chance, faults)
            messages = await stored_messages(cluster)
            rows = await rows_once_there_are(store, len(messages))
            told = f"{len(load.ok)} acknowledged, {len(load.failed)} refused, {len(load.unknown)} unknown"
            print(f"{told}, {len(messages)} stored; longest gap {load.longest_gap:.1f} s; {worker.statistics()}")
        async with Bus.connect(cluster.url, name="after") as bus:
            log = await bus.read_run(RUN)
        held = {node.name: await copy_of(cluster, node, messages[-1].seq) for node in cluster.nodes if copies}
    assert len(load.ok) > 300
    assert not load.failed
    assert_no_loss(load, messages)
    stored = [(one.headers["Nats-Msg-Id"], sha256_hex(one.payload)) for one in messages]
    assert sorted(rows) == sorted(stored)
    assert all(copy == dict(stored) for copy in held.values())
    assert verify(log).intact
    assert verify(log).complete


@pytest.mark.parametrize("seed", [1])
async def test_of_three_nodes_one_killed_one_stopped_and_one_cut_off_lose_and_double_nothing(
    tmp_path: Path, seed: int
) -> None:
    await survives(tmp_path, seed, random.Random(seed).sample(FAULTS, len(FAULTS)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
async def test_each_of_three_nodes_killed_stopped_and_cut_off_in_turn_loses_and_doubles_nothing(
    tmp_path: Path, seed: int
) -> None:
    await survives(tmp_path, seed, [fault for fault in (*FAULTS, "separate") for _ in range(3)], copies=True)
