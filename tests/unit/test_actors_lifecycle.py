"""The tables of the state machines."""

from __future__ import annotations

import pytest

from enchanted.actors.lifecycle import (
    CLOSED_RUN,
    CLOSED_TASK,
    OPEN_RUN,
    RUN_TABLE,
    TASK_TABLE,
    IllegalTransition,
    RunSignal,
    RunState,
    TaskSignal,
    TaskState,
    next_run_state,
    next_task_state,
)


def test_every_open_run_can_fail_and_be_cancelled() -> None:
    for state in OPEN_RUN:
        assert next_run_state(state, RunSignal.ERROR) == RunState.FAILED
        assert next_run_state(state, RunSignal.CANCEL) == RunState.CANCELLED


@pytest.mark.parametrize("state", sorted(CLOSED_RUN))
@pytest.mark.parametrize("signal", RunSignal)
def test_a_closed_run_takes_no_signal(state: RunState, signal: RunSignal) -> None:
    with pytest.raises(IllegalTransition):
        next_run_state(state, signal)


@pytest.mark.parametrize("signal", TaskSignal)
def test_a_closed_task_takes_no_signal(signal: TaskSignal) -> None:
    for state in CLOSED_TASK:
        with pytest.raises(IllegalTransition):
            next_task_state(state, signal)


def test_every_state_can_be_reached_and_left() -> None:
    assert set(RUN_TABLE.values()) | {RunState.NEW} == set(RunState)
    assert {state for state, _ in RUN_TABLE} == set(RunState) - CLOSED_RUN
    assert set(TASK_TABLE.values()) | {TaskState.NEW} == set(TaskState)
    assert {state for state, _ in TASK_TABLE} == set(TaskState) - CLOSED_TASK
