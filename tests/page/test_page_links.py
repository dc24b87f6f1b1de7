"""What changes while somebody looks (the chain's badge), and links that come from elsewhere (a span in Jaeger)."""

from __future__ import annotations

from opentelemetry import trace as otel
from playwright.async_api import Page, expect

from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import opened
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import kind_of, run_transition, tool_call
from enchanted.serve.testing import World, scripted

TRACE = 0xA1B2
SPANS = 120


async def test_the_chain_is_checked_again_after_an_undo(page: Page, world: World) -> None:
    history = await scripted(world, "run-rechecked")
    await opened(page, history.run)
    badge = page.get_by_text("chain verified")
    count = len(history.events)
    await expect(badge).to_have_attribute("title", f"{count} events checked: intact and complete")
    change = [one.event for one in history.events if kind_of(one.event) == "state_change"][2]
    answer = await world.http.post(f"/api/v1/runs/{history.run}/undos", json={"event_id": change.event_id})
    assert answer.status_code == 200, answer.text
    await expect(badge).to_have_attribute("title", f"{count + 1} events checked: intact and complete", timeout=15_000)


async def test_the_chain_is_checked_again_when_a_live_run_closes(page: Page, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-closing", role="operator", agent_name="operator")
    stored = await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="r"))
    await world.stored("run-closing", 1)
    await opened(page, "run-closing")
    await expect(page.get_by_text("chain intact so far")).to_be_visible()
    stored += await log.emit(
        run_transition(subject="run", from_state="created", to_state="failed", reason="r", heads=heads_of(stored))
    )
    badge = page.get_by_text("chain verified")
    await expect(badge).to_have_attribute("title", "2 events checked: intact and complete", timeout=15_000)
    # An actor's last sign of life may come after the close.
    await log.emit(tool_call(tool="late", arguments={}, outcome="OK"))
    await expect(badge).to_have_attribute("title", "3 events checked: intact and complete", timeout=15_000)


async def test_a_link_to_a_span_far_down_selects_it_in_sight(page: Page, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-spans", role="coder", agent_name="coder-1")
    for number in range(1, SPANS + 1):
        context = otel.SpanContext(TRACE, number, is_remote=False, trace_flags=otel.TraceFlags(1))
        with otel.use_span(otel.NonRecordingSpan(context)):
            await log.emit(tool_call(tool=f"tool-{number}", arguments={}, outcome="OK"))
    await world.stored("run-spans", SPANS)
    await page.goto(f"/traces/{TRACE:032x}?span={SPANS - 10:016x}")
    chosen = page.locator(".waterfall [aria-pressed=true]")
    await expect(chosen).to_be_in_viewport()
    await expect(page.locator(".span-event")).to_contain_text(f"tool-{SPANS - 10} succeeded")
    await page.goto(f"/traces/{TRACE:032x}?span=ffffffffffffffff")
    await expect(chosen).to_have_count(1)
