"""A run whose Coder sets a variable that the operator offers: its log, its state, its rerun and its forks."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.ledger import read_ledger, request_from_json, request_to_json
from enchanted.actors.lifecycle import RunState
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.rerun.driver import rerun
from enchanted.actors.rerun.recording import recording_of
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.actors.work import RunRequest
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.schemas.fold import ENV_VAR, FILE_SYSTEM, fold
from tests.integration.runs.world import ask, at_home

FILES = {
    "calc.py": "def smaller(a, b):\n    return a > b\n",
    "test_calc.py": (
        "import os\n\nfrom calc import smaller\n\n"
        'print("level", os.environ.get("LEVEL", "none"), os.environ.get("MODE", "none"))\nassert smaller(1, 2)\n'
    ),
}
OFFERS = {"LEVEL": ("debug", "trace"), "MODE": ("fast",)}
PARENT = RunRequest(
    run_id="parent", task="make the check pass", repo="", checks=("python test_calc.py",), variables=OFFERS
)


@pytest.fixture(autouse=True)
def setter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model without weights sets two variables where they are offered, then takes what a tool found."""
    prefers = ("set LEVEL=debug", "set LEVEL=trace", "calc.py", "submit", "yes")
    monkeypatch.setattr("enchanted.actors.hosts.open_model", lambda *_: MinimalModel(prefers))


async def driven(
    bus: Bus,
    server: NatsServer,
    folder: Path,
    request: RunRequest,
    *,
    guided: bool = True,
    files: Mapping[str, str] = FILES,
) -> list[StoredEvent]:
    """Ask for a run, drive it to its verdict in a home of its own, and give its log."""
    if not (folder / "shop").exists():
        make_repository(folder / "shop", files)
    await ask(bus, replace(request, repo=str(folder / "shop")))
    home = folder / f"home-{request.run_id}"
    config = at_home(server, home)
    config = replace(config, models={**config.models, "coder": replace(config.models["coder"], guided=guided)})
    assert await OrchestratorHost(request.run_id, config, LocalTeam).run() == RunState.MERGED
    shutil.rmtree(home)
    return await bus.read_run(request.run_id)


def variables_of(log: list[StoredEvent]) -> list[StoredEvent]:
    return [one for one in log if one.event.state_change.target_type == ENV_VAR]


def outputs(log: list[StoredEvent], agent: str) -> list[str]:
    """First line of every check that an agent ran."""
    calls = [one.event for one in log if one.event.tool_call.tool == "run_check"]
    return [event.tool_call.output.splitlines()[0] for event in calls if event.agent_name.startswith(agent)]


def values(log: list[StoredEvent], workspace: str, at: int | None = None) -> Mapping[str, str]:
    return {name: one.value for name, one in fold(log, at=at).workspaces[workspace].variables.items()}


async def require_reruns_equal(bus: Bus, run: str, scratch: Path) -> None:
    verdict = await rerun(await recording_of(run, bus.read_run, bus.blobs.get), scratch, patience=5)
    assert verdict.divergence is None, (verdict.divergence.why, verdict.divergence.differences)


@pytest.mark.parametrize("guided", [True, False])
async def test_a_variable_that_a_coder_sets_is_a_change_its_checks_see_it_and_the_rerun_is_equal(
    bus: Bus, server: NatsServer, tmp_path: Path, guided: bool
) -> None:
    log = await driven(bus, server, tmp_path, PARENT, guided=guided)
    first, second = variables_of(log)
    debug, trace = sha256_hex('"debug"'), sha256_hex('"trace"')
    step = first.event.state_change
    assert (step.target_resource, step.previous_state_hash, step.new_state_hash) == ("LEVEL", "", debug)
    assert (step.diff_patch, step.is_reversible, step.reason) == ('"debug"', True, "edit")
    step = second.event.state_change
    assert (step.previous_state_hash, step.new_state_hash, step.diff_patch) == (debug, trace, '"trace"')
    call = next(one.event for one in log if one.event.event_id == first.event.parent_event_id)
    assert (call.tool_call.tool, call.tool_call.arguments) == ("set_variable", '{"name":"LEVEL","value":"debug"}')
    assert outputs(log, "coder")[:3] == ["level none none", "level debug none", "level trace none"]
    assert set(outputs(log, "reviewer")) == {"level none none"}
    workspace = first.event.workspace_id
    assert values(log, workspace, at=first.seq) == {"LEVEL": '"debug"'}
    assert values(log, workspace) == {"LEVEL": '"trace"'}
    assert (verify(log).intact, verify(log).complete) == (True, True)
    await require_reruns_equal(bus, "parent", tmp_path / "scratch")


async def test_what_passes_only_with_a_variable_is_repaired_all_the_same_and_looked_for_once_per_tree(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    lenient = FILES["test_calc.py"].replace("assert smaller(1, 2)", 'assert smaller(1, 2) or "LEVEL" in os.environ')
    log = await driven(bus, server, tmp_path, PARENT, files={**FILES, "test_calc.py": lenient})
    assert len(variables_of(log)) == 2
    assert outputs(log, "coder") == [f"level {level} none" for level in ("none", "debug", "trace", "none")]
    searches = [one.event.tool_call for one in log if one.event.tool_call.tool == "find_repairs"]
    assert len(searches) == 1
    repairs = orjson.loads(searches[0].data)["repairs"]
    assert {one["after"].strip() for one in repairs} == {"return not (a > b)", "return a < b", "return a <= b"}
    triggers = [one.event.decision.input_trigger for one in log if one.event.agent_name.startswith("coder")]
    assert [text.splitlines()[-1] for text in triggers if "passes with" in text] == [
        f"'python test_calc.py' passes with LEVEL={level}, and fails without, as the reviewer runs it"
        for level in ("debug", "trace")
    ]
    await require_reruns_equal(bus, "parent", tmp_path / "scratch")


async def test_a_run_without_an_offer_says_nothing_of_variables(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    log = await driven(bus, server, tmp_path, replace(PARENT, variables={}))
    assert variables_of(log) == []
    assert "variables" not in orjson.loads(log[0].event.run_transition.details)
    calls = [one.event.model_call for one in log if kind_of(one.event) == "model_call"]
    assert calls
    assert [call for call in calls if "variable" in call.messages + call.parameters or "set " in call.messages] == []


async def test_a_variable_that_a_foreign_log_offers_and_no_check_may_get_is_chosen_once(
    bus: Bus, server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = MinimalModel(("set PATH=/x", "calc.py", "submit", "yes"))
    monkeypatch.setattr("enchanted.actors.hosts.open_model", lambda *_: stubborn)
    log = await driven(bus, server, tmp_path, replace(PARENT, variables={"PATH": ("/x",), **OFFERS}))
    calls = [one.event.tool_call for one in log if one.event.tool_call.tool == "set_variable"]
    assert [(call.outcome, "the sandbox sets it itself" in call.reason) for call in calls] == [("DENIED", True)]
    assert variables_of(log) == []
    await require_reruns_equal(bus, "parent", tmp_path / "scratch")


async def test_a_fork_from_after_a_variable_was_set_sets_it_again_before_anything_else_and_reruns_equal(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    parent = await driven(bus, server, tmp_path, PARENT)
    first = variables_of(parent)[0]
    edit = next(
        one
        for one in parent
        if one.event.state_change.reason == "edit" and one.event.state_change.target_type == FILE_SYSTEM
    )
    # The second one finds the check passing as it is.
    for at, level, seen in ((first.seq, "debug", ["none", "debug"]), (edit.seq, "trace", ["none"])):
        run = f"fork-{at}"
        log = await driven(bus, server, tmp_path, replace(PARENT, run_id=run, forked_from="parent", forked_at=at))
        taken = [one.event for one in variables_of(log) if one.event.state_change.reason == "fork"]
        assert [(event.workspace_id, event.state_change.diff_patch) for event in taken] == [
            (first.event.workspace_id, f'"{level}"')
        ]
        said = [one.event for one in log if one.event.agent_name.startswith("coder") and one.event.task_id]
        assert [kind_of(event) for event in said[:2]] == ["tool_call", "state_change"]
        assert said[0].tool_call.arguments == f'{{"name":"LEVEL","value":"{level}"}}'
        assert outputs(log, "coder")[:2] == [f"level {one} none" for one in seen]
        assert values(log, said[0].workspace_id)["LEVEL"] == '"trace"'
        assert values(log, first.event.workspace_id) == {"LEVEL": f'"{level}"'}
        await require_reruns_equal(bus, run, tmp_path / f"scratch-{at}")


async def test_a_fork_of_a_fork_takes_over_what_the_first_had_not_begun_with_and_a_fork_that_offers_less_does_not(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    parent = await driven(bus, server, tmp_path, PARENT)
    at = variables_of(parent)[0].seq
    one = await driven(bus, server, tmp_path, replace(PARENT, run_id="one", forked_from="parent", forked_at=at))
    begun = next(stored.seq for stored in one if stored.event.run_transition.from_state == "created")
    assert [task.variables for task in read_ledger(s for s in one if s.seq <= begun).open_tasks] == [{"LEVEL": "debug"}]
    two = await driven(bus, server, tmp_path, replace(PARENT, run_id="two", forked_from="one", forked_at=begun))
    assert outputs(two, "coder")[1] == "level debug none"
    less = replace(PARENT, run_id="less", forked_from="parent", forked_at=at, variables={"MODE": ("fast",)})
    log = await driven(bus, server, tmp_path, less)
    assert outputs(log, "coder")[0] == "level none none"
    assert not [one for one in variables_of(log) if one.event.state_change.target_resource == "LEVEL"]


async def test_a_fork_whose_orchestrator_dies_after_it_took_a_variable_over_takes_it_over_once(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    parent = await driven(bus, server, tmp_path, PARENT)
    at, config = variables_of(parent)[0].seq, at_home(server, tmp_path / "home-fork")
    fork = replace(PARENT, run_id="fork", repo=str(tmp_path / "shop"), forked_from="parent", forked_at=at)
    await ask(bus, fork)
    first = asyncio.create_task(OrchestratorHost("fork", config, LocalTeam).run())
    async for stored in bus.tail(after=parent[-1].seq):
        if stored.event.state_change.reason == "fork":
            break
    first.cancel()
    await asyncio.wait([first])
    while LocalTeam.living:
        await LocalTeam.living.pop().disband()
    assert await OrchestratorHost("fork", config, LocalTeam).run() == RunState.MERGED
    log = await bus.read_run("fork")
    assert [one.event.state_change.reason for one in variables_of(log)].count("fork") == 1
    assert verify(log).intact
    await require_reruns_equal(bus, "fork", tmp_path / "scratch")


def test_a_request_with_offers_is_the_same_from_its_event() -> None:
    assert request_from_json(request_to_json(PARENT)) == PARENT
