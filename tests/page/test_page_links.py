"""What changes while somebody looks (the chain's badge), and links from elsewhere (a span in Jaeger) and to there."""

from __future__ import annotations

import re

from opentelemetry import trace as otel
from playwright.async_api import Page, expect

from enchanted.actors.rerun.recording import Recording
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import cursor, opened
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import kind_of, run_transition, tool_call
from enchanted.serve.testing import History, World, scripted

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
    await expect(badge).to_have_attribute("title", f"{count + 1} events checked: intact and complete")


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
    await expect(badge).to_have_attribute("title", "2 events checked: intact and complete")
    # An actor's last sign of life may come after the close.
    await log.emit(tool_call(tool="late", arguments={}, outcome="OK"))
    await expect(badge).to_have_attribute("title", "3 events checked: intact and complete")


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


async def test_a_copied_link_shows_the_file_of_the_workspace_that_was_looked_at(
    page: Page, world: World, recording: Recording
) -> None:
    change = next(
        one.event for one in recording.events if one.event.workspace_id != "main" and one.event.state_change.files
    )
    seq = (await world.document(f"events/{change.event_id}"))["seq"]
    path = change.state_change.files[0].path
    await opened(page, recording.run_id, seq)
    await page.get_by_label("Workspace").select_option(change.workspace_id)
    await page.locator(".file").filter(has_text=path).first.click()
    content = page.locator(".file-content pre")
    await expect(content).not_to_be_empty()
    there = await content.inner_text()
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy link").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = await page.evaluate("navigator.clipboard.readText()")
    await page.get_by_label("Workspace").select_option("main")
    await expect(page).not_to_have_url(re.compile("workspace="))
    for visit in (lambda: page.goto(link), page.reload):
        await visit()
        await expect(page.get_by_label("Workspace")).to_have_value(change.workspace_id)
        await expect(content).to_have_text(there)
    assert await cursor(page) == seq


async def test_a_link_to_a_file_that_is_not_there_says_so(page: Page, history: History) -> None:
    await page.goto(f"/runs/{history.run}?file=nowhere.py")
    await expect(page.locator(".files")).to_contain_text("nowhere.py is not in main at the cursor")
    await page.locator(".files").get_by_role("button", name="Close").click()
    await expect(page.get_by_text("nowhere.py")).to_have_count(0)
    assert "file=" not in page.url


async def test_where_there_is_no_clipboard_the_link_can_be_copied_by_hand(page: Page, history: History) -> None:
    await page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })")
    await opened(page, history.run, history.events[3].seq)
    await page.get_by_role("button", name="Copy link").click()
    field = page.get_by_label("Link to copy")
    await expect(field).to_be_focused()
    assert await page.evaluate("getSelection().toString()") == page.url
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Copy link")).to_be_visible()


async def test_a_move_just_before_a_link_is_followed_is_there_on_the_way_back(page: Page, history: History) -> None:
    first, second = (one.seq for one in history.events[:2])
    await opened(page, history.run, second)
    await page.evaluate("""() => {
      dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
      document.querySelector(".bar-link").click();
    }""")
    await expect(page).to_have_url(re.compile("/cluster$"))
    await page.go_back()
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(first))


async def test_a_trace_writes_out_only_the_events_that_are_open(page: Page, recording: Recording) -> None:
    traced = next(one.event for one in recording.events if one.event.HasField("model_call"))
    await page.goto(f"/traces/{traced.trace_id}?span={traced.span_id}")
    events = page.locator(".span-event")
    await expect(events.first).to_be_visible()
    assert await page.locator(".span-event pre").count() == 0
    await events.first.locator("summary").click()
    await expect(events.first.locator("pre")).to_contain_text('"event_id"')
