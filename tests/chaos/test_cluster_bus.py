"""What a bus of three nodes may do that one server never does: lag, be without a leader, lose a node's disk."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from enchanted.bus.agent_log import AgentLog, new_id
from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusUnavailable, StateConflict
from enchanted.cluster.chaos.killed import Victim
from enchanted.cluster.chaos.nodes import NodeCluster, node_cluster
from enchanted.schemas import events
from enchanted.schemas.chain import verify
from enchanted.schemas.events import SwarmEvent

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root"),
]


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeCluster]:
    """One for all tests of this file; each leaves it whole."""
    async with node_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def drafts(count: int) -> list[SwarmEvent]:
    return [events.system_signal(status="HEALTHY", detail="x" * 3_000) for _ in range(count)]


def outgoing(*, expected_last: int | None = None, subject: str = "swarm.events.coder.decision.c") -> Outgoing:
    return Outgoing(subject=subject, payload=b"x", event_id=new_id(), expected_last=expected_last)


async def test_what_was_acknowledged_is_read_also_from_a_replica_that_lags_behind(cluster: NodeCluster) -> None:
    leader = await cluster.leader()
    follower = next(node for node in cluster.nodes if node is not leader)
    async with Bus.connect(leader.url) as bus:
        log, written, reads = AgentLog(bus, run_id="lag", role="coder", agent_name="a"), 0, 0
        await follower.cut()
        for _ in range(40):
            written += len(await log.emit(*drafts(25)))
        await follower.heal()
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            # A reader is put onto any replica; that it is onto the one that lags takes some tries.
            assert len(await bus.read_run("lag")) == written
            reads += 1
    print(f"{reads} reads of {written} events")
    await cluster.until_current()


async def test_of_two_who_extend_the_same_state_at_once_one_is_told_of_a_conflict(cluster: NodeCluster) -> None:
    subject, last = "swarm.events.coder.state_change.race.w", 0
    async with Bus.connect(cluster.nodes[0].url) as one, Bus.connect(cluster.nodes[1].url) as other:
        for _ in range(50):
            both = [bus.publisher.publish(outgoing(expected_last=last, subject=subject)) for bus in (one, other)]
            outcomes = await asyncio.gather(*both, return_exceptions=True)
            (won,) = [outcome for outcome in outcomes if isinstance(outcome, Ack)]
            (lost,) = [outcome for outcome in outcomes if not isinstance(outcome, Ack)]
            assert isinstance(lost, StateConflict), f"{lost!r}"
            last = won.seq


async def test_a_client_of_a_node_that_is_cut_off_from_the_others_goes_to_another(
    cluster: NodeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enchanted.bus.link._SWITCH_AFTER", 1.0)
    leader = await cluster.leader()
    async with Bus.connect(cluster.url, ack_timeout=1.0) as bus:
        while bus.link.server != leader.address:
            await bus.link.leave()
            await bus.link.wait_connected(5.0)
        await leader.separate()
        try:
            ack = await bus.publisher.publish(outgoing())
            assert bus.link.server != leader.address
        finally:
            await leader.join()
        assert ack.seq > 0
    await cluster.until_current()


async def test_without_a_majority_nothing_is_acknowledged_and_with_one_again_it_is(cluster: NodeCluster) -> None:
    stays, *others = cluster.nodes
    async with Bus.connect(stays.url) as bus:
        victims = [Victim(node.pids[-1]) for node in others]
        for node in others:
            await node.kill()
        publishing = asyncio.create_task(bus.publisher.publish(outgoing()))
        with pytest.raises(BusUnavailable):
            await bus.link.api("CONSUMER.CREATE.ENCHANTED_SWARM.c", {"stream_name": "ENCHANTED_SWARM"}, patience=3.0)
        assert not publishing.done()
        await asyncio.gather(*(node.start() for node in others))
        for victim, node in zip(victims, others, strict=True):
            victim.assert_replaced_by(node.pids[-1])
        assert (await publishing).seq > 0
    await cluster.until_current()


@pytest.mark.parametrize("nodes", [1, pytest.param(3, marks=pytest.mark.slow)])
async def test_a_node_that_lost_its_disk_gets_everything_again(cluster: NodeCluster, nodes: int) -> None:
    async with Bus.connect(cluster.url) as bus:
        log, run = AgentLog(bus, run_id=new_id(), role="coder", agent_name="a"), list[SwarmEvent]()
        for node in [await cluster.leader(), *cluster.nodes][:nodes]:
            run += [stored.event for stored in await log.emit(*drafts(100))]
            victim = Victim(node.pids[-1])
            await node.kill()
            node.wipe()
            await node.start()
            victim.assert_replaced_by(node.pids[-1])
            await cluster.until_current()
        found = await bus.read_run(run[0].run_id)
    assert [stored.event for stored in found] == run
    assert verify(found).intact


async def _heard(bus: Bus) -> None:
    """Wait until the node we are connected to knows that somebody listens: the stream may be on another one."""
    async with asyncio.timeout(20):
        while True:
            with suppress(BusUnavailable):
                await bus.link.request("alone", b"x")
                return
            await asyncio.sleep(0.05)


async def test_with_one_replica_the_same_node_away_stops_every_publish_and_its_disk_takes_everything(
    cluster: NodeCluster,
) -> None:
    """The control: what three replicas survive."""
    async with Bus.connect(cluster.url) as bus:
        await bus.link.api("STREAM.CREATE.ALONE", {"name": "ALONE", "subjects": ["alone"], "num_replicas": 1})
        await _heard(bus)
        for _ in range(10):
            assert b'"seq"' in (await bus.link.request("alone", b"x")).data
        node = await cluster.leader("ALONE")
        victim = Victim(node.pids[-1])
        await node.kill()
        assert (await bus.publisher.publish(outgoing())).seq > 0
        with pytest.raises(BusUnavailable):
            await bus.link.request("alone", b"x")
        node.wipe()
        await node.start()
        victim.assert_replaced_by(node.pids[-1])
        await cluster.until_current()
        assert (await bus.link.api("STREAM.INFO.ALONE"))["state"]["messages"] == 0
        await bus.link.api("STREAM.DELETE.ALONE")
