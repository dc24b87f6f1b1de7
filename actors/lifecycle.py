"""The run's and the tasks' state machines: every legal step is a row of a table in this file."""

from __future__ import annotations

from enum import StrEnum

from enchanted.actors.errors import ActorError


class IllegalTransition(ActorError):
    """The table has no such step."""

    def __init__(self, subject: str, state: str, signal: str) -> None:
        super().__init__(
            f"a {subject} in state {state!r} cannot take {signal!r}; see actors/lifecycle.py for the table"
        )


class RunState(StrEnum):
    """Where a run stands."""

    NEW = ""
    CREATED = "created"
    PREPARED = "prepared"
    PLANNING = "planning"
    WORKING = "working"
    CHECKING = "checking"
    MERGED = "merged"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunSignal(StrEnum):
    """What can happen to a run."""

    REQUEST = "request"
    BASE_STORED = "base_stored"
    BASELINE_KNOWN = "baseline_known"
    PLANNED = "planned"
    TASKS_DONE = "tasks_done"
    FORK_PLANNING = "fork_planning"
    FORK_WORKING = "fork_working"
    FORK_CHECKING = "fork_checking"
    GREEN = "green"
    RED = "red"
    ERROR = "error"
    CANCEL = "cancel"


class TaskState(StrEnum):
    """Where a task stands."""

    NEW = ""
    PENDING = "pending"
    CODING = "coding"
    REVIEWING = "reviewing"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class TaskSignal(StrEnum):
    """What can happen to a task."""

    PLAN = "plan"
    ASSIGN = "assign"
    SUBMIT = "submit"
    APPROVE = "approve"
    REWORK = "rework"
    GIVE_UP = "give_up"
    INTERRUPT = "interrupt"
    FORK_REVIEWING = "fork_reviewing"
    FORK_ACCEPTED = "fork_accepted"
    FORK_REJECTED = "fork_rejected"


OPEN_RUN = (
    RunState.CREATED,
    RunState.PREPARED,
    RunState.PLANNING,
    RunState.WORKING,
    RunState.CHECKING,
)
CLOSED_RUN = frozenset({RunState.MERGED, RunState.REJECTED, RunState.FAILED, RunState.CANCELLED})
CLOSED_TASK = frozenset({TaskState.ACCEPTED, TaskState.REJECTED})

RUN_TABLE: dict[tuple[RunState, RunSignal], RunState] = {
    (RunState.NEW, RunSignal.REQUEST): RunState.CREATED,
    (RunState.CREATED, RunSignal.BASE_STORED): RunState.PREPARED,
    (RunState.CREATED, RunSignal.FORK_PLANNING): RunState.PLANNING,
    (RunState.CREATED, RunSignal.FORK_WORKING): RunState.WORKING,
    (RunState.CREATED, RunSignal.FORK_CHECKING): RunState.CHECKING,
    (RunState.PREPARED, RunSignal.BASELINE_KNOWN): RunState.PLANNING,
    (RunState.PLANNING, RunSignal.PLANNED): RunState.WORKING,
    (RunState.WORKING, RunSignal.TASKS_DONE): RunState.CHECKING,
    (RunState.CHECKING, RunSignal.GREEN): RunState.MERGED,
    (RunState.CHECKING, RunSignal.RED): RunState.REJECTED,
    **{(state, RunSignal.ERROR): RunState.FAILED for state in OPEN_RUN},
    **{(state, RunSignal.CANCEL): RunState.CANCELLED for state in OPEN_RUN},
}

TASK_TABLE: dict[tuple[TaskState, TaskSignal], TaskState] = {
    (TaskState.NEW, TaskSignal.PLAN): TaskState.PENDING,
    (TaskState.NEW, TaskSignal.FORK_REVIEWING): TaskState.REVIEWING,
    (TaskState.NEW, TaskSignal.FORK_ACCEPTED): TaskState.ACCEPTED,
    (TaskState.NEW, TaskSignal.FORK_REJECTED): TaskState.REJECTED,
    (TaskState.PENDING, TaskSignal.ASSIGN): TaskState.CODING,
    (TaskState.PENDING, TaskSignal.GIVE_UP): TaskState.REJECTED,
    (TaskState.CODING, TaskSignal.SUBMIT): TaskState.REVIEWING,
    (TaskState.CODING, TaskSignal.INTERRUPT): TaskState.PENDING,
    (TaskState.CODING, TaskSignal.GIVE_UP): TaskState.REJECTED,
    (TaskState.REVIEWING, TaskSignal.APPROVE): TaskState.ACCEPTED,
    (TaskState.REVIEWING, TaskSignal.REWORK): TaskState.PENDING,
    (TaskState.REVIEWING, TaskSignal.GIVE_UP): TaskState.REJECTED,
}


def next_run_state(state: RunState, signal: RunSignal) -> RunState:
    """The state after ``signal``.

    Raises:
        IllegalTransition: the table has no such step.
    """
    try:
        return RUN_TABLE[state, signal]
    except KeyError:
        raise IllegalTransition("run", state, signal) from None


def next_task_state(state: TaskState, signal: TaskSignal) -> TaskState:
    """The state after ``signal``.

    Raises:
        IllegalTransition: the table has no such step.
    """
    try:
        return TASK_TABLE[state, signal]
    except KeyError:
        raise IllegalTransition("task", state, signal) from None
