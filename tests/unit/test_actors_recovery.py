"""The last valid state of a run: which it is, and why the later ones are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from enchanted.actors.ledger import report_to_json
from enchanted.actors.recovery import Recovery, recover
from enchanted.actors.work import CheckReport, CheckResult
from enchanted.schemas import events
from enchanted.schemas.canonical import Json
from enchanted.schemas.chain import Head, heads_of
from enchanted.schemas.events import ChangeReason, StoredEvent, SwarmEvent, parse_event
from enchanted.schemas.links import Fault


class Run:
    """A run's log, written event by event."""

    def __init__(self) -> None:
        self.log: list[StoredEvent] = []
        self._heads: dict[str, Head] = {}
        self.tree = ""

    def write(self, draft: SwarmEvent, agent: str = "orchestrator") -> int:
        draft.agent_id, draft.run_id, draft.event_id = agent, "run-1", f"event-{len(self.log) + 1}"
        raw, self._heads[agent] = self._heads.get(agent, Head()).stamp(draft)
        self.log.append(stored(len(self.log) + 1, raw))
        return len(self.log)

    def change(self, tree: str, reason: ChangeReason = "merge") -> int:
        """The main workspace has these files now."""
        change = events.state_change(
            workspace_id="main", previous_tree=self.tree, new_tree=tree, patch="", files=[], reason=reason, resource=""
        )
        self.tree = tree
        return self.write(change)

    def moved(self, state: str, details: Json = None, *, subject: str = "run", closes: bool = False) -> int:
        step = events.run_transition(
            subject="task" if subject == "task" else "run",
            from_state="",
            to_state=state,
            reason="",
            details=details,
            heads=heads_of(self.log) if closes else (),
        )
        return self.write(step)

    def checked(self, *passed: bool, tree: str = "") -> int:
        """Checks ran on the files as they are, or on others."""
        checks = tuple(
            CheckResult(command=f"check {n}", passed=ok, exit_code=0, output="") for n, ok in enumerate(passed)
        )
        report = report_to_json(CheckReport(tree=tree or self.tree, checks=checks))
        return self.moved("accepted", {"report": report}, subject="task")


def stored(seq: int, raw: bytes) -> StoredEvent:
    return StoredEvent(
        seq=seq, time=datetime.now(UTC), subject="swarm.events.operator.x.run-1", raw=raw, event=parse_event(raw)
    )


def begun() -> Run:
    run = Run()
    run.moved("created", {"task": "t"})
    run.change("base", "base")
    return run


def valid_of(found: Recovery) -> tuple[str, int, int]:
    """Its tree, its sequence, and where to restore or fork."""
    assert found.valid is not None
    return found.valid.tree, found.valid.seq, found.at


def test_the_newest_state_whose_checks_passed_is_valid_and_later_ones_say_why_they_are_not() -> None:
    run = begun()
    run.checked(False)
    merged = run.change("one")
    told = run.checked(True, True)
    run.change("two")
    run.checked(True, False, False)
    run.change("three")
    found = recover(run.log, run="run-1")
    assert valid_of(found) == ("one", merged, told)
    assert [(state.tree, state.why_not) for state in found.later] == [
        ("two", "its checks failed: check 1, check 2"),
        ("three", "no check ran on it"),
    ]
    assert (found.fault, found.closed) == (None, False)


def test_a_run_whose_checks_never_passed_has_no_valid_state_but_what_it_began_with() -> None:
    run = begun()
    run.checked(False)
    run.change("one")
    run.checked(False)
    run.moved("rejected", {"tree": "base"}, closes=True)
    found = recover(run.log)
    assert (found.valid, found.at, found.tree) == (None, 0, "base")
    assert [state.why_not for state in found.later] == ["its checks failed: check 0"] * 2
    assert found.closed


def test_a_rollback_to_a_tree_whose_checks_passed_is_valid_again() -> None:
    run = begun()
    run.change("one")
    run.checked(True)
    run.change("two")
    run.checked(False)
    back = run.change("one", "rollback")
    assert valid_of(recover(run.log)) == ("one", back, back)


def test_the_newest_checks_of_a_tree_count() -> None:
    run = begun()
    run.checked(True)
    run.change("one")
    run.checked(True)
    run.checked(False)
    assert valid_of(recover(run.log))[0] == "base"


def test_a_verdict_of_merged_says_that_the_checks_passed_on_the_tree_it_names() -> None:
    for named in ("one", "another"):
        run = begun()
        run.change("one")
        last = run.moved("merged", {"tree": named}, closes=True)
        found = recover(run.log)
        assert found.valid is None if named == "another" else valid_of(found) == ("one", 3, last)


def test_checks_of_another_tree_say_nothing_of_this_one() -> None:
    run = begun()
    run.change("one")
    run.checked(True, tree="two")
    assert recover(run.log).valid is None


def test_a_fork_begins_with_what_its_parent_found_valid() -> None:
    run = begun()
    valid = run.change("one", "fork")
    run.change("two", "fork")
    run.moved("working", {"forked_from": {"run_id": "parent"}, "valid_tree": "one"})
    assert valid_of(recover(run.log)) == ("one", valid, valid)


def altered(log: Sequence[StoredEvent], seq: int) -> list[StoredEvent]:
    event = SwarmEvent()
    event.CopyFrom(log[seq - 1].event)
    event.task_id = "altered"
    return [replace(one, raw=event.SerializeToString(), event=event) if one.seq == seq else one for one in log]


def without(log: Sequence[StoredEvent], seq: int) -> list[StoredEvent]:
    return [one for one in log if one.seq != seq]


def with_repeated(log: Sequence[StoredEvent], seq: int) -> list[StoredEvent]:
    """Somebody inserts an event with a number that another has."""
    copy = altered(log, seq)[seq - 1]
    return [*log[:seq], replace(copy, seq=seq), *log[seq:]]


def two_green() -> Run:
    """2 base, 3 one, 4 green, 5 a Coder's signal, 6 another, 7 two, 8 green, 9 the close."""
    run = begun()
    run.change("one")
    run.checked(True)
    for _ in range(2):
        run.write(events.system_signal(status="HEALTHY"), agent="coder")
    run.change("two")
    run.checked(True)
    run.moved("merged", {"tree": "two"}, closes=True)
    return run


def test_every_state_of_an_untouched_run_is_trusted() -> None:
    assert valid_of(recover(two_green().log, run="run-1")) == ("two", 7, 8)


@pytest.mark.parametrize("spoil", [altered, without, with_repeated])
@pytest.mark.parametrize(("seq", "tree"), [(4, "none"), (5, "one"), (6, "one"), (7, "one"), (8, "one")])
def test_what_comes_after_the_first_fault_of_the_log_is_not_valid(spoil: object, seq: int, tree: str) -> None:
    assert callable(spoil)
    found = recover(spoil(two_green().log, seq), run="run-1")
    assert found.fault is not None
    shown_by = {4: 7, 5: 6, 6: 9, 7: 8, 8: 9}[seq] if spoil is without else seq
    assert found.fault.seq == shown_by
    # That the tail of a chain is missing shows the close alone: up to there the log verifies.
    expected = "two" if spoil is without and seq == 6 else tree
    assert (found.valid.tree if found.valid else "none") == expected
    assert all("does not verify from sequence" in state.why_not for state in found.later if state.seq >= shown_by)


def test_a_log_that_is_broken_where_it_begins_leaves_nothing() -> None:
    found = recover(altered(two_green().log, 1), run="run-1")
    assert (found.valid, found.base, found.tree, found.at) == (None, None, "", 0)
    assert len(found.later) == 3


def test_a_change_that_does_not_begin_where_the_one_before_ended_is_a_fault() -> None:
    run = begun()
    run.checked(True)
    run.tree = "elsewhere"
    run.change("one")
    run.checked(True)
    found = recover(run.log)
    assert valid_of(found)[0] == "base"
    assert found.fault is not None
    assert "begins with tree elsewhere" in found.fault.why


def test_damage_where_the_events_were_read_from_counts_as_a_fault() -> None:
    run = two_green()
    damage = Fault(seq=6, agent_id="", agent_seq=0, why="the table holds other bytes")
    found = recover(run.log, damage=damage)
    assert (valid_of(found)[0], found.fault) == ("one", damage)
    assert recover([], damage=damage).valid is None


def test_a_producer_that_is_no_orchestrator_of_ours_has_states_and_no_checks() -> None:
    run = Run()
    run.change("t1", "edit")
    run.write(SwarmEvent(run_transition=events.pb.RunTransition(subject="run", to_state="x", details='["a"]')))
    run.write(SwarmEvent(run_transition=events.pb.RunTransition(details='{"report": {"checks": [1], "tree": 5}}')))
    run.write(SwarmEvent(run_transition=events.pb.RunTransition(details="{")))
    found = recover(run.log)
    assert (found.valid, found.base) == (None, None)
    assert [state.why_not for state in found.later] == ["no check ran on it"]


def test_a_later_copy_of_an_event_is_no_fault() -> None:
    log = two_green().log
    copied = [*log, replace(log[5], seq=len(log) + 1), replace(log[3], seq=len(log) + 2)]
    found = recover(copied, run="run-1")
    assert (valid_of(found), found.fault) == (("two", 7, 8), None)
