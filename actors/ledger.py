"""The run as its log tells it: what the Orchestrator needs to know to go on after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from enchanted.actors.lifecycle import CLOSED_TASK, RunState, TaskState
from enchanted.actors.recovery import MainStates
from enchanted.actors.work import Budget, CheckReport, CheckResult, RunRequest, TaskSpec
from enchanted.schemas.events import StoredEvent, kind_of
from enchanted.schemas.fold import ENV_VAR, FILE_SYSTEM, MAIN_WORKSPACE
from enchanted.schemas.gen.events_pb2 import StateChange


@dataclass(kw_only=True)
class TaskRecord:
    """A task as the log tells it."""

    spec: TaskSpec
    state: TaskState = TaskState.PENDING
    codings: int = 0
    """How often it was given to a Coder; numbers its workspaces."""
    reworks: int = 0
    feedback: str = ""
    submission: dict[str, Any] = field(default_factory=dict)
    assigned: str = ""
    """The tree that its Coder was given last."""
    start: str = ""
    """The tree that its next Coder goes on from, when a fork took it over in progress."""
    variables: dict[str, str] = field(default_factory=dict)
    """What its next Coder sets for its checks before anything else, taken over likewise."""
    merged: bool = False
    """Its merge is in the main workspace."""
    event_id: str = ""
    """Its last transition."""

    @property
    def workspace_id(self) -> str:
        """The workspace of its last Coder."""
        return f"{self.spec.task_id}.{self.codings}"


@dataclass(kw_only=True)
class Ledger:
    """Everything the Orchestrator decides by, folded from the run's events."""

    request: RunRequest | None = None
    state: RunState = RunState.NEW
    started_at: float = 0.0
    """Unix seconds of the request."""
    trace_id: str = ""
    span_id: str = ""
    last_event_id: str = ""
    base_commit: str = ""
    base_tree: str = ""
    main_tree: str = ""
    trees: dict[str, str] = field(default_factory=dict)
    """Workspace -> its tree."""
    seqs: dict[str, int] = field(default_factory=dict)
    """Workspace -> stream sequence of its last change, be it of files or of what is set in it."""
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    """Workspace -> name -> JSON of what is set in it."""
    report: CheckReport | None = None
    """The checks on the main workspace as it is."""
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    cancel_reason: str = ""
    agents: dict[str, str] = field(default_factory=dict)
    """Agent name -> its newest agent_id."""
    _states: MainStates = field(default_factory=MainStates)

    @property
    def main_seq(self) -> int:
        """Stream sequence of the main workspace's last change."""
        return self.seqs.get(MAIN_WORKSPACE, 0)

    @property
    def valid_tree(self) -> str:
        """The newest tree of the main workspace whose checks were all green, else the base."""
        return self._states.valid_tree

    @property
    def open_tasks(self) -> list[TaskRecord]:
        """Tasks that have no outcome yet."""
        return [task for task in self.tasks.values() if task.state not in CLOSED_TASK]

    def add(self, stored: StoredEvent) -> None:
        """Take one more event into account."""
        event = stored.event
        if event.agent_name:
            self.agents[event.agent_name] = event.agent_id
        match kind_of(event):
            case "run_transition" if event.run_transition.subject == "run":
                self._run(stored)
            case "run_transition":
                self._task(stored)
            case "state_change":
                self._changed(stored)
        self._states.add(stored)

    def _changed(self, stored: StoredEvent) -> None:
        event = stored.event
        # What is set in a workspace moves its head as well.
        self.seqs[event.workspace_id] = stored.seq
        if event.state_change.target_type == ENV_VAR:
            self._variable(event.workspace_id, event.state_change)
        if event.state_change.target_type != FILE_SYSTEM:
            return
        self.trees[event.workspace_id] = event.state_change.new_state_hash
        if event.workspace_id == MAIN_WORKSPACE:
            self._main_changed(stored)

    def _variable(self, workspace: str, change: StateChange) -> None:
        values = self.variables.setdefault(workspace, {})
        values.pop(change.target_resource, None)
        if change.new_state_hash:
            values[change.target_resource] = change.diff_patch

    def _run(self, stored: StoredEvent) -> None:
        step = stored.event.run_transition
        details = orjson.loads(step.details) if step.details else {}
        if step.to_state == "cancelling":
            self.cancel_reason = step.reason
            return
        self.state = RunState(step.to_state)
        self.last_event_id = stored.event.event_id
        if self.state == RunState.CREATED:
            self.request = request_from_json(details)
            self.started_at = stored.time.timestamp()
            self.trace_id, self.span_id = stored.event.trace_id, stored.event.span_id
        self.base_commit = details.get("base_commit", self.base_commit)
        if "report" in details:
            self._reported(report_from_json(details["report"]), as_it_was="forked_from" in details)

    def _task(self, stored: StoredEvent) -> None:
        step, task_id = stored.event.run_transition, stored.event.task_id
        details = orjson.loads(step.details) if step.details else {}
        if "forked" in details:
            self.tasks[task_id] = record_from_json(details["forked"])
        elif step.from_state == TaskState.NEW:
            self.tasks[task_id] = TaskRecord(spec=spec_from_json(details))
        task = self.tasks[task_id]
        task.state, task.event_id = TaskState(step.to_state), stored.event.event_id
        if "forked" in details:
            return
        if task.state == TaskState.CODING:
            task.codings += 1
            task.assigned = details.get("tree", "")
        if task.state == TaskState.REVIEWING:
            task.submission = details
        if task.state == TaskState.PENDING and step.from_state == TaskState.REVIEWING:
            task.reworks += 1
            task.feedback, task.start, task.variables = step.reason, "", {}
        if "report" in details:
            self._reported(report_from_json(details["report"]))

    def _main_changed(self, stored: StoredEvent) -> None:
        change = stored.event.state_change
        self.main_tree = change.new_state_hash
        if change.reason == "base":
            self.base_tree = change.new_state_hash
        if change.reason == "merge" and stored.event.task_id in self.tasks:
            self.tasks[stored.event.task_id].merged = True

    def _reported(self, report: CheckReport, *, as_it_was: bool = False) -> None:
        if report.tree == self.main_tree or as_it_was:
            self.report = report


def read_ledger(events: Iterable[StoredEvent]) -> Ledger:
    """Fold a run's events."""
    ledger = Ledger()
    for stored in events:
        ledger.add(stored)
    return ledger


def request_to_json(request: RunRequest) -> dict[str, Any]:
    """A request as plain JSON values."""
    return {
        "run_id": request.run_id,
        "task": request.task,
        "repo": request.repo,
        "checks": list(request.checks),
        "coders": request.coders,
        "seed": request.seed,
        "models": dict(request.models),
        "apply": request.apply,
        "budget": {
            "model_calls_per_task": request.budget.model_calls_per_task,
            "reworks_per_task": request.budget.reworks_per_task,
            "seconds": request.budget.seconds,
        },
        "forked_from": request.forked_from,
        "forked_at": request.forked_at,
        # A request without is the one it was before there were any.
        **({"variables": {name: list(of) for name, of in request.variables.items()}} if request.variables else {}),
    }


def request_from_json(value: dict[str, Any]) -> RunRequest:
    """The request `request_to_json` wrote.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it did not write this one.
    """
    built = {
        "checks": tuple(value["checks"]),
        "models": dict(value.get("models", {})),
        "budget": Budget(**value["budget"]),
        "variables": {name: _texts(of) for name, of in value.get("variables", {}).items()},
    }
    return RunRequest(**{**value, **built})


def _texts(value: object) -> tuple[str, ...]:
    """The values of a variable. Whether they may be offered is for who offers them: what was set is history."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("a variable is offered with a list of texts")
    return tuple(value)


def spec_to_json(spec: TaskSpec) -> dict[str, Any]:
    """A task as plain JSON values."""
    return {**asdict(spec), "files": list(spec.files), "after": list(spec.after)}


def spec_from_json(value: dict[str, Any]) -> TaskSpec:
    """The task `spec_to_json` wrote."""
    return TaskSpec(**{**value, "files": tuple(value["files"]), "after": tuple(value["after"])})


def record_to_json(record: TaskRecord) -> dict[str, Any]:
    """Where a task stands as plain JSON values."""
    return {
        "spec": spec_to_json(record.spec),
        **{name: getattr(record, name) for name in _CARRIED},
        **({"variables": dict(record.variables)} if record.variables else {}),
    }


def record_from_json(value: dict[str, Any]) -> TaskRecord:
    """The record `record_to_json` wrote."""
    carried = {name: value[name] for name in _CARRIED}
    return TaskRecord(spec=spec_from_json(value["spec"]), variables=dict(value.get("variables", {})), **carried)


_CARRIED = ("codings", "reworks", "feedback", "submission", "assigned", "start", "merged")


def report_to_json(report: CheckReport) -> dict[str, Any]:
    """A report as plain JSON values."""
    return {
        "tree": report.tree,
        "checks": [
            {"command": c.command, "passed": c.passed, "exit_code": c.exit_code, "output": c.output}
            for c in report.checks
        ],
        "findings": dict(report.findings),
        # Left out where it is as ever: recordings of former versions have none.
        **({} if report.linted else {"linted": False}),
    }


def report_from_json(value: dict[str, Any]) -> CheckReport:
    """The report `report_to_json` wrote."""
    return CheckReport(
        tree=value["tree"],
        checks=tuple(CheckResult(**check) for check in value["checks"]),
        findings=value["findings"],
        linted=value.get("linted", True),
    )
