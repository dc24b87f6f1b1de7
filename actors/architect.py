"""The Architect: splits the run's task into pieces that Coders can do at the same time."""

from __future__ import annotations

from dataclasses import dataclass

from enchanted.actors import prompts
from enchanted.actors.agent import Agent, Place, Question
from enchanted.actors.prompts import Option
from enchanted.actors.tools.repair import files_of_failure
from enchanted.actors.work import CheckReport, Plan, PlanRequest, TaskSpec

MAX_ITEMS = 12


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """A piece of work the tools found."""

    name: str
    meaning: str
    files: tuple[str, ...]
    check: str = ""


class Architect:
    """Plans; writes nothing."""

    def __init__(self, agent: Agent, *, guided: bool) -> None:
        self._agent = agent
        self._guided = guided

    async def plan(self, request: PlanRequest) -> Plan:
        """Turn the task and what the tools report into tasks; none when there is nothing to do.

        Raises:
            AnswerUnusable: the model's replies cannot be parsed.
            ModelError: the model does not answer.
        """
        with self._agent.turn(request.carrier):
            items = work_items(request.report, request.files)
            if not self._guided:
                return await self._free(request, items)
            if len(items) <= 1:
                return await self._only(request, items)
            return await self._guide(request, items)

    async def _only(self, request: PlanRequest, items: tuple[WorkItem, ...]) -> Plan:
        rationale = f"the only work the tools report: {items[0].name}" if items else "the tools report nothing to do"
        action = {"tasks": [item.name for item in items]}
        decision_id = await self._agent.record(trigger=request.task, rationale=rationale, action=action, place=Place())
        return Plan(tasks=_tasks(items), decision_id=decision_id)

    async def _guide(self, request: PlanRequest, items: tuple[WorkItem, ...]) -> Plan:
        options = tuple(Option(name=item.name, meaning=item.meaning, reasons=(item.meaning,)) for item in items)
        question = Question(
            trigger=request.task,
            messages=prompts.plan_guided(request.task, options),
            schema=prompts.guided_schema(options),
            options=tuple(option.name for option in options),
        )
        decision = await self._agent.decide(question, Place())
        ordered = sorted(items, key=lambda item: item.name != decision.choice)
        return Plan(tasks=_tasks(tuple(ordered)), decision_id=decision.event_id)

    async def _free(self, request: PlanRequest, items: tuple[WorkItem, ...]) -> Plan:
        question = Question(
            trigger=request.task,
            messages=prompts.plan_free(request.task, [item.meaning for item in items], request.files),
            schema=prompts.plan_schema(request.files),
            options=(),
            max_tokens=1_500,
        )
        decision = await self._agent.decide(question, Place())
        tasks = tuple(
            TaskSpec(task_id=f"task-{number}", title=task["title"], goal=task["goal"], files=tuple(task["files"]))
            for number, task in enumerate(decision.answer["tasks"], start=1)
        )
        return Plan(tasks=tasks, decision_id=decision.event_id)


def work_items(report: CheckReport, files: tuple[str, ...]) -> tuple[WorkItem, ...]:
    """One item for each file with lint findings and one for each failing check that is not a linter."""
    items = [
        WorkItem(name=path, meaning=f"{path}: {count} lint findings", files=(path,))
        for path, count in sorted(report.findings.items())
    ]
    for check in report.checks:
        if check.passed or check.command.startswith("ruff"):
            continue
        blamed = files_of_failure(check.output, files)
        meaning = f"the check {check.command!r} fails"
        items.append(WorkItem(name=check.command, meaning=meaning, files=blamed, check=check.command))
    return tuple(items[:MAX_ITEMS])


def _tasks(items: tuple[WorkItem, ...]) -> tuple[TaskSpec, ...]:
    """Failing checks come after the findings, which may be what makes them fail."""
    numbered = [(f"task-{number}", item) for number, item in enumerate(items, start=1)]
    findings = tuple(task_id for task_id, item in numbered if not item.check)
    return tuple(
        TaskSpec(
            task_id=task_id,
            title=item.name,
            goal=f"Solve: {item.meaning}",
            files=item.files,
            check=item.check,
            after=findings if item.check else (),
        )
        for task_id, item in numbered
    )
