"""A recorded run goes on on a second Ray node, in a clean folder, with another model, as an operator types it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from enchanted.actors.config import Placement, SwarmConfig
from enchanted.actors.rerun import file
from enchanted.actors.rerun.importing import import_recording
from enchanted.actors.rerun.recording import Recording
from enchanted.cluster import cli
from enchanted.cluster.commands.importing import RECORDED
from enchanted.schemas.chain import CLOSED_STATES, verify
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.fold import fold
from enchanted.serve.deployment import RayRuns
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, served

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def second() -> Iterator[str]:
    """The id of a second node, with a label; this process is on the first."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    node = cluster.add_node(num_cpus=2, labels={"side": "second"})
    ray.init(address=cluster.address, namespace="enchanted", log_to_driver=False)
    yield node.node_id
    ray.shutdown()
    cluster.shutdown()


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The recorded run in a bus, and an API whose runs are on the second node."""

    world: World
    url: str
    home: Path
    """Of the second node; empty until a run is there."""
    recorded: list[StoredEvent]

    @property
    def run(self) -> str:
        return self.recorded[0].event.run_id

    def after(self, state: str, nth: int) -> int:
        """The sequence of the nth transition of a task into a state."""
        steps = [one.seq for one in self.recorded if one.event.run_transition.to_state == state]
        return steps[nth]

    async def typed(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
        """A command line with ``--json``: the exit code, the document, and what was said."""
        where = ["--json", "--url", self.url, "--token-file", str(self.world.token_file)]
        code = await asyncio.to_thread(cli.execute, [*arguments, *where])
        captured = capsys.readouterr()
        return code, json.loads(captured.out or "null"), captured.err


@pytest.fixture
async def elsewhere(world: World, second: str, tmp_path: Path) -> AsyncIterator[Elsewhere]:
    recording: Recording = await file.load(RECORDED)
    await import_recording(recording, world.bus)
    await world.stored(recording.run_id, len(recording.events))
    home = tmp_path / "second" / "home"
    config = SwarmConfig(
        nats_url=world.nats.url, home=str(home), placement=Placement(label_selector={"side": "second"})
    )
    deps = Dependencies(
        store=Store(world.store_url, deadline=10),
        reader=Store(world.store_url, deadline=10),
        bus=BusLink(world.nats.url),
        access=Access(token=world.token_file.read_text().strip()),
        cache=tmp_path / "cache",
        starter=RayRuns(config),
    )
    async with served(deps) as url:
        recorded = await world.bus.read_run(recording.run_id)
        yield Elsewhere(world=world, url=url, home=home, recorded=recorded)


def nodes_of(run_id: str) -> set[str]:
    """Where the run's actors are, or were."""
    return {actor.node_id for actor in list_actors(detail=True, limit=1000) if actor.name.endswith(run_id)}


async def test_a_recorded_run_forked_at_its_middle_finishes_on_the_second_node_with_another_model(
    elsewhere: Elsewhere, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = elsewhere.after("accepted", 1)
    assert {one.event.model_call.model for one in elsewhere.recorded if one.event.HasField("model_call")} != {"minimal"}
    assert not elsewhere.home.exists()

    code, forked, said = await elsewhere.typed(
        capsys, "fork", elsewhere.run, "--at", str(at), "--model", "minimal", "--yes"
    )
    assert forked, said
    run_id = forked["run_id"]
    assert (code, forked["verdict"]) in ((0, "merged"), (1, "rejected"))
    assert nodes_of(run_id) == {second}
    assert (elsewhere.home / "workspaces" / run_id / "repo.git").is_dir()

    log = await elsewhere.world.bus.read_run(run_id)
    there, begun = fold(elsewhere.recorded, at=at), fold(log[: 1 + _opening(log)])
    assert begun.workspaces["main"].tree == there.workspaces["main"].tree
    assert {task.task_id: task.state for task in begun.tasks.values() if task.state == "accepted"} == {
        task.task_id: task.state for task in there.tasks.values() if task.state == "accepted"
    }
    assert fold(log).state in CLOSED_STATES
    assert {one.event.model_call.model for one in log if one.event.HasField("model_call")} == {"minimal"}
    verdict = verify(log, run=run_id)
    assert (verdict.intact, verdict.complete, verdict.closed) == (True, True, True)

    await elsewhere.world.stored(run_id, len(log))
    code, compared, _ = await elsewhere.typed(capsys, "compare", elsewhere.run, run_id)
    parting = compared["divergence"]
    assert (code, compared["forked_at"]) == (0, at)
    assert parting["a"]["seq"] > at
    assert parting["differences"] or not parting["b"]
    assert compared["b"]["state"] == forked["verdict"]
    _, back, _ = await elsewhere.typed(capsys, "compare", run_id, elsewhere.run)
    assert (back["a_forked_at"], back["equal_events"]) == (at, compared["equal_events"])
    table = await asyncio.to_thread(
        cli.execute,
        ["compare", elsewhere.run, run_id, "--url", elsewhere.url, "--token-file", str(elsewhere.world.token_file)],
    )
    assert table == 0
    assert f"they part first at {parting['agent']}: a at {parting['a']['seq']}" in capsys.readouterr().err


def _opening(log: list[StoredEvent]) -> int:
    """Place of a fork's step out of ``created``."""
    return next(place for place, one in enumerate(log) if one.event.run_transition.from_state == "created")
