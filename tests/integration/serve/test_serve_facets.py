"""Facets, held against a count by hand of the events that the same filters find."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.schemas.events import StoredEvent, decision, kind_of, run_transition, system_signal, tool_call
from enchanted.serve.testing import World

RUN = "run-of-facets"
OUTCOMES = {"pytest": ("OK", "FAILED", "FAILED"), "ruff": ("OK",)}


@pytest.fixture(scope="module")
async def events(world: World) -> list[StoredEvent]:
    coder = AgentLog(world.bus, run_id=RUN, role="coder", agent_name="coder-1")
    reviewer = AgentLog(world.bus, run_id=RUN, role="reviewer", agent_name="reviewer")
    found = await coder.emit(
        run_transition(subject="run", from_state="", to_state="created", reason="it is"),
        *(
            tool_call(
                tool=tool, arguments={"of": tool}, outcome=outcome, output="needle" if outcome == "FAILED" else ""
            )
            for tool, outcomes in OUTCOMES.items()
            for outcome in outcomes
        ),
    )
    found += await reviewer.emit(
        decision(context_hash="", trigger="t", rationale="a needle", action={}, confidence=0.5),
        system_signal(status="DEGRADED", cpu_load_percent=1, memory_usage_mb=1, pid=1, node="n"),
    )
    await world.stored(RUN, len(found))
    return found


def counted(values: list[dict[str, Any]]) -> dict[str, int]:
    return {one["value"]: one["events"] for one in values}


async def test_every_facet_counts_the_events_of_the_run(world: World, events: list[StoredEvent]) -> None:
    answer = await world.document("facets", run=RUN)
    data = answer["data"]

    assert answer["meta"] == {"events": len(events), "truncated": []}
    assert counted(data["kind"]) == Counter(kind_of(one.event) for one in events)
    assert counted(data["role"]) == {"coder": 5, "reviewer": 2}
    assert counted(data["agent"]) == {"coder-1": 5, "reviewer": 2}
    assert list(counted(data["tool"]).items()) == [("pytest", 3), ("ruff", 1)], "the most frequent first"
    assert counted(data["outcome"]) == {"OK": 2, "FAILED": 2}
    assert counted(data["to_state"]) == {"created": 1}
    assert counted(data["status"]) == {"DEGRADED": 1}
    assert data["model"] == data["change_reason"] == []
    first, last = (one.seq for one in (events[2], events[3]))
    failed = next(one for one in data["outcome"] if one["value"] == "FAILED")
    assert (failed["first_seq"], failed["last_seq"]) == (first, last)


@pytest.mark.parametrize(
    "filters",
    [
        {"kind": "tool_call"},
        {"role": "reviewer"},
        {"agent": "coder-1", "q": "NEEDLE"},
        {"q": "needle"},
        {"since": "2001-01-01T00:00:00Z", "until": "2002-01-01T00:00:00Z"},
    ],
    ids=lambda filters: ",".join(filters),
)
async def test_the_filters_find_what_a_page_of_events_finds(
    world: World, events: list[StoredEvent], filters: dict[str, str]
) -> None:
    page = await world.document("events", run=RUN, **filters)
    answer = await world.document("facets", run=RUN, **filters)

    assert answer["meta"]["events"] == len(page["data"])
    assert counted(answer["data"]["kind"]) == Counter(one["kind"] for one in page["data"])


async def test_what_is_cut_off_is_named_and_the_total_is_not_cut(world: World, events: list[StoredEvent]) -> None:
    answer = await world.document("facets", run=RUN, limit=1)

    assert answer["meta"] == {"events": len(events), "truncated": ["kind", "role", "agent", "tool", "outcome"]}
    assert counted(answer["data"]["tool"]) == {"pytest": 3}


@pytest.mark.parametrize("bad", [{"kind": "thought"}, {"limit": 0}, {"after": 1}, {"q": "\x00"}])
async def test_what_cannot_be_asked_is_refused(world: World, bad: dict[str, Any]) -> None:
    answer = await world.get("facets", **bad)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
