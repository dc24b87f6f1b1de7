"""`enchanted rerun` of runs on real Ray, whose processes are killed while they work."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from enchanted.actors.repository.git import Git
from enchanted.bus.connection import Bus
from enchanted.cluster.testing import HomeUnderTest, kill
from enchanted.schemas.events import StoredEvent, kind_of

pytestmark = pytest.mark.timeout(300)

MODULE = "import os\nimport re\n\n\ndef name():\n    return f'name'\n"
FILES: dict[str, str | bytes] = {f"module_{number}.py": MODULE for number in range(6)}
CHECKS = ("--check", "ruff check .", "--check", "sleep 0.2")

Repository = Callable[..., Git]


def last_words(agent: str, kind: str) -> Callable[[StoredEvent], bool]:
    """An event of a kind that an agent said."""
    return lambda stored: stored.event.agent_name == agent and kind_of(stored.event) == kind


Victims = Sequence[tuple[str, Callable[[StoredEvent], bool]]]
VICTIMS: dict[str, Victims] = {
    "a coder": (("coder-1", last_words("coder-1", "tool_call")),),
    "the reviewer": (("reviewer", last_words("reviewer", "decision")),),
    "a coder, then the orchestrator": (
        ("coder-1", last_words("coder-1", "model_call")),
        ("orchestrator", last_words("reviewer", "decision")),
    ),
}


async def kill_each(bus: Bus, victims: Victims, *, after: int) -> None:
    """Kill -9 each agent's process once somebody says what its condition waits for."""
    pids: dict[str, int] = {}
    left = list(victims)
    async for stored in bus.tail(after=after):
        if stored.event.system_signal.status == "STARTING":
            pids[stored.event.agent_name] = stored.event.system_signal.pid
        if left and left[0][1](stored):
            kill(pids[left.pop(0)[0]])
        if not left:
            return


async def told(swarm: HomeUnderTest, run_id: str) -> str:
    """What a run's log tells in which order, for whoever has to find out why it does not rerun."""
    async with Bus.connect(swarm.status()["nats_url"], name="test") as bus:
        log = await bus.read_run(run_id)
    return "\n".join(
        f"{s.seq} {s.event.agent_name} {s.event.agent_id} {kind_of(s.event)} {s.event.task_id} "
        f"{s.event.system_signal.status}{s.event.tool_call.tool}{s.event.run_transition.to_state} "
        f"{s.event.run_transition.reason[:60]}"
        for s in log
    )


@pytest.mark.parametrize("victims", VICTIMS)
async def test_a_run_reruns_equal_whoever_was_killed_in_it(
    swarm: HomeUnderTest, repository: Repository, tmp_path: Path, victims: str
) -> None:
    repository("modules", FILES)
    arguments = ("run", "make the linter pass", "--repo", str(tmp_path / "modules"), "--json", *CHECKS)
    async with Bus.connect(swarm.status()["nats_url"], name="test") as bus:
        after = (await bus.stream_info()).last_seq
        with swarm.popen(*arguments) as process:
            await kill_each(bus, VICTIMS[victims], after=after)
            output, errors = await asyncio.to_thread(process.communicate, timeout=240)
    assert process.returncode in (0, 1), errors
    run_id = json.loads(output)["run_id"]
    done = await asyncio.to_thread(swarm.run, "rerun", run_id)
    assert done.returncode == 0, done.stdout + done.stderr + await told(swarm, run_id)
    assert re.match(rf"{run_id}: equal, (\d+) of \1 events", done.stdout)
    agents = json.loads((await asyncio.to_thread(swarm.run, "rerun", run_id, "--json")).stdout)["agents"]
    for name, _ in VICTIMS[victims]:
        assert [agent["name"] for agent in agents].count(name) >= 2

    recorded = await asyncio.to_thread(swarm.run, "rerun", run_id, "--record", str(tmp_path / "run.zip"))
    assert recorded.returncode == 0, recorded.stderr
    again = [sys.executable, "-m", "enchanted.actors.rerun", str(tmp_path / "run.zip")]
    alone = await asyncio.to_thread(subprocess.run, again, capture_output=True, text=True, timeout=120, check=False)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert json.loads(alone.stdout)["agents"] == agents
