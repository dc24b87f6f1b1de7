"""What `enchanted fork` is given beside the place is what the new run really runs with, to the model's prompt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.ledger import request_to_json
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.models.model import ModelReply, ModelRequest
from enchanted.actors.repository.git import Git
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.actors.work import RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.cluster import cli
from enchanted.schemas.chain import CLOSED_STATES
from enchanted.schemas.events import run_transition
from enchanted.schemas.fold import fold
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, served

pytestmark = pytest.mark.timeout(180)

FILES: dict[str, str | bytes] = {
    "cart.py": "import json\nimport re\n\nprint(re)\n",
    "shop.py": "import os\nimport sys\n\nprint(sys.argv)\n",
}
PROMPT = "Sort the imports of the ünusual shop.\nNothing else.\n"


class Scripted(MinimalModel):
    """Acts and approves; keeps what it was asked."""

    def __init__(self, asked: list[ModelRequest]) -> None:
        super().__init__(("Remove", "yes"))
        self._asked = asked

    async def complete(self, request: ModelRequest) -> ModelReply:
        self._asked.append(request)
        return await super().complete(request)


class LocalRuns:
    """Runs the swarm in this process."""

    def __init__(self, bus: Bus, config: SwarmConfig) -> None:
        self._bus, self._config = bus, config
        self.runs: list[asyncio.Task[Any]] = []

    async def start(self, request: RunRequest) -> str:
        log = AgentLog(self._bus, run_id=request.run_id, role="operator", agent_name="operator")
        details = request_to_json(request)
        await log.emit(
            run_transition(subject="run", from_state="", to_state="created", reason=request.task, details=details)
        )
        host = OrchestratorHost(request.run_id, self._config, LocalTeam)
        self.runs.append(asyncio.create_task(host.run()))
        return request.run_id

    async def resume(self, run_id: str) -> None:
        raise AssertionError(f"nobody asks twice for {run_id} here")

    async def cancel(self, run_id: str) -> None:
        raise AssertionError(f"nobody cancels {run_id} here")


@dataclass(frozen=True, kw_only=True)
class Swarm:
    """An API that really runs what it is asked for."""

    world: World
    url: str
    runs: LocalRuns
    asked: list[ModelRequest]

    async def typed(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
        """What a command line with ``--json`` answers."""
        where = ["--json", "--url", self.url, "--token-file", str(self.world.token_file)]
        await asyncio.to_thread(cli.execute, [*arguments, *where])
        captured = capsys.readouterr()
        assert captured.out, captured.err
        return dict(json.loads(captured.out))


@pytest.fixture
async def swarm(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Swarm]:
    asked: list[ModelRequest] = []
    monkeypatch.setattr("enchanted.actors.hosts.open_model", lambda *_: Scripted(asked))
    minimal = RoleModel(url="minimal")
    config = SwarmConfig(
        nats_url=world.nats.url,
        home=str(tmp_path / "home"),
        models={"architect": minimal, "coder": minimal, "reviewer": minimal},
    )
    runs = LocalRuns(world.bus, config)
    deps = Dependencies(
        store=Store(world.store_url, deadline=10),
        bus=BusLink(world.nats.url),
        access=Access(token=world.token_file.read_text().strip()),
        cache=tmp_path / "cache",
        starter=runs,
    )
    async with served(deps) as url:
        yield Swarm(world=world, url=url, runs=runs, asked=asked)
        await asyncio.gather(*runs.runs)
    while LocalTeam.living:
        await LocalTeam.living.pop().disband()


async def merged(swarm: Swarm, repo: Path) -> str:
    """A run that is over, with a budget that is not the default one."""
    body = {
        "task": "make the linter pass", "repo": str(repo), "checks": ["ruff check ."], "coders": 1, "seed": 3,
        "budget": {"model_calls_per_task": 21, "seconds": 170},
    }  # fmt: skip
    answer = await swarm.world.http.post(f"{swarm.url}/api/v1/runs", json=body)
    run: str = answer.json()["run_id"]
    await asyncio.gather(*swarm.runs.runs)
    await swarm.world.stored(run, len(await swarm.world.bus.read_run(run)))
    return run


async def prepared(swarm: Swarm, run: str) -> int:
    """The sequence at which a run's files were stored, and nothing done yet."""
    log = await swarm.world.bus.read_run(run)
    return next(one.seq for one in log if one.event.run_transition.to_state == "prepared")


async def test_another_prompt_seed_budget_and_repository_are_what_the_fork_runs_with(
    swarm: Swarm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        make_repository(folder, FILES)
    commit = Git(cwd=mine).run("rev-parse", "HEAD")
    # The branch stands on the commit the parent began with, which the other repository must know.
    Git(cwd=other, settings=["protocol.file.allow=always"]).run("fetch", "-q", str(mine), "main:theirs")
    parent = await merged(swarm, mine)
    assert not any(PROMPT.strip() in message.content for request in swarm.asked for message in request.messages)
    swarm.asked.clear()
    (tmp_path / "prompt.txt").write_text(PROMPT)

    forked = await swarm.typed(
        capsys, "fork", parent, "--at", str(await prepared(swarm, parent)), "--prompt-file",
        str(tmp_path / "prompt.txt"), "--seed", "77", "--budget", "150", "--repo", str(other), "--yes",
    )  # fmt: skip

    run = forked["run_id"]
    log = await swarm.world.bus.read_run(run)
    assert fold(log).state in CLOSED_STATES
    # The Architect plans anew, and is asked what the file says.
    assert any(PROMPT.strip() in message.content for request in swarm.asked for message in request.messages)
    told = [one.event.model_call.messages for one in log if one.event.HasField("model_call")]
    assert any("ünusual shop" in messages for messages in told)
    # Each role's seeds are made of the run's.
    assert {request.seed // 100_000 for request in swarm.asked} == {77}
    facts = (await swarm.world.document(f"runs/{run}"))["request"]
    assert facts["task"] == PROMPT.strip()
    assert (facts["seed"], facts["repo"], facts["forked_from"]) == (77, str(other), parent)
    # What was not said of the budget is the parent's.
    assert (facts["budget"]["seconds"], facts["budget"]["model_calls_per_task"]) == (150, 21)
    assert Git(cwd=other).run("rev-parse", f"{forked['branch']}^") == commit
    assert not Git(cwd=mine).run("branch", "--list", f"enchanted/{run}")


async def test_a_fork_whose_budget_is_spent_ends_by_it(
    swarm: Swarm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_repository(tmp_path / "mine", FILES)
    parent = await merged(swarm, tmp_path / "mine")
    begun = str(await prepared(swarm, parent))
    forked = await swarm.typed(capsys, "fork", parent, "--at", begun, "--budget", "0.001", "--yes")
    assert "budget" in forked["reason"], forked
    state = fold(await swarm.world.bus.read_run(forked["run_id"]))
    assert state.state == forked["verdict"] != "merged"
