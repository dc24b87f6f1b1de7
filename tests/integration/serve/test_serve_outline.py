"""A run as columns: what the page holds of it."""

from __future__ import annotations

from datetime import UTC, datetime

from enchanted.bus.agent_log import AgentLog
from enchanted.schemas.events import decision, kind_of, tool_call
from enchanted.serve.testing import History, World


async def test_every_event_is_a_line_and_every_column_is_whole(world: World, history: History) -> None:
    columns = await world.document(f"runs/{history.run}/outline")
    assert columns["seq"] == [stored.seq for stored in history.events]
    assert columns["event_id"] == [stored.event.event_id for stored in history.events]
    assert columns["kind"] == [kind_of(stored.event) for stored in history.events]
    assert columns["agent"] == [stored.event.agent_name for stored in history.events]
    assert {len(column) for column in columns.values()} == {len(history.events)}
    first = datetime.fromtimestamp(columns["time"][0] / 1_000_000, UTC)
    assert abs((first - history.events[0].event.timestamp.ToDatetime(UTC)).total_seconds()) < 0.001
    results = dict(zip(columns["seq"], columns["result"], strict=True))
    assert results[history.events[-1].seq] == "rejected"
    assert {"base", "merge", "rollback"} <= set(columns["result"])


async def test_it_goes_on_after_a_sequence(world: World, history: History) -> None:
    half = history.events[4].seq
    columns = await world.document(f"runs/{history.run}/outline", after=half, limit=3)
    assert columns["seq"] == [stored.seq for stored in history.events[5:8]]
    last = history.events[-1].seq
    assert (await world.document(f"runs/{history.run}/outline", after=last))["seq"] == []


async def test_an_unknown_run_is_a_problem(world: World) -> None:
    for limit in (1, 50_000):
        response = await world.get("runs/no-such-run/outline", limit=limit)
        assert (response.status_code, response.json()["code"]) == (404, "run-not-found")
    assert (await world.get("runs/no-such-run/outline", limit=50_001)).status_code == 422


async def test_long_and_odd_texts_are_cut_and_stay_json(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-odd", role="coder", agent_name='a"b\\c')
    text = '"\\\u2028\x00\x1b[31mü😀' * 10_000
    odd = (
        decision(context_hash="c", trigger=text[:50], rationale=text, action={}, confidence=float("nan")),
        tool_call(tool="t", arguments={}, outcome="OK", output=text, duration_ms=float("inf")),
    )
    stored = await log.emit(*odd)
    await world.stored("run-odd", 2)
    columns = await world.document("runs/run-odd/outline")
    assert columns["seq"] == [one.seq for one in stored]
    assert columns["agent"] == ['a"b\\c'] * 2
    assert columns["name"][0] == text[:50]
    for shown in columns["text"]:
        assert 100 <= len(shown) <= 200
        assert text.startswith(shown.rstrip("\ufffd"))
    for odd_number in (columns["confidence"][0], columns["duration_ms"][1]):
        assert odd_number in (None, 0)
