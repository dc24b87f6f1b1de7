"""The Reviewer: runs every check itself on the merged candidate, then approves or sends it back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from enchanted.actors import prompts
from enchanted.actors.agent import Agent, Place, Question
from enchanted.actors.desk import Desk, Site
from enchanted.actors.prompts import Option
from enchanted.actors.tools import facts
from enchanted.actors.work import CheckReport, CheckRequest, CheckResult, Review, ReviewRequest

WORKSPACE = "review"
PATCH_CHARS = 6_000
OUTPUT_CHARS = 2_000
LINT_LOST = "the linter refuses the repository's configuration, which it took before"


class Reviewer:
    """Judges trees. Facts it saw itself bind it: what makes a check worse can only be rejected.

    ``reports`` are of trees it has checked before; it checks none twice.
    """

    def __init__(
        self,
        agent: Agent,
        site: Site,
        *,
        checks: tuple[str, ...],
        guided: bool,
        reports: Iterable[CheckReport] = (),
    ) -> None:
        self._agent = agent
        self._site = site
        self._checks = checks
        self._guided = guided
        self._reports = {report.tree: report for report in reports}

    async def check(self, request: CheckRequest) -> CheckReport:
        """Run every check and the linter on a tree; nothing they write is kept.

        Raises:
            ToolNotRun: one of them does not run.
        """
        with self._agent.turn(request.carrier):
            return await self._report(request.tree, Place(workspace_id=WORKSPACE))

    async def review(self, request: ReviewRequest) -> Review:
        """Judge a candidate after running every check on it.

        Raises:
            AnswerUnusable: the model's replies cannot be parsed.
            ModelError: the model does not answer.
            ToolNotRun: the linter or a check does not run.
        """
        with self._agent.turn(request.carrier):
            place = Place(task_id=request.task.task_id, workspace_id=WORKSPACE, parent=request.parent)
            seen = await self._report(request.tree, place)
            lost = (LINT_LOST,) if request.before.linted and not seen.linted else ()
            request, report = _comparable(request, seen)
            objections = (*lost, *_objections(request, report))
            if objections or not request.patch:
                review = await self._by_facts(request, report, objections, place)
            else:
                review = await self._judge(request, report, place)
            return replace(review, report=seen)

    async def _report(self, tree: str, place: Place) -> CheckReport:
        if tree not in self._reports:
            async with await self._site.desk(self._agent, place, tree, records=False) as desk:
                self._reports[tree] = await self._run_checks(desk, tree)
        return self._reports[tree]

    async def _run_checks(self, desk: Desk, tree: str) -> CheckReport:
        found = await facts.findings(desk)
        findings: dict[str, int] = {}
        for finding in found or ():
            findings[finding.path] = findings.get(finding.path, 0) + 1
        results = []
        for command in self._checks:
            result = await facts.check(desk, command)
            passed = result.outcome == "OK" and result.exit_code == 0
            results.append(
                CheckResult(
                    command=command, passed=passed, exit_code=result.exit_code, output=result.output[-OUTPUT_CHARS:]
                )
            )
        return CheckReport(tree=tree, checks=tuple(results), findings=findings, linted=found is not None)

    async def _by_facts(
        self, request: ReviewRequest, report: CheckReport, objections: tuple[str, ...], place: Place
    ) -> Review:
        reason = "; ".join(objections) or "nothing had to be changed"
        action = {"choice": prompts.NO if objections else prompts.YES}
        decision_id = await self._agent.record(trigger=request.summary, rationale=reason, action=action, place=place)
        return Review(approved=not objections, reason=reason, report=report, decision_id=decision_id)

    async def _judge(self, request: ReviewRequest, report: CheckReport, place: Place) -> Review:
        good, bad = _merits(request, report), _shortcomings(request, report)
        options = [Option(name=prompts.YES, meaning="merge the change", reasons=good)]
        if bad or not self._guided:
            options.append(Option(name=prompts.NO, meaning="send it back", reasons=bad))
        if self._guided:
            messages, schema = prompts.review_guided(len(bad)), prompts.guided_schema(options)
        else:
            messages = prompts.review_free(request.task.goal, (*good, *bad), request.patch[:PATCH_CHARS])
            schema = prompts.free_schema(options)
        question = Question(
            trigger=request.summary, messages=messages, schema=schema, options=(prompts.YES, prompts.NO)
        )
        decision = await self._agent.decide(question, place)
        return Review(
            approved=decision.choice == prompts.YES,
            reason=decision.rationale,
            report=report,
            decision_id=decision.event_id,
        )


def _comparable(request: ReviewRequest, report: CheckReport) -> tuple[ReviewRequest, CheckReport]:
    """Both sides without their lint findings where the linter refused the configuration of one."""
    if request.before.linted and report.linted:
        return request, report
    return replace(request, before=replace(request.before, findings={})), replace(report, findings={})


def _objections(request: ReviewRequest, report: CheckReport) -> tuple[str, ...]:
    worse = report.regressions(request.before)
    if not worse and not request.patch:
        return tuple(f"nothing was changed and {fact}" for fact in _shortcomings(request, report))
    return worse


def _merits(request: ReviewRequest, report: CheckReport) -> tuple[str, ...]:
    facts = [f"the check {command!r} passes now" for command in request.before.failing if command not in report.failing]
    before, after = sum(request.before.findings.values()), sum(report.findings.values())
    if after < before:
        facts.append(f"lint findings went from {before} to {after}")
    return (*facts, "no check that passed before fails now")


def _shortcomings(request: ReviewRequest, report: CheckReport) -> tuple[str, ...]:
    task, facts = request.task, list[str]()
    if task.check in report.failing:
        facts.append(f"the check {task.check!r} still fails")
    left = {path: report.findings[path] for path in task.files if report.findings.get(path)}
    if left and not task.check:
        facts += [f"{count} lint findings remain in {path}" for path, count in left.items()]
    return tuple(facts)
