"""Where a run's agents are, in a Ray of two nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from ray.util.state import list_actors

from enchanted.actors.config import Placement, RoleModel, SwarmConfig
from enchanted.actors.swarm import Swarm
from enchanted.actors.testing import make_repository
from enchanted.actors.work import RunRequest
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.schemas.gen.events_pb2 import RunTransition

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def left() -> Iterator[str]:
    """The id of the node with the label; the other one, the head, has none."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    node = cluster.add_node(num_cpus=2, labels={"side": "left"})
    ray.init(address=cluster.address, namespace="enchanted", log_to_driver=False)
    yield node.node_id
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def config(server: NatsServer, tmp_path: Path) -> SwarmConfig:
    models = {role: RoleModel(url="minimal") for role in ("architect", "coder", "reviewer")}
    return SwarmConfig(nats_url=server.url, home=str(tmp_path / "home"), models=models)


async def ran(config: SwarmConfig, folder: Path, run_id: str) -> RunTransition:
    """Run on a small repository to its end; returns the closing transition."""
    make_repository(folder / "shop", {"shop.py": "import os\nimport sys\n"})
    request = RunRequest(
        run_id=run_id, task="make the linter pass", repo=str(folder / "shop"), checks=("ruff check .",)
    )
    async with Bus.connect(config.nats_url) as bus:
        await Swarm(config).start(request)
        async for stored in bus.tail(after=0):
            if stored.event.run_transition.heads:
                return stored.event.run_transition
    raise AssertionError("the stream ended")


def nodes_of(run_id: str) -> dict[str, str]:
    """Node of each of the run's actors, by the role's name."""
    actors = [actor for actor in list_actors(detail=True, limit=1000) if actor.name.endswith(run_id)]
    return {actor.name.partition(":")[0]: actor.node_id for actor in actors}


async def test_a_run_is_on_a_node_with_the_wanted_label_and_its_agents_beside_it(
    left: str, config: SwarmConfig, tmp_path: Path
) -> None:
    placement = Placement(label_selector={"side": "left"})
    assert (await ran(replace(config, placement=placement), tmp_path, "run-label")).to_state == "merged"
    assert nodes_of("run-label") == dict.fromkeys(("orchestrator", "architect", "coder-1", "reviewer"), left)


async def test_a_runs_agents_start_in_room_reserved_for_all_of_them_and_give_it_back(
    left: str, config: SwarmConfig, tmp_path: Path
) -> None:
    placement = Placement(cpus_per_agent=0.4, label_selector={"side": "left"})
    assert (await ran(replace(config, placement=placement), tmp_path, "run-room")).to_state == "merged"
    groups: list[dict[str, Any]] = list(placement_group_table().values())
    (group,) = [group for group in groups if group["name"].startswith("run-room:")]
    assert (group["strategy"], group["state"], len(group["bundles"])) == ("STRICT_PACK", "REMOVED", 4)
    assert set(nodes_of("run-room").values()) == {left}


async def test_a_run_without_room_fails_and_says_what_it_needs(left: str, config: SwarmConfig, tmp_path: Path) -> None:
    placement = Placement(cpus_per_agent=1.0, wait_seconds=2.0)
    closing = await ran(replace(config, placement=placement), tmp_path, "run-crowded")
    assert closing.to_state == "failed"
    assert "no room for 4 agents of 1 CPUs each" in closing.reason
    assert "ENCHANTED_PLACEMENT__CPUS_PER_AGENT" in closing.reason
