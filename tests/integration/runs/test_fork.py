"""Forks: a run goes on from any sequence of another, and its log stands for itself."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.fork import CannotFork, ForkPruned, read_fork_point
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.ledger import read_ledger, report_to_json, request_to_json
from enchanted.actors.lifecycle import RunState
from enchanted.actors.recovery import recover
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.actors.work import CheckReport, CheckResult, RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.link import Link
from enchanted.bus.memory import InMemoryBus
from enchanted.bus.streams import BLOB_STREAM
from enchanted.bus.testing import NatsServer
from enchanted.schemas import events
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.schemas.fold import fold
from tests.integration.runs.world import ask, at_home

FILES: dict[str, str | bytes] = {
    "shop.py": 'import os\nimport sys\n\n\ndef status(order):\n    return f"open" if order else "closed"\n',
    "cart.py": "import json\nimport re\n\n\ndef total(items):\n    return sum(items)\n",
    "test_shop.py": 'from shop import status\n\nassert status(1) == "open"\n',
    "data.bin": bytes(range(256)),
}
CHECKS = ("ruff check .", "python test_shop.py")
pytestmark = pytest.mark.usefixtures("eager")

PARENT = RunRequest(run_id="parent", task="make the linter pass", repo="", checks=CHECKS, coders=2)


@pytest.fixture
async def parent(bus: Bus, server: NatsServer, tmp_path: Path) -> list[StoredEvent]:
    """A merged run; its home is gone, as on another node."""
    make_repository(tmp_path / "shop", FILES)
    await ask(bus, replace(PARENT, repo=str(tmp_path / "shop")))
    assert await OrchestratorHost("parent", at_home(server, tmp_path / "home"), LocalTeam).run() == RunState.MERGED
    shutil.rmtree(tmp_path / "home")
    return await bus.read_run("parent")


async def forked(bus: Bus, server: NatsServer, at: int, home: Path, **changes: Any) -> list[StoredEvent]:
    """Fork the parent at a sequence and run it to its end; returns its log."""
    request = replace(PARENT, run_id=f"fork-{at}", repo=str(home.parent / "shop"), forked_from="parent", forked_at=at)
    request = replace(request, **changes)
    await ask(bus, request)
    await OrchestratorHost(request.run_id, at_home(server, home), LocalTeam).run()
    return await bus.read_run(request.run_id)


def after(log: list[StoredEvent], state: str) -> int:
    """The sequence of the first transition into a state."""
    return next(one.seq for one in log if one.event.run_transition.to_state == state)


def beginning_of(log: list[StoredEvent]) -> int:
    """The sequence of a fork's step out of ``created``."""
    return next(one.seq for one in log if one.event.run_transition.from_state == "created")


def points(log: list[StoredEvent]) -> dict[str, int]:
    """Sequences worth forking at, by name."""
    edits = [one.seq for one in log if one.event.state_change.reason == "edit"]
    merges = [one.seq for one in log if one.event.state_change.reason == "merge"]
    named = {state: after(log, state) for state in ("prepared", "planning", "working", "coding", "reviewing")}
    return {
        **named,
        "an edit": edits[0],
        "the last edit": edits[-1],
        "a merge": merges[0],
        "checking": after(log, "checking"),
        "the end": log[-1].seq,
    }


async def test_a_fork_at_any_point_finishes_and_begins_with_the_parents_files(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    for name, at in points(parent).items():
        log = await forked(bus, server, at, tmp_path / f"home-{at}")
        assert fold(log).state == RunState.MERGED, name
        there, here = fold(parent, at=at), fold(log, at=beginning_of(log))
        tree = here.workspaces["main"].tree
        assert tree == there.workspaces["main"].tree, name
        assert {path: file.blob for path, file in here.workspaces["main"].files.items()} == {
            path: file.blob for path, file in there.workspaces["main"].files.items()
        }, name
        verdict = verify(log)
        assert (verdict.intact, verdict.complete, verdict.closed) == (True, True, True), name


async def test_a_fork_goes_on_in_the_middle_of_the_plan(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    edits = [one for one in parent if one.event.state_change.reason == "edit"]
    log = await forked(bus, server, edits[0].seq, tmp_path / "home-2")
    tasks = {one.event.task_id for one in parent if one.event.run_transition.subject == "task"}
    here = fold(log, at=beginning_of(log))
    assert here.state == "working"
    assert here.tasks.keys() == tasks
    assert not [one for one in log if kind_of(one.event) == "decision" and one.event.agent_name == "architect"]
    known = {one.event.state_change.new_state_hash for one in log if one.event.state_change.reason == "fork"}
    assert edits[0].event.state_change.new_state_hash in known, "what the Coder had done is not done again"


async def test_a_fork_with_another_task_plans_anew_on_the_parents_files(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    at = parent[-1].seq
    log = await forked(bus, server, at, tmp_path / "home-2", task="look again", checks=("true",))
    states = [one.event.run_transition.to_state for one in log if one.event.run_transition.subject == "run"]
    assert states[:4] == ["created", "prepared", "planning", "working"]
    assert fold(log).workspaces["main"].tree == fold(parent).workspaces["main"].tree


async def test_the_branch_of_a_fork_holds_what_the_parent_had_merged_as_well(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    merge = next(one.seq for one in parent if one.event.state_change.reason == "merge")
    await forked(bus, server, merge, tmp_path / "home-2", run_id="fork")
    git = Git(cwd=tmp_path / "shop")
    mine, theirs = (git.run("rev-parse", f"enchanted/{run}^{{tree}}") for run in ("fork", "parent"))
    assert mine == theirs


async def test_a_fork_without_the_repository_is_merged_in_the_log(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    shutil.rmtree(tmp_path / "shop")
    log = await forked(bus, server, after(parent, "working"), tmp_path / "home-2")
    state = fold(log)
    assert (state.state, "no branch" in state.reason) == (RunState.MERGED, True)


async def test_a_fork_of_a_fork_has_the_first_parents_files(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    first = await forked(bus, server, after(parent, "reviewing"), tmp_path / "home-1", run_id="one")
    edit = next((one.seq for one in first if one.event.state_change.reason == "edit"), after(first, "checking"))
    second = await forked(bus, server, edit, tmp_path / "home-2", run_id="two", forked_from="one")
    assert fold(second).state == RunState.MERGED
    assert fold(second).workspaces["main"].tree == fold(parent).workspaces["main"].tree


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
async def test_a_fork_whose_orchestrator_dies_while_it_begins_goes_on(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent], nth: int
) -> None:
    at = [one.seq for one in parent if one.event.state_change.reason == "merge"][-1]
    await ask(bus, replace(PARENT, run_id="fork", repo=str(tmp_path / "shop"), forked_from="parent", forked_at=at))
    config = at_home(server, tmp_path / "home-2")
    first = asyncio.create_task(OrchestratorHost("fork", config, LocalTeam).run())
    seen = 0
    async for stored in bus.tail(after=parent[-1].seq):
        seen += stored.event.run_id == "fork" and kind_of(stored.event) in ("state_change", "run_transition")
        if seen > nth:
            break
    first.cancel()
    await asyncio.wait([first])
    while LocalTeam.living:
        await LocalTeam.living.pop().disband()
    assert await OrchestratorHost("fork", config, LocalTeam).run() == RunState.MERGED
    log = await bus.read_run("fork")
    assert verify(log).intact
    begun = [one.event for one in log if one.event.state_change.reason in ("base", "fork")]
    trees = [(event.workspace_id, event.state_change.new_state_hash) for event in begun]
    assert len(trees) == len(set(trees)) > 1


async def test_what_cannot_be_forked_says_why(bus: Bus, parent: list[StoredEvent]) -> None:
    with pytest.raises(CannotFork, match="not stored yet"):
        await read_fork_point(bus, "parent", parent[0].seq)
    with pytest.raises(CannotFork, match="none of its events"):
        await read_fork_point(bus, "nobody", 100)


async def test_a_fork_of_a_fork_goes_on_from_the_work_that_the_first_one_had_taken_over_and_not_begun_with(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    edit = next(one for one in parent if one.event.state_change.reason == "edit")
    done = edit.event.state_change.new_state_hash
    first = await forked(bus, server, edit.seq, tmp_path / "home-1", run_id="one")
    waiting = read_ledger(first[: 1 + place_of_beginning(first)])
    assert done in {task.start for task in waiting.open_tasks}
    assert {task.state for task in waiting.open_tasks} == {"pending"}

    second = await forked(bus, server, beginning_of(first), tmp_path / "home-2", run_id="two", forked_from="one")
    begun = read_ledger(second[: 1 + place_of_beginning(second)])
    assert {task.spec.task_id: (task.assigned, task.start) for task in begun.open_tasks} == {
        task.spec.task_id: (task.assigned, task.start) for task in waiting.open_tasks
    }
    assert done in {one.event.state_change.new_state_hash for one in second if one.event.state_change.reason == "fork"}
    assert done not in {
        one.event.state_change.new_state_hash for one in second if one.event.state_change.reason == "edit"
    }
    assert fold(second).state == RunState.MERGED
    assert fold(second).workspaces["main"].tree == fold(parent).workspaces["main"].tree
    assert verify(second).complete


def place_of_beginning(log: list[StoredEvent]) -> int:
    """Where in its log a fork steps out of ``created``."""
    return next(place for place, one in enumerate(log) if one.event.run_transition.from_state == "created")


@dataclass(frozen=True, kw_only=True)
class Regressed:
    """A run, still working, whose main workspace was green once and is not any more."""

    log: list[StoredEvent]
    green: str
    """The tree whose checks passed."""
    red: str
    """The tree it has."""


@pytest.fixture
async def regressed(bus: Bus, tmp_path: Path) -> Regressed:
    make_repository(tmp_path / "shop", {"a.py": "import os\n"})
    repository = await ShadowRepository.create(tmp_path / "made.git", tmp_path / "shop")
    base = repository.base_tree
    green = repository.store.writer.with_files(base, {b"a.py": ("100644", b"A = 1\n")})
    assert green is not None
    red = repository.store.writer.with_files(green, {b"b.py": ("100644", b"import os\n")})
    assert red is not None
    log = AgentLog(bus, run_id="regressed", role="operator", agent_name="orchestrator")
    request = replace(PARENT, run_id="regressed", repo=str(tmp_path / "shop"), checks=("ruff check .",))

    async def step(start: str, end: str, details: Any) -> None:
        await log.emit(events.run_transition(subject="run", from_state=start, to_state=end, reason="", details=details))

    def report(tree: str, *, passed: bool) -> dict[str, Any]:
        check = CheckResult(command="ruff check .", passed=passed, exit_code=int(not passed), output="")
        return {"report": report_to_json(CheckReport(tree=tree, checks=(check,)))}

    await step("", "created", request_to_json(request))
    last, content = 0, await bus.blobs.put(await repository.bundle(base))
    for old, new in ((repository.empty_tree, base), (base, green), (green, red)):
        patch = await repository.diff(old, new)
        change = events.state_change(
            workspace_id="main",
            previous_tree=old,
            new_tree=new,
            patch="" if new == base else patch.text,
            files=patch.files,
            reason="base" if new == base else "merge",
            resource="",
            content_sha256=content if new == base else "",
        )
        last = (await log.emit_change(change, expected_last=last)).seq
        if new == base:
            commit = {"base_commit": repository.base_commit, "base_tree": base}
            await step("created", "prepared", commit)
            await step("prepared", "planning", report(base, passed=False))
            await step("planning", "working", None)
        else:
            await step("working", "working", report(new, passed=new == green))
    return Regressed(log=await bus.read_run("regressed"), green=green, red=red)


async def test_a_fork_whose_checks_stay_red_is_taken_back_to_what_its_parent_or_theirs_had_found_valid(
    bus: Bus, server: NatsServer, tmp_path: Path, regressed: Regressed
) -> None:
    at, parent_id = regressed.log[-1].seq, "regressed"
    for run_id in ("one", "two"):
        log = await forked(
            bus, server, at, tmp_path / f"home-{run_id}", run_id=run_id, forked_from=parent_id,
            checks=("ruff check .",), repo=str(tmp_path / "shop"),
        )  # fmt: skip
        begun = [one.event.state_change.new_state_hash for one in log if one.event.state_change.reason == "fork"]
        assert begun == [regressed.green, regressed.red]
        assert fold(log).state == RunState.REJECTED
        newest = [one.event.state_change for one in log if one.event.HasField("state_change")][-1]
        assert (newest.reason, newest.new_state_hash) == ("rollback", regressed.green)
        found = recover(log, run=run_id)
        assert found.valid is not None
        assert (found.valid.tree, found.fault) == (regressed.green, None)
        at, parent_id = beginning_of(log), run_id


@pytest.mark.parametrize("nth", [2, 3])
async def test_a_fork_that_dies_between_the_valid_state_and_the_newest_one_goes_on_there(
    bus: Bus, server: NatsServer, tmp_path: Path, regressed: Regressed, nth: int
) -> None:
    point = {"forked_from": "regressed", "forked_at": regressed.log[-1].seq}
    await ask(bus, replace(PARENT, run_id="one", repo=str(tmp_path / "shop"), checks=("ruff check .",), **point))
    config, seen = at_home(server, tmp_path / "home-1"), 0
    first = asyncio.create_task(OrchestratorHost("one", config, LocalTeam).run())
    async for stored in bus.tail(after=regressed.log[-1].seq):
        seen += kind_of(stored.event) == "state_change"
        if seen == nth:
            break
    first.cancel()
    await asyncio.wait([first])
    while LocalTeam.living:
        await LocalTeam.living.pop().disband()
    assert await OrchestratorHost("one", config, LocalTeam).run() == RunState.REJECTED
    log = await bus.read_run("one")
    begun = [one.event.state_change.new_state_hash for one in log if one.event.state_change.reason == "fork"]
    assert begun == [regressed.green, regressed.red]


async def test_a_fork_of_a_fork_whose_base_was_pruned_says_so_and_what_is_left_to_do(
    bus: Bus, server: NatsServer, tmp_path: Path, parent: list[StoredEvent]
) -> None:
    first = await forked(bus, server, after(parent, "working"), tmp_path / "home-1", run_id="one")
    at = after(first, "checking")
    link = Link(server.url, name="pruning")
    await link.open()
    await link.api(f"STREAM.PURGE.{BLOB_STREAM}")
    await link.close()
    told = r"bundle its log begins with, which was parent's, is no more in the bus's object store.*; if the API has"
    with pytest.raises(ForkPruned, match=told):
        await read_fork_point(bus, "one", at)
    second = await forked(bus, server, at, tmp_path / "home-2", run_id="two", forked_from="one")
    state = fold(second)
    assert (state.state, "no more in the bus's object store" in state.reason) == (RunState.FAILED, True)
    assert "enchanted run TASK --repo REPO" in state.reason


async def test_a_run_whose_beginning_the_stream_has_let_go_cannot_be_forked_and_says_so(
    parent: list[StoredEvent],
) -> None:
    later = InMemoryBus()
    for stored in parent[12:]:
        message = Outgoing(subject=stored.subject, payload=stored.raw, event_id=stored.event.event_id)
        await later.publisher.publish(message)
    with pytest.raises(ForkPruned, match=r"no longer holds the beginning of its log; .*enchanted restore parent --at"):
        await read_fork_point(later, "parent", 1_000)
