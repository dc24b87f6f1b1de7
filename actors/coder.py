"""The Coder: looks at its workspace, chooses an action, acts, until it hands its work in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from enchanted.actors import prompts
from enchanted.actors.agent import Agent, BudgetSpent, Decision, Place, Question, of_task
from enchanted.actors.desk import Desk, Site
from enchanted.actors.prompts import Option
from enchanted.actors.tools import facts
from enchanted.actors.tools.lint import Finding, Fix
from enchanted.actors.tools.mutations import Candidate
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.tools.variables import SET_VARIABLE, Offers, changes_of
from enchanted.actors.work import Assignment, Budget, Submission

SUBMIT = "submit"
MAX_OPTIONS = 6
SOURCE_CHARS = 12_000
PROBLEM_CHARS = 1_000
FREE_OPTIONS = (
    Option(name="edit", meaning="change a file yourself", reasons=()),
    Option(name=SUBMIT, meaning="hand the work in as it is", reasons=()),
)


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing the Coder could do next, as a tool found it."""

    option: Option
    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class View:
    """What the Coder sees before it chooses."""

    problem: str
    actions: tuple[Action, ...]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A check as the reviewer runs it, without variables, on one tree, and what would make it pass."""

    result: ToolResult
    repairs: tuple[Candidate, ...]


class Coder:
    """Implements one task in a workspace of its own."""

    def __init__(self, agent: Agent, site: Site, *, guided: bool, budget: Budget, offers: Offers | None = None) -> None:
        self._agent = agent
        self._site = site
        self._guided = guided
        self._budget = budget
        self._offers = offers or {}

    async def code(self, job: Assignment) -> Submission:
        """Work on a task until it is handed in.

        Raises:
            AnswerUnusable: the model's replies cannot be parsed.
            ModelError: the model does not answer.
            ToolNotRun: the linter or the check does not run.
        """
        place = Place(task_id=job.task.task_id, workspace_id=job.workspace_id, parent=job.parent)
        with self._agent.turn(job.carrier):
            async with await self._site.desk(self._agent, place, job.start or job.tree) as desk:
                for name, value in job.variables.items():
                    await desk.use(SET_VARIABLE, {"name": name, "value": value}, parent=job.parent)
                decision_id, summary = await self._work(job, desk)
                return Submission(
                    task_id=job.task.task_id,
                    workspace_id=job.workspace_id,
                    base_tree=job.tree,
                    tree=desk.tree,
                    summary=summary,
                    decision_id=decision_id,
                )

    async def _work(self, job: Assignment, desk: Desk) -> tuple[str, str]:
        parent, done, tried = job.parent, list[str](), dict[str, Tried]()
        for _ in range(self._budget.model_calls_per_task or 1_000_000):
            view = await self._look(job, desk, tried)
            if not view.actions and self._guided:
                why = "the tools offer nothing more to do here"
                action = {"choice": SUBMIT}
                place = of_task(desk.place, parent)
                return await self._agent.record(
                    trigger=view.problem, rationale=why, action=action, place=place
                ), "; ".join(done) or why
            decision = await self._choose(job, desk, view, parent)
            parent = decision.event_id
            if decision.choice == SUBMIT:
                return parent, "; ".join(done) or decision.rationale
            done.append(await self._act(decision, view, desk))
        raise BudgetSpent(self._budget.model_calls_per_task)

    async def _choose(self, job: Assignment, desk: Desk, view: View, parent: str) -> Decision:
        options = [action.option for action in view.actions]
        if self._guided:
            messages = prompts.code_guided(job.task.goal, view.problem, options, job.feedback)
            schema, tokens = prompts.guided_schema(options), 120
        else:
            options += FREE_OPTIONS
            source = await self._source(job, desk)
            messages = prompts.code_free(job.task.goal, view.problem, options, job.feedback, source)
            schema, tokens = prompts.edit_schema(options, job.task.files), 2_000
        question = Question(
            trigger=view.problem,
            messages=messages,
            schema=schema,
            options=tuple(one.name for one in options),
            max_tokens=tokens,
        )
        return await self._agent.decide(question, of_task(desk.place, parent))

    async def _act(self, decision: Decision, view: View, desk: Desk) -> str:
        if decision.choice == "edit":
            arguments = {name: decision.answer.get(name, "") for name in ("path", "search", "replace")}
            result = await desk.use("edit", arguments, parent=decision.event_id)
            return f"edit {arguments['path']} ({result.outcome.lower()})"
        action = next(action for action in view.actions if action.option.name == decision.choice)
        result = await desk.use(action.tool, action.arguments, parent=decision.event_id)
        return f"{action.option.name} ({result.outcome.lower()})"

    async def _look(self, job: Assignment, desk: Desk, tried: dict[str, Tried]) -> View:
        if job.task.check:
            return await self._look_at_check(job, desk, tried)
        findings = await lint_findings(desk, job.task.files)
        fixes = [fix_action(finding, finding.fix) for finding in findings if finding.fix]
        return View(problem=_listing(findings) or job.task.goal, actions=tuple(fixes[:MAX_OPTIONS]))

    async def _look_at_check(self, job: Assignment, desk: Desk, tried: dict[str, Tried]) -> View:
        check = job.task.check
        # Setting a variable changes no file: what is known of the tree holds. Without offers all is looked at anew.
        plain = tried.get(desk.tree) if self._offers else None
        if plain is None or plain.result.outcome == "TIMED_OUT":
            plain = tried[desk.tree] = await try_check(job, desk)
        if passes(plain.result):
            return View(problem=f"{check!r} passes", actions=())
        actions = [repair_action(repair, check) for repair in plain.repairs[:MAX_OPTIONS]]
        changes = changes_of(self._offers, [*desk.variables, *desk.unset])
        actions += [variable_action(name, value, check) for name, value in changes[:MAX_OPTIONS]]
        output = await self._with_variables(job, desk, plain) if desk.variables else plain.result.output
        return View(problem=output[-PROBLEM_CHARS:], actions=tuple(actions))

    async def _with_variables(self, job: Assignment, desk: Desk, plain: Tried) -> str:
        """What a check that fails says with what is set here."""
        check = job.task.check
        result = await facts.check(desk, check, parent=job.parent)
        if not passes(result):
            return result.output
        said = f"{check!r} passes with {_listed(desk.variables)}, and fails without, as the reviewer runs it"
        return f"{plain.result.output[-PROBLEM_CHARS // 2 :]}\n{said}"

    async def _source(self, job: Assignment, desk: Desk) -> str:
        parts: list[str] = []
        for path in job.task.files:
            result = await desk.use("read_file", {"path": path}, parent=job.parent)
            parts.append(f"--- {path}\n{result.output}")
        return "\n".join(parts)[:SOURCE_CHARS]


async def try_check(job: Assignment, desk: Desk) -> Tried:
    """Run a task's check without variables and, where it fails, look for repairs."""
    check = job.task.check
    plain = {"plain": True} if desk.variables else {}
    result = await facts.check(desk, check, parent=job.parent, **plain)
    repairs = () if passes(result) else await desk.find_repairs(check, job.task.files, parent=job.parent)
    return Tried(result=result, repairs=repairs)


def passes(result: ToolResult) -> bool:
    """A check is green."""
    return result.exit_code == 0 and result.outcome == "OK"


async def lint_findings(desk: Desk, files: Sequence[str]) -> list[Finding]:
    """What the linter says about ``files``, in order of place; nothing where it refuses to say."""
    return [finding for finding in await facts.findings(desk) or () if finding.path in files]


def fix_action(finding: Finding, fix: Fix) -> Action:
    """Apply the fix the linter offers for a finding."""
    place = f"line {finding.line}, column {finding.column}"
    option = Option(
        name=f"{fix.message} ({place})",
        meaning=f"{finding.code}, {fix.applicability}",
        reasons=(f"{place}: {finding.message}", f"the linter offers this {fix.applicability} fix for {finding.code}"),
    )
    return Action(option=option, tool="apply_fix", arguments={"fix_ids": [finding.id]})


def repair_action(repair: Candidate, check: str) -> Action:
    """Apply a small change that was seen to make a failing check pass."""
    option = Option(
        name=f"{repair.path}:{repair.line}: replace `{repair.before.strip()}` with `{repair.after.strip()}`",
        meaning="a repair that was tried",
        reasons=(f"with this change {check!r} was seen to pass",),
    )
    arguments = {"path": repair.path, "first": repair.line, "last": repair.last_line, "text": repair.after}
    return Action(option=option, tool="replace_lines", arguments=arguments)


def variable_action(name: str, value: str, check: str) -> Action:
    """Set a variable that the operator offers, for the checks that follow here."""
    option = Option(
        name=f"set {name}={value}",
        meaning="a variable for the next checks here; the reviewer checks without",
        reasons=(f"{check!r} fails, and with {name}={value} it may say more",),
    )
    return Action(option=option, tool=SET_VARIABLE, arguments={"name": name, "value": value})


def _listed(variables: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in dict(variables).items())


def _listing(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{f.path}:{f.line} {f.code} {f.message}" for f in findings[:MAX_OPTIONS])
