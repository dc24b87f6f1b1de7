"""What other producers, other people's links and other clocks bring: the page shows what it can, and never stops."""

from __future__ import annotations

import asyncio
import os
import time
from urllib.parse import quote

import pytest
from playwright.async_api import Browser, Page, Route, expect

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.cluster.testing_browser import TOKEN, opened, settled, watched
from enchanted.schemas.events import SwarmEvent, model_call, run_transition, state_change, tool_call
from enchanted.serve.guard.codes import new_code
from enchanted.serve.testing import World

YEAR_10000 = 253_402_300_800
"""Seconds since 1970; JSON's times end before."""
HIDE = """
let hidden = false;
Object.defineProperty(document, "visibilityState", { get: () => (hidden ? "hidden" : "visible") });
window.hide = (value) => { hidden = value; document.dispatchEvent(new Event("visibilitychange")); };
"""


async def published(
    world: World, run: str, first: int, *roles: int, seconds: int = 1_790_000_000, named: bool = True, sent: str = ""
) -> None:
    """Events of a producer that is not ours, each with a role.

    ``named``: they have ids. ``sent``: what they are sent under, so that the stream takes the same ones once more.
    """
    outgoing = []
    for number, role in enumerate(roles, first):
        event = SwarmEvent(event_id=f"{run}-{number}" if named else "", run_id=run, agent_id="a", agent_name="foreign")
        event.agent_role = role  # type: ignore[assignment]
        event.timestamp.seconds = seconds
        event.tool_call.tool, event.tool_call.outcome = f"tool-{number}", "OK"
        payload, under = event.SerializeToString(), f"{run}-{number}{sent}"
        outgoing.append(Outgoing(subject="swarm.events.coder.tool_call", payload=payload, event_id=under))
    await world.bus.publisher.publish_many(outgoing)


async def test_a_role_of_a_newer_schema_costs_no_event_of_the_live_view(page: Page, world: World) -> None:
    await published(world, "run-newer", 0, 2)
    await world.stored("run-newer", 1)
    await opened(page, "run-newer")
    await expect(page.locator(".pill-open")).to_have_text("Live")
    await published(world, "run-newer", 1, 2, 2, 9, 2, 2)
    await expect(page.locator(".place")).to_contain_text("event 6 of 6")
    await page.reload()
    await expect(page.locator(".place")).to_contain_text("event 6 of 6")


async def test_a_time_outside_the_calendar_is_no_end_of_the_page(page: Page, world: World) -> None:
    await published(world, "run-late", 0, 2)
    await published(world, "run-late", 1, 9, seconds=YEAR_10000)
    await published(world, "run-late", 2, 2)
    await world.stored("run-late", 3)
    await opened(page, "run-late")
    for _ in range(3):
        await settled(page)
        await expect(page.locator(".event-head")).to_contain_text("foreign")
        await page.keyboard.press("ArrowLeft")
    await expect(page.get_by_role("alert")).to_have_count(0)


async def test_an_event_without_an_id_is_read_by_its_place_and_no_other_one_is_shown_for_it(
    page: Page, world: World
) -> None:
    run = "run-nameless"
    await published(world, run, 0, 2, 2, named=False)
    log = AgentLog(world.bus, run_id=run, role="operator", agent_name="operator")
    await log.emit(run_transition(subject="run", from_state="working", to_state="failed", reason="r"))
    await world.stored(run, 3)
    answered = asyncio.Event()

    async def late(route: Route) -> None:
        await answered.wait()
        await route.continue_()

    await page.route("**/api/v1/events?*", late)
    await opened(page, run)  # it is closed: no live stream brings them
    await settled(page)
    panel = page.get_by_role("region", name="At the cursor", exact=True)
    for number in (1, 0):
        answered.clear()
        async with page.expect_request("**/api/v1/events?*"):
            await page.keyboard.press("ArrowLeft")
        await expect(panel.locator(".event")).to_have_attribute("aria-busy", "true")
        answered.set()
        await settled(page)
        await expect(panel).to_contain_text(f"tool-{number}")
        await expect(page.locator(".log-row[aria-selected=true]")).to_contain_text(f"tool-{number}")


async def test_a_later_copy_of_an_event_is_no_row_of_its_own(page: Page, world: World) -> None:
    await published(world, "run-copied", 0, 2, 2)
    await world.stored("run-copied", 2)
    await opened(page, "run-copied")
    await expect(page.locator(".pill-open")).to_have_text("Live")
    await published(world, "run-copied", 0, 2, 2, sent="-again")
    log = AgentLog(world.bus, run_id="run-copied", role="coder", agent_name="coder-1")
    [last] = await log.emit(tool_call(tool="last", arguments={}, outcome="OK"))
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(last.seq))
    await expect(page.locator(".place")).to_contain_text("event 3 of 3")
    await expect(page.locator(".log-row")).to_have_count(3)


async def test_what_is_searched_for_is_what_was_typed_and_no_code_of_a_character(page: Page, world: World) -> None:
    search = page.get_by_label("Search runs")
    await search.press_sequentially("%41")
    await expect(page).to_have_url("/?q=%2541")
    await expect(page.get_by_text("No run matches “%41”")).to_be_visible()
    await expect(search).to_have_value("%41")
    await page.reload()
    await expect(page.get_by_text("No run matches “%41”")).to_be_visible()
    await expect(search).to_have_value("%41")


@pytest.mark.parametrize("run", ["2026-11-28T10:00:00", "a+b&c=d@e#f?g;h,i$j", "100%", "%41"])
async def test_a_run_of_any_name_without_a_slash_is_opened_from_the_list(page: Page, world: World, run: str) -> None:
    log = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
    await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="r"))
    await world.stored(run, 1)
    await page.goto(f"/?q={quote(run, safe='')}")
    await page.locator(f'a[href="/runs/{quote(run, safe="")}"]').or_(page.get_by_role("link", name=run)).first.click()
    await expect(page.locator(".log-row").first).to_be_visible()


async def test_a_run_that_is_opened_before_its_first_event_appears_by_itself(
    chromium_browser: Browser, world: World
) -> None:
    async with watched(chromium_browser, world.url) as found:
        page = found.page
        await page.goto("/runs/run-to-come")
        await page.get_by_label("Token of this API").fill(TOKEN)
        await page.get_by_role("button", name="Open").click()
        await expect(page.get_by_role("alert")).to_contain_text("run-to-come")
        log = AgentLog(world.bus, run_id="run-to-come", role="coder", agent_name="coder-1")
        await log.emit(tool_call(tool="t", arguments={}, outcome="OK"))
        await expect(page.locator(".log-row").first).to_be_visible(timeout=20_000)
        await expect(page.get_by_role("alert")).to_have_count(0)


async def test_a_link_with_a_code_works_in_a_tab_that_asks_for_the_token(
    chromium_browser: Browser, world: World
) -> None:
    code = new_code(TOKEN, now=time.time(), nonce=os.urandom(12))
    async with watched(chromium_browser, world.url) as found:
        await found.page.goto("/")
        await expect(found.page.get_by_label("Token of this API")).to_be_visible()
        await found.page.evaluate("code => { location.hash = `code=${code}` }", code)
        await expect(found.page.get_by_role("heading", level=1)).to_have_text("Runs")
        assert "code" not in found.page.url


async def test_a_token_that_no_header_can_hold_is_refused_in_words(chromium_browser: Browser, world: World) -> None:
    async with watched(chromium_browser, world.url) as found:
        page = found.page
        await page.goto("/")
        await page.get_by_label("Token of this API").fill(TOKEN + "\u200b")
        await page.get_by_role("button", name="Open").click()
        await expect(page.get_by_role("alert")).to_have_text("This token does not open the API.")
        await page.get_by_label("Token of this API").fill(TOKEN)
        await page.get_by_role("button", name="Open").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Runs")


async def test_a_tab_that_nobody_sees_gives_its_connection_back_and_goes_on_when_it_is_looked_at(
    page: Page, world: World
) -> None:
    await published(world, "run-hidden", 0, 2)
    await world.stored("run-hidden", 1)
    await page.add_init_script(HIDE)
    await opened(page, "run-hidden")
    await expect(page.locator(".pill-open")).to_have_text("Live")
    async with page.expect_event("requestfailed", lambda request: "/stream?" in request.url, timeout=20_000):
        await page.evaluate("hide(true)")
    await published(world, "run-hidden", 1, 2, 2)
    await page.evaluate("hide(false)")
    await expect(page.locator(".place")).to_contain_text("event 3 of 3")


async def test_a_patch_of_forty_thousand_lines_and_a_prompt_of_thousands_of_messages_are_drawn_in_parts(
    page: Page, world: World
) -> None:
    lines = "".join(f"+line {number}\n" for number in range(1_990))
    patch = "".join(
        f"diff --git a/f{n} b/f{n}\nnew file mode 100644\n--- /dev/null\n+++ b/f{n}\n@@ -0,0 +1,1990 @@\n{lines}"
        for n in range(15)
    )
    prompt = [{"role": "user", "content": f"message {number}"} for number in range(8_000)]
    log = AgentLog(world.bus, run_id="run-long-texts", role="coder", agent_name="coder-1")
    trees = {"previous_tree": "0" * 64, "new_tree": "1" * 64}
    await log.emit(
        state_change(workspace_id="main", files=[], reason="edit", resource="f", patch=patch, **trees),
        model_call(model="m", messages=prompt, parameters={}, completion="x", finish_reason="stop"),
    )
    await world.stored("run-long-texts", 2)
    await opened(page, "run-long-texts")
    await settled(page)
    shown = page.get_by_role("region", name="At the cursor", exact=True)
    await expect(shown).to_contain_text("and 7,900 more messages")
    assert await shown.locator(".long-text").count() == 101
    await page.keyboard.press("Home")
    await settled(page)
    await expect(shown.locator(".patched-file")).to_have_count(1)
    await shown.get_by_role("button", name="Show more of 14 other files").click()
    await expect(shown.locator(".patched-file")).to_have_count(2)
