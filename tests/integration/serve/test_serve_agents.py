"""Statistics of agents and the ledger of decisions that were taken back, counted by hand beside it."""

from __future__ import annotations

import asyncio
import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.schemas.events import (
    SwarmEvent,
    decision,
    model_call,
    run_transition,
    state_change,
    system_signal,
    tool_call,
)
from enchanted.serve.testing import History, World

RUN = "run-of-agents"
LEDGER = "run-of-doubts"


def _decided(confidence: float, rationale: str = "because", parent: str = "") -> SwarmEvent:
    return decision(context_hash="", trigger="t", rationale=rationale, action={}, confidence=confidence, parent=parent)


def _called(**rest: Any) -> SwarmEvent:
    return model_call(model="m", messages=[], parameters={}, completion="", finish_reason="stop", **rest)


def _changed(old: str, new: str, reason: Any, *, workspace: str = "main", parent: str = "") -> SwarmEvent:
    return state_change(
        workspace_id=workspace, previous_tree=old, new_tree=new, patch="", files=[], reason=reason, resource="f",
        parent=parent,
    )  # fmt: skip


@pytest.fixture(scope="module")
async def agents(world: World) -> dict[str, str]:
    """Two agents of one run, each with its id."""
    coder = AgentLog(world.bus, run_id=RUN, role="coder", agent_name="coder-1")
    reviewer = AgentLog(world.bus, run_id=RUN, role="reviewer", agent_name="reviewer")
    made = await coder.emit(
        _decided(0.25),
        _decided(0.5),
        *(_called(input_tokens=10, output_tokens=5, duration_ms=ms) for ms in (10.0, 20.0, 30.0)),
        _called(error="no answer", duration_ms=1_000.0),
        *(
            tool_call(tool="t", arguments={}, outcome=o, duration_ms=4.0)
            for o in ("OK", "FAILED", "DENIED", "TIMED_OUT")
        ),
        _changed("", "A", "base"),
        _changed("A", "B", "edit"),
        _changed("B", "A", "rollback"),
        _changed("A", "B", "undo"),
        system_signal(status="HEALTHY"),
        system_signal(status="CRITICAL_FAILURE"),
    )
    await reviewer.emit(_decided(1.0))
    await world.stored(RUN, len(made) + 1)
    return {"coder": coder.agent_id, "reviewer": reviewer.agent_id}


async def test_every_number_is_what_the_agent_did(world: World, agents: dict[str, str]) -> None:
    page = await world.document("agents/stats", run=RUN)

    by_agent = {row["agent"]: row for row in page["data"]}
    assert set(by_agent) == set(agents.values())
    row = by_agent[agents["coder"]]
    expected = {
        "name": "coder-1", "role": "coder", "agents": 1, "runs": 1, "events": 16, "decisions": 2, "changes": 4,
        "reverts": 2, "model_calls": 4, "tool_calls": 4, "errors": 5, "failed_model_calls": 1, "failed_tool_calls": 3,
        "critical_failures": 1, "error_rate": 0.5, "confidence": 0.375, "input_tokens": 30, "output_tokens": 15,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["latency_ms"]["model_call"]["p50"] == statistics.median([10, 20, 30, 1_000])
    assert row["latency_ms"]["tool_call"] == {"p50": 4.0, "p95": 4.0}
    quiet = by_agent[agents["reviewer"]]
    assert (quiet["error_rate"], quiet["latency_ms"]["model_call"]) == (None, {"p50": None, "p95": None})
    assert page["meta"] == {"bucket": "whole", "by": "agent", "truncated": False}


async def test_a_bucket_is_a_whole_hour_or_day_of_utc_and_holds_what_was_stored_in_it(
    world: World, agents: dict[str, str]
) -> None:
    whole = (await world.document("agents/stats", run=RUN, agent=agents["coder"]))["data"][0]
    for bucket, length in (("hour", timedelta(hours=1)), ("day", timedelta(days=1))):
        rows = (await world.document("agents/stats", run=RUN, agent=agents["coder"], bucket=bucket))["data"]

        for row in rows:
            start, end = (datetime.fromisoformat(row[name]) for name in ("start", "end"))
            assert end - start == length
            assert (start - datetime(1970, 1, 1, tzinfo=UTC)) % length == timedelta(0)
            assert row["start"] <= row["first_at"] <= row["last_at"] < row["end"]
        assert sum(row["events"] for row in rows) == whole["events"]
        assert whole["first_at"] == whole["start"] == rows[0]["first_at"]


async def test_agents_are_found_by_name_and_id_and_joined_by_name_and_role(
    world: World, history: History, agents: dict[str, str]
) -> None:
    async def rows(**what: Any) -> list[dict[str, Any]]:
        return list((await world.document("agents/stats", **what))["data"])

    assert [row["agent"] for row in await rows(agent=agents["coder"])] == [agents["coder"]]
    both = {row["agent"] for row in await rows(agent="coder-1")}
    assert {agents["coder"], *{s.event.agent_id for s in history.events if s.event.agent_name == "coder-1"}} <= both
    (joined,) = await rows(agent="coder-1", by="name")
    assert (joined["agent"], joined["agents"]) == ("coder-1", len(both))
    assert {row["agent"] for row in await rows(run=RUN, by="role")} == {"coder", "reviewer"}
    assert await rows(agent="nobody") == []
    assert await rows(run=RUN, until="2020-01-01T00:00:00Z") == []
    assert len(await rows(run=RUN, since=(datetime.now(UTC) - timedelta(days=30)).isoformat())) == 2


async def test_more_agents_than_are_shown_are_said_to_be(world: World, agents: dict[str, str]) -> None:
    page = await world.document("agents/stats", run=RUN, limit=1)

    assert (len(page["data"]), page["meta"]["truncated"]) == (1, True)


@pytest.mark.parametrize(
    "bad", [{"bucket": "minute"}, {"by": "run"}, {"limit": 0}, {"since": "yesterday"}, {"agent": "a\0"}, {"x": "1"}]
)
async def test_questions_that_are_none_are_refused(world: World, bad: dict[str, Any]) -> None:
    for resource in ("agents/stats", "decisions/reverted"):
        response = await world.get(resource, **bad)
        assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


@pytest.fixture(scope="module")
async def doubts(world: World) -> dict[str, int]:
    """A run with sure and unsure decisions, changes kept and taken back; what happened by its sequence."""
    log = AgentLog(world.bus, run_id=LEDGER, role="coder", agent_name="coder-1")
    seqs: dict[str, int] = {}
    ids: dict[str, str] = {"": ""}

    async def tell(name: str, event: SwarmEvent) -> None:
        stored = (await log.emit(event))[0]
        seqs[name], ids[name] = stored.seq, stored.event.event_id

    await tell("base", _changed("", "A", "base"))
    await tell("plan", _decided(0.9, "the plan"))
    await tell("kept", _decided(0.1, "unsure, and it stayed"))
    await tell("kept change", _changed("A", "B", "merge", parent=ids["kept"]))
    await tell("doubt", _decided(0.3, "unsure, by way of a tool", parent=ids["plan"]))
    await tell("tool", tool_call(tool="edit", arguments={}, outcome="OK", parent=ids["doubt"]))
    await tell("rolled back", _changed("B", "C", "merge", parent=ids["tool"]))
    await tell("step", run_transition(subject="task", from_state="a", to_state="b", reason="", parent=ids["doubt"]))
    await tell("again", _changed("C", "D", "merge", parent=ids["step"]))
    await tell("elsewhere", _decided(0.2, "another workspace"))
    await tell("elsewhere change", _changed("B", "E", "edit", workspace="t-1", parent=ids["elsewhere"]))
    await tell("rollback", _changed("D", "B", "rollback"))
    await tell("late", _decided(0.45, "undone by hand"))
    await tell("undone", _changed("B", "F", "merge", parent=ids["late"]))
    await tell("after", _decided(0.05, "came later, and stayed"))
    await tell("after change", _changed("F", "G", "merge", parent=ids["after"]))
    await tell("undo", _changed("G", "H", "undo", parent=ids["undone"]))
    await tell("loop", _decided(0.01, "its own cause", parent=ids["undo"]))
    await world.stored(LEDGER, len(seqs))
    return seqs


async def test_the_ledger_names_unsure_decisions_whose_changes_were_taken_back(
    world: World, doubts: dict[str, int]
) -> None:
    page = await world.document("decisions/reverted", run=LEDGER)

    found = {row["seq"]: row for row in page["data"]}
    assert list(found) == [doubts["doubt"], doubts["late"]]
    doubt, late = found.values()
    assert [change["seq"] for change in doubt["changes"]] == [doubts["rolled back"], doubts["again"]]
    assert {change["reverted_at"] for change in doubt["changes"]} == {doubts["rollback"]}
    assert (doubt["confidence"], doubt["hops"], doubt["reverted"]) == (0.3, 2, 2)
    assert doubt["rationale"] == "unsure, by way of a tool"
    assert [(change["seq"], change["reverted_at"]) for change in late["changes"]] == [
        (doubts["undone"], doubts["undo"])
    ]
    assert late["hops"] == 1
    assert page["meta"] == {"below": 0.5, "truncated": False}


async def test_the_ledgers_bound_is_the_askers_and_it_looks_at_every_run(
    world: World, history: History, agents: dict[str, str], doubts: dict[str, int]
) -> None:
    async def seqs(**what: Any) -> list[int]:
        return [row["seq"] for row in (await world.document("decisions/reverted", **what))["data"]]

    assert await seqs(run=LEDGER, below=0.4) == [doubts["doubt"]]
    assert await seqs(run=LEDGER, below=2) == [doubts["plan"], doubts["doubt"], doubts["late"]]
    assert await seqs(run=LEDGER, below=0) == []
    assert await seqs(run="nobody") == []
    assert set(await seqs()) >= {doubts["doubt"], doubts["late"]}
    assert (await world.document("decisions/reverted", run=LEDGER, limit=1))["meta"]["truncated"] is True


async def test_causes_that_go_in_a_circle_end(world: World) -> None:
    run = "run-in-a-circle"
    one, two = _decided(0.1), _decided(0.1)
    base, change, back = _changed("", "A", "base"), _changed("A", "B", "edit"), _changed("B", "A", "rollback")
    events = [base, one, two, change, back]
    for number, event in enumerate(events):
        event.run_id, event.event_id, event.agent_id = run, f"circle-{number}", "foreign"
    one.parent_event_id, two.parent_event_id, change.parent_event_id = two.event_id, one.event_id, two.event_id
    subject = "swarm.events.coder.decision"
    await world.bus.publisher.publish_many(
        [Outgoing(subject=subject, payload=event.SerializeToString(), event_id=event.event_id) for event in events]
    )
    await world.stored(run, len(events))

    page = await asyncio.wait_for(world.document("decisions/reverted", run=run), 10)

    assert [row["event_id"] for row in page["data"]] == [one.event_id, two.event_id]
