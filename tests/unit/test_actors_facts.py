"""What the Reviewer and the Coder take for a fact: only what a tool said that really ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from enchanted.actors.agent import Agent, Place
from enchanted.actors.coder import Coder
from enchanted.actors.desk import Desk
from enchanted.actors.errors import SandboxUnavailable, ToolNotRun
from enchanted.actors.ledger import report_from_json, report_to_json
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.reviewer import Reviewer
from enchanted.actors.tools.lint import Finding
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.work import Assignment, Budget, CheckReport, CheckRequest, ReviewRequest, TaskSpec
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.memory import InMemoryBus
from enchanted.schemas.events import StoredEvent, kind_of

RUN = "run-facts"
BEFORE, AFTER = "1" * 64, "2" * 64
CHECK = "python -m pytest"
PASSED = ToolResult(outcome="OK", output="2 passed")
BROKEN = ToolResult(outcome="FAILED", output="1 failed", exit_code=1, reason="exit status 1")
STOPPED = ToolResult(outcome="TIMED_OUT", exit_code=137, reason="ended: still running after 60 s")
GREEDY = ToolResult(outcome="FAILED", exit_code=137, reason="ended: over its limit of memory")
NO_SANDBOX = ToolResult(outcome="DENIED", reason=str(SandboxUnavailable("it did not start")))
REFUSED = ToolResult(
    outcome="FAILED",
    output="ruff failed\n  Cause: Failed to parse pyproject.toml\n",
    exit_code=2,
    reason="exit status 2",
)


def linted(count: int) -> ToolResult:
    findings = tuple(
        Finding(id=f"F401:a.py:{n}:1", code="F401", path="a.py", line=n, column=1, message="unused", fix=None)
        for n in range(1, count + 1)
    )
    return ToolResult(outcome="OK", exit_code=int(count > 0), data={"findings": findings})


class Answers:
    """Tools that say what is written for them, the last of it for ever; and files that nobody changes."""

    def __init__(self, tree: str, said: Mapping[str, list[ToolResult]]) -> None:
        self._tree = tree
        self._said = said

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        said = self._said.get(tool, [PASSED])
        return said.pop(0) if len(said) > 1 else said[0]

    async def snapshot(self) -> str:
        return self._tree

    async def reset(self, tree: str) -> None: ...

    async def close(self) -> None: ...


class World:
    """One run's log, and what the tools say at the desk of each tree."""

    def __init__(self, **said: dict[str, list[ToolResult]]) -> None:
        self.bus = InMemoryBus()
        self._said = {BEFORE: said.get("before", {}), AFTER: said.get("after", {})}

    def agent(self, role: str) -> Agent:
        log = AgentLog(self.bus, run_id=RUN, role="reviewer" if role == "reviewer" else "coder", agent_name=role)
        return Agent(name=role, run_id=RUN, log=log, model=MinimalModel(("yes",)))

    async def desk(self, agent: Agent, place: Place, tree: str, *, records: bool = True) -> Desk:
        answers = Answers(tree, self._said[tree])
        return Desk(
            agent=agent,
            repository=cast(ShadowRepository, None),
            files=answers,
            tools=answers,
            place=place,
            tree=tree,
            records=records,
        )

    def reviewer(self, **options: Any) -> Reviewer:
        return Reviewer(self.agent("reviewer"), self, checks=(CHECK,), guided=True, **options)

    async def calls(self, tool: str) -> list[StoredEvent]:
        events = [stored for stored in await self.bus.read_run(RUN) if kind_of(stored.event) == "tool_call"]
        return [stored for stored in events if stored.event.tool_call.tool == tool]


def candidate(before: CheckReport) -> ReviewRequest:
    task = TaskSpec(task_id="task-1", title="t", goal="g", files=("a.py",))
    return ReviewRequest(task=task, before=before, tree=AFTER, patch="diff", summary="s", parent="", carrier={})


def baseline() -> CheckRequest:
    return CheckRequest(tree=BEFORE, carrier={})


def assignment(check: str = "") -> Assignment:
    return Assignment(
        task=TaskSpec(task_id="task-1", title="t", goal="g", files=("a.py",), check=check),
        workspace_id="w",
        tree=BEFORE,
        report=CheckReport(tree=BEFORE, checks=()),
        feedback="",
        attempt=1,
        parent="",
        carrier={},
    )


CRASHED = ToolResult(outcome="FAILED", output="thread 'main' panicked", exit_code=101, reason="exit status 101")
NO_LINT = {"stopped": STOPPED, "over its memory": GREEDY, "without a sandbox": NO_SANDBOX, "crashed": CRASHED}


@pytest.mark.parametrize("why", NO_LINT)
async def test_a_linter_that_does_not_run_twice_is_no_report_without_findings(why: str) -> None:
    world = World(before={"lint": [NO_LINT[why]]})
    with pytest.raises(ToolNotRun, match=r"(?s)^lint did not run, in 2 tries \(.*; run `enchanted doctor`"):
        await world.reviewer().check(baseline())
    assert len(await world.calls("lint")) == 2


@pytest.mark.parametrize("why", NO_LINT)
async def test_a_linter_that_runs_at_the_second_try_gives_its_findings(why: str) -> None:
    world = World(before={"lint": [NO_LINT[why], linted(3)]})
    assert (await world.reviewer().check(baseline())).findings == {"a.py": 3}


async def test_a_candidate_whose_linter_does_not_run_has_no_fewer_findings() -> None:
    world = World(before={"lint": [linted(3)]}, after={"lint": [STOPPED]})
    reviewer = world.reviewer()
    before = await reviewer.check(baseline())
    with pytest.raises(ToolNotRun):
        await reviewer.review(candidate(before))


async def test_a_check_whose_sandbox_does_not_come_up_twice_is_none_that_failed() -> None:
    world = World(before={"lint": [linted(0)], "run_check": [NO_SANDBOX]})
    with pytest.raises(ToolNotRun, match=r"^run_check 'python -m pytest' did not run, in 2 tries"):
        await world.reviewer().check(baseline())
    assert len(await world.calls("run_check")) == 2


async def test_a_check_whose_sandbox_comes_up_at_the_second_try_has_the_status_of_that() -> None:
    world = World(before={"lint": [linted(0)], "run_check": [NO_SANDBOX, PASSED]})
    assert (await world.reviewer().check(baseline())).green


@pytest.mark.parametrize("result", [BROKEN, STOPPED, GREEDY], ids=["fails", "takes too long", "takes too much"])
async def test_a_check_that_ran_and_did_not_pass_has_failed_and_runs_once(result: ToolResult) -> None:
    world = World(before={"lint": [linted(0)], "run_check": [result]})
    report = await world.reviewer().check(baseline())
    assert report.failing == (CHECK,)
    assert len(await world.calls("run_check")) == 1


async def test_a_repository_whose_configuration_the_linter_refuses_is_judged_by_its_checks() -> None:
    world = World(before={"lint": [REFUSED]}, after={"lint": [REFUSED]})
    reviewer = world.reviewer()
    before = await reviewer.check(baseline())
    assert (before.green, before.findings) == (True, {})
    assert (await reviewer.review(candidate(before))).approved
    assert len(await world.calls("lint")) == 2


async def test_a_candidate_that_mends_the_linters_configuration_brings_no_findings_of_its_own() -> None:
    world = World(before={"lint": [REFUSED]}, after={"lint": [linted(5)]})
    reviewer = world.reviewer()
    review = await reviewer.review(candidate(await reviewer.check(baseline())))
    assert review.approved
    assert review.report.findings == {"a.py": 5}


@pytest.mark.parametrize("count", [0, 3])
async def test_a_candidate_that_breaks_the_linters_configuration_is_sent_back(count: int) -> None:
    world = World(before={"lint": [linted(count)]}, after={"lint": [REFUSED]})
    reviewer = world.reviewer()
    review = await reviewer.review(candidate(await reviewer.check(baseline())))
    assert not review.approved
    assert review.reason == "the linter refuses the repository's configuration, which it took before"


async def test_a_reviewer_that_was_restarted_reads_in_the_report_whether_the_configuration_was_taken() -> None:
    world = World(after={"lint": [REFUSED]})
    for linted in (False, True):
        before = report_from_json(report_to_json(CheckReport(tree=BEFORE, checks=(), linted=linted)))
        assert (await world.reviewer(reports=[before]).review(candidate(before))).approved is not linted


async def test_a_reviewer_that_was_restarted_still_counts_findings_against_those_of_before() -> None:
    world = World(after={"lint": [linted(2)]})
    before = CheckReport(tree=BEFORE, checks=())
    review = await world.reviewer(reports=[before]).review(candidate(before))
    assert (review.approved, review.reason) == (False, "2 lint findings where there were 0")


def coder(world: World) -> Coder:
    return Coder(world.agent("coder"), world, guided=True, budget=Budget())


async def test_a_coder_whose_linter_does_not_run_hands_nothing_in() -> None:
    world = World(before={"lint": [STOPPED]})
    with pytest.raises(ToolNotRun, match=r"^lint did not run, in 2 tries"):
        await coder(world).code(assignment())


async def test_a_coder_whose_linter_refuses_the_configuration_has_nothing_to_do() -> None:
    world = World(before={"lint": [REFUSED]})
    assert (await coder(world).code(assignment())).summary == "the tools offer nothing more to do here"


async def test_a_coder_whose_check_does_not_run_looks_for_no_repair_of_it() -> None:
    world = World(before={"run_check": [NO_SANDBOX]})
    with pytest.raises(ToolNotRun, match=r"^run_check 'python -m pytest' did not run, in 2 tries"):
        await coder(world).code(assignment(CHECK))
    assert await world.calls("find_repairs") == []


async def test_a_coder_whose_check_runs_at_the_second_try_goes_on() -> None:
    world = World(before={"run_check": [NO_SANDBOX, PASSED]})
    assert (await coder(world).code(assignment(CHECK))).tree == BEFORE
