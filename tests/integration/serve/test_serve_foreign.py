"""Runs written by somebody hostile: whatever an event says, every read of it is answered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.ledger import request_to_json
from enchanted.actors.work import RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.schemas.events import SwarmEvent, decision, run_transition
from enchanted.serve.testing import World

DEEP = "[" * 900 + "]" * 900
ZEROS = "0" * 64
REQUEST = request_to_json(RunRequest(run_id="x", task="t", repo="/r", checks=()))
DETAILS = [
    "", "null", "[]", "7", '"text"', "{", "\x00", DEEP, '{"a":' * 300 + "1" + "}" * 300, '{"forked_from": 5}',
    '{"a": 1e999}', '{"a": 123456789012345678901234567890}', '{"a": "\\ud800"}',
    *(
        json.dumps({"forked_from": "foreign-0", "forked_at": at})
        for at in ("x", "1e3", -1, 2**64, 1.5, 1e300, True, [1], {"a": 1}, None)
    ),
    *(
        json.dumps({**REQUEST, **changed})
        for changed in (
            {"models": 5}, {"models": ["ab"]}, {"coders": "x"}, {"budget": {"seconds": "x"}}, {"checks": None},
            {"forked_from": ["x"]}, {"task": {"a": 1}}, {"more": 1},
            {"variables": {**{f"A{number}": ["x"] for number in range(3_000)}, "PATH": 5}},
        )
    ),
]  # fmt: skip
CHANGES: list[dict[str, Any]] = [
    {"content_sha256": "../../etc/passwd"},
    {"content_sha256": "nobody stored this . > *"},
    {"content_sha256": ZEROS},
    {"new_state_hash": "--help", "previous_state_hash": "-x\n"},
    {"new_state_hash": ZEROS, "previous_state_hash": ZEROS},
    {"diff_patch": "diff --git a/../x b/../x\nrename from \x00\n"},
    {"files": [{"path": "../../x", "new_blob": "--batch", "new_mode": "999", "size": 2**64 - 1}]},
    {"files": [{"path": "a.py", "path_hex": "zz", "new_blob": ZEROS, "new_mode": "100644"}]},
    {"files": [{"path": "\x1b[2J", "path_hex": "ff00", "new_blob": "x" * 300}]},
    {"target_type": "ENV_VAR", "target_resource": "A", "diff_patch": DEEP},
    {"target_type": "ENV_VAR", "target_resource": "A" * 300, "diff_patch": "{"},
    {"target_type": "DB_SCHEMA", "target_resource": "", "diff_patch": "\x00"},
    {"target_type": "SOMETHING"},
]


def events_of(number: int, run: str) -> Iterator[SwarmEvent]:
    """What a run of this number says."""
    common: dict[str, Any] = {
        "run_id": run,
        "trace_id": "zz" * 100,
        "span_id": "s",
        "agent_id": "a",
        "agent_seq": 2**64 - 1,
    }
    details = DETAILS[number % len(DETAILS)]
    for subject, start, end in (("run", "", "created"), ("task", "", "coding"), ("run", "working", "merged")):
        step = {"subject": subject, "from_state": start, "to_state": end, "details": details, "reason": "\x00"}
        yield SwarmEvent(**common, agent_name="operator", run_transition=step, task_id="" if subject == "run" else "t")
    change = {"target_type": "FILE_SYSTEM", "reason": "base", "is_reversible": True, "new_state_hash": "1" * 64}
    yield SwarmEvent(**common, workspace_id="main", state_change={**change, **CHANGES[number % len(CHANGES)]})
    yield SwarmEvent(
        **common,
        decision={"confidence_score": [float("nan"), float("inf"), -1e30][number % 3], "action": details},
    )
    yield SwarmEvent(
        **common,
        timestamp={"seconds": 2**62, "nanos": -5},
        tool_call={"arguments": details, "duration_ms": float("inf")},
    )
    yield SwarmEvent(
        **common,
        model_call={"messages": details, "input_tokens": 2**32 - 1, "duration_ms": float("-inf")},
        blobs=[{"field": "model_call.completion", "sha256": "../x", "size": 2**64 - 1}, {"field": "a.b.c"}],
    )


@pytest.fixture(scope="module")
async def runs(world: World) -> list[str]:
    names = [f"foreign-{number}" for number in range(max(len(DETAILS), len(CHANGES)))]
    messages = []
    for number, run in enumerate(names):
        for place, event in enumerate(events_of(number, run)):
            event.event_id = f"{run}-{place}"
            event.parent_event_id = f"{run}-{(place + 1) % 7}"
            payload = event.SerializeToString()
            subject = "swarm.events.operator.decision"
            messages.append(Outgoing(subject=subject, payload=payload, event_id=event.event_id))
    await world.bus.publisher.publish_many(messages)
    await world.stored(names[-1], 7)
    return names


async def answered(world: World, method: str, path: str, **request: Any) -> None:
    response = await world.http.request(method, f"/api/v1/{path}", **request)
    assert response.status_code < 500, (method, path, request, response.text[:2_000])
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"


async def test_every_read_of_a_hostile_run_is_answered(world: World, runs: list[str]) -> None:
    for number, run in enumerate(runs):
        paths = ("", "/state", "/verify?deep=true", "/receipt", "/diff?from=0", "/play?speed=100000")
        for path in (*paths, "/agents/a/context"):
            await answered(world, "GET", f"runs/{run}{path}")
        files = CHANGES[number % len(CHANGES)].get("files", [{"path": "a.py"}])
        name = {"path": files[0]["path"], "path_hex": files[0].get("path_hex", "")}
        for verb in ("state", "history", "blame"):
            await answered(world, "GET", f"runs/{run}/{verb}", params={"path": name["path"]})
        await answered(world, "GET", f"runs/{run}/state", params={"path_hex": "ff00"})
        await answered(world, "GET", f"runs/{run}/verify/patches", params={"after": 1})
        await answered(world, "GET", f"runs/{runs[0]}/compare/{run}")
        await answered(world, "GET", f"runs/{run}/compare/{runs[number - 1]}")
        for place in range(7):
            await answered(world, "GET", f"events/{run}-{place}")


async def test_every_act_on_a_hostile_run_is_answered(world: World, runs: list[str], tmp_path: Path) -> None:
    for run in runs:
        await answered(world, "POST", f"runs/{run}/reruns")
        await answered(world, "POST", f"runs/{run}/forks", json={})
        await answered(world, "POST", f"runs/{run}/undos", json={"event_id": f"{run}-3"})
        await answered(world, "POST", f"runs/{run}/restores", json={"into": str(tmp_path / run)})
        await answered(world, "POST", f"runs/{run}/restores", json={"branch": "x", "dry_run": True})
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a test may wait for a folder


@pytest.mark.parametrize(
    "field",
    ["", "a.b.c", "event_id.x", "timestamp", "model_call", "model_call.input_tokens", "model_call.messages",
     "tool_call.output", "state_change.files", "state_change.diff_patch", "state_change.reason.x"],
)  # fmt: skip
@pytest.mark.parametrize("content", [b"text", b"\xff\xfe"])
async def test_a_field_that_was_moved_out_and_fits_no_field_is_told_and_changes_no_payload(
    world: World, field: str, content: bytes
) -> None:
    sha256 = await world.bus.blobs.put(content)
    payload: dict[str, Any] = {"model_call": {"model": "m"}}
    if field.startswith("state_change"):
        payload = {"state_change": {"target_type": "FILE_SYSTEM", "reason": "base", "new_state_hash": "1" * 64}}
    run = f"unfit-{field}-{content.hex()}"
    event = SwarmEvent(event_id=run, run_id=run, agent_id="a", **payload, blobs=[{"field": field, "sha256": sha256}])
    message = Outgoing(subject="swarm.events.coder.decision", payload=event.SerializeToString(), event_id=run)
    await world.bus.publisher.publish(message)
    await world.stored(run, 1)
    shown = await world.document(f"events/{run}")
    fits = content == b"text" and field in ("model_call.messages", "state_change.diff_patch")
    assert (shown["inflated"], shown["kind"]) == (fits, next(iter(payload)))
    assert next(iter(payload)) in shown
    for path in ("state", "diff?from=0", "agents/a/context", "verify", "history?path=a", "blame?path=a", "recovery"):
        await answered(world, "GET", f"runs/{run}/{path}")
    for verb, body in (("reruns", {}), ("forks", {"dry_run": True}), ("undos", {"event_id": run, "dry_run": True})):
        await answered(world, "POST", f"runs/{run}/{verb}", json=body)


async def test_hostile_runs_do_not_spoil_what_is_read_of_all(world: World, runs: list[str]) -> None:
    for path in ("runs", "agents/stats", "agents/stats?bucket=hour&by=role", "decisions/reverted?below=2", "export"):
        response = await world.get(path)
        assert response.status_code == 200, response.text
    shown = {run["run_id"] for run in (await world.document("runs", limit=1_000))["data"]}
    assert shown >= set(runs)
    trace = await world.document(f"traces/{'zz' * 100}")
    assert trace["spans"]


async def test_a_run_that_says_nonsense_of_its_fork_is_compared_from_its_beginning(
    world: World, runs: list[str]
) -> None:
    for number, details in enumerate(DETAILS):
        if '"foreign-0"' in details:
            found = await world.document(f"runs/foreign-0/compare/foreign-{number}")
            assert found["forked_at"] == 0


async def test_a_run_and_its_fork_are_compared_from_the_fork_on_whichever_comes_first(world: World) -> None:
    async def said(run: str, details: dict[str, Any], word: str) -> int:
        log = AgentLog(world.bus, run_id=run, role="operator", agent_name="operator")
        for step in (("", "created", details), ("created", "planning", {})):
            await log.emit(
                run_transition(subject="run", from_state=step[0], to_state=step[1], reason=word, details=step[2])
            )
        (begun,) = await log.emit(decision(context_hash="", trigger="", rationale=word, action={}))
        for rationale in ("the same", word):
            await log.emit(decision(context_hash="", trigger="", rationale=rationale, action={}))
        await world.stored(run, 5)
        return begun.seq

    at = await said("foreign-parent", REQUEST, "parent")
    await said("foreign-fork", {**REQUEST, "forked_from": "foreign-parent", "forked_at": at + 1}, "fork")

    there = await world.document("runs/foreign-parent/compare/foreign-fork")
    back = await world.document("runs/foreign-fork/compare/foreign-parent")

    assert (there["forked_at"], there["a_forked_at"]) == (at + 1, 0)
    assert (back["forked_at"], back["a_forked_at"]) == (0, at + 1)
    parted = there["divergence"]
    assert (back["divergence"]["a"], back["divergence"]["b"]) == (parted["b"], parted["a"])
    assert parted["a"]["seq"] > at + 1
    assert back["equal_events"] == there["equal_events"]


async def test_what_no_json_can_hold_is_no_failure_of_the_api(world: World) -> None:
    deep = "[" * 400 + "1" + "]" * 400
    response = await world.http.post("/api/v1/sql", json={"query": f"SELECT {deep} AS a FROM events LIMIT 1"})
    assert response.status_code in (200, 400), response.text
