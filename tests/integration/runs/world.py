"""What the tests of runs share: a shop to work on, a run of it in this process, and its recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.ledger import request_to_json
from enchanted.actors.lifecycle import RunState
from enchanted.actors.rerun.driver import Verdict, rerun
from enchanted.actors.rerun.recording import Recording, recording_of
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.work import RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer
from enchanted.schemas import events

RUN = "run-1"
FILES = {
    "shop.py": 'import os\nimport sys\n\n\ndef status(order):\n    return f"open" if order else "closed"\n',
    "stock.py": 'import os\n\n\ndef left(items):\n    return f"{len(items)}"\n',
    "test_shop.py": 'from shop import status\n\nassert status(1) == "open"\nassert status(0) == "closed"\n',
    "test_stock.py": 'from stock import left\n\nassert left([1]) == "1"\n',
}
CHECKS = ("ruff check .", "python test_shop.py", "python test_stock.py")


def wanted(shop: Path, **changes: Any) -> RunRequest:
    """What is asked of the swarm, but for ``changes``."""
    return replace(RunRequest(run_id=RUN, task="make the linter pass", repo=str(shop), checks=CHECKS), **changes)


def at_home(server: NatsServer, home: Path, **changes: Any) -> SwarmConfig:
    """A swarm of models without weights."""
    minimal = RoleModel(url="minimal")
    models = {"architect": minimal, "coder": minimal, "reviewer": minimal}
    return replace(SwarmConfig(nats_url=server.url, home=str(home), models=models, signal_seconds=0.5), **changes)


async def ask(bus: Bus, request: RunRequest) -> None:
    """Store a request, as the API does."""
    log = AgentLog(bus, run_id=request.run_id, role="operator", agent_name="operator")
    details = request_to_json(request)
    await log.emit(
        events.run_transition(subject="run", from_state="", to_state="created", reason=request.task, details=details)
    )


async def live(config: SwarmConfig, run: str = RUN, team: type[LocalTeam] = LocalTeam) -> RunState:
    return await OrchestratorHost(run, config, team).run()


async def recorded(bus: Bus, run: str = RUN) -> Recording:
    return await recording_of(run, bus.read_run, bus.blobs.get)


async def again(bus: Bus, folder: Path) -> Verdict:
    return await rerun(await recorded(bus), folder / "scratch", patience=5)


def require_equal(verdict: Verdict) -> None:
    assert verdict.divergence is None, (verdict.divergence.why, verdict.divergence.differences)
    assert [(part.name, part.equal) for part in verdict.parts] == [(p.name, p.recorded) for p in verdict.parts]
