"""The values roles and orchestrator hand each other. Frozen and picklable: they travel between actors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Carrier = Mapping[str, str]
"""W3C trace context of the caller."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may spend; 0 switches a limit off."""

    model_calls_per_task: int = 24
    reworks_per_task: int = 2
    """How often a rejected or conflicting task may be coded again."""
    seconds: float = 1800.0
    """Wall time of the whole run."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the operator asks for."""

    run_id: str
    task: str
    repo: str
    """Absolute path of the user's git repository."""
    checks: tuple[str, ...]
    """Shell commands that must exit 0 for a merge."""
    coders: int = 2
    seed: int = 0
    models: Mapping[str, str] = field(default_factory=dict)
    """Role -> model URL, where it differs from the settings."""
    apply: bool = False
    """Fast-forward the user's current branch to the result when it is merged."""
    budget: Budget = field(default_factory=Budget)
    forked_from: str = ""
    """The run whose state this one begins with."""
    forked_at: int = 0
    """The stream sequence of that state."""
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Variables that a Coder may set for the checks of its workspace, with the values they may take."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One check command's result."""

    command: str
    passed: bool
    exit_code: int
    output: str
    """Its last lines."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What the Reviewer saw when it ran everything on one tree."""

    tree: str
    checks: tuple[CheckResult, ...]
    findings: Mapping[str, int] = field(default_factory=dict)
    """Lint findings per file."""
    linted: bool = True
    """False where the linter refuses the repository's own configuration; then it has no findings."""

    @property
    def green(self) -> bool:
        """Every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failing(self) -> tuple[str, ...]:
        """The commands that failed."""
        return tuple(check.command for check in self.checks if not check.passed)

    def regressions(self, before: CheckReport) -> tuple[str, ...]:
        """What is worse here than in ``before``, in words; empty when nothing is."""
        worse = [
            f"check {command!r} passed before and fails now"
            for command in self.failing
            if command not in before.failing
        ]
        mine, theirs = sum(self.findings.values()), sum(before.findings.values())
        if mine > theirs:
            worse.append(f"{mine} lint findings where there were {theirs}")
        return tuple(worse)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One piece of the plan, small enough for one Coder."""

    task_id: str
    title: str
    goal: str
    files: tuple[str, ...]
    """Files the task is about; the Coder may look at others."""
    check: str = ""
    """The check that the task is to make pass, where it is about one."""
    after: tuple[str, ...] = ()
    """Tasks that must be closed before this one begins."""


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """Run every check on a tree."""

    tree: str
    carrier: Carrier


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Split the run's task into pieces."""

    task: str
    report: CheckReport
    files: tuple[str, ...]
    carrier: Carrier


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The Architect's answer."""

    tasks: tuple[TaskSpec, ...]
    decision_id: str
    """The event that explains it."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A task for a Coder."""

    task: TaskSpec
    workspace_id: str
    tree: str
    """What the work is merged against."""
    report: CheckReport
    """How the checks stood there."""
    feedback: str
    """Why an earlier attempt came back; empty on the first."""
    attempt: int
    parent: str
    """Event that caused the assignment."""
    carrier: Carrier
    start: str = ""
    """The tree to go on from, where somebody was at the task before; ``tree`` otherwise."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What that one had set for its checks."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a Coder hands in."""

    task_id: str
    workspace_id: str
    base_tree: str
    tree: str
    summary: str
    decision_id: str


@dataclass(frozen=True, kw_only=True)
class ReviewRequest:
    """Judge a merged candidate."""

    task: TaskSpec
    before: CheckReport
    """The checks on the main workspace as it is."""
    tree: str
    """The main workspace with the submission merged in."""
    patch: str
    summary: str
    parent: str
    carrier: Carrier


@dataclass(frozen=True, kw_only=True)
class Review:
    """The Reviewer's answer."""

    approved: bool
    reason: str
    report: CheckReport
    decision_id: str


RoleName = Literal["architect", "coder", "reviewer"]
