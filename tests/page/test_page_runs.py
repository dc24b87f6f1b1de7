"""The list of runs in Mission Control, and the way from a run to what went wrong in it."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import cursor, opened
from enchanted.schemas.events import StoredEvent, model_call, run_transition, tool_call
from enchanted.serve.testing import History, World

RUNS = 130
"""More than come at once."""


@pytest.fixture(scope="module")
async def many(world: World) -> None:
    for number in range(RUNS):
        log = AgentLog(world.bus, run_id=f"run-many-{number}", role="operator", agent_name="operator")
        details = {"task": f"wash window {number}"}
        await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="r", details=details))
    await world.stored(f"run-many-{RUNS - 1}", 1)


async def test_a_search_finds_runs_that_are_not_loaded(page: Page, many: None) -> None:
    await page.reload()
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(100)
    await expect(page.get_by_role("link", name="wash window 3", exact=True)).to_have_count(0)
    await page.get_by_label("Search runs").fill("WINDOW run-many-3")
    await expect(rows.filter(has_text="run-many-3")).to_have_count(11)
    await expect(rows).to_have_count(11)
    await expect(page).to_have_url("/?q=WINDOW%20run-many-3")
    await page.reload()
    await expect(rows).to_have_count(11)
    await page.get_by_label("Search runs").fill("window nowhere")
    await expect(page.get_by_text("No run matches “window nowhere”")).to_be_visible()
    await page.get_by_label("Search runs").fill("")
    await page.get_by_role("button", name="Load older runs").click()
    await expect(rows.filter(has_text="run-many-0")).to_have_count(1)


async def test_each_run_shows_how_busy_it_was(page: Page, world: World, history: History) -> None:
    await page.reload()
    await page.get_by_label("Search runs").fill(history.run)
    spark = page.get_by_role("row").filter(has_text=history.run).get_by_role("img")
    [run] = (await world.document("runs", q=history.run))["data"]
    words = f"at most {max(run['activity'])} of {len(history.events)} events at once"
    await expect(spark).to_have_attribute("aria-label", words)
    bars = str(await spark.locator("path").get_attribute("d")).split("M")[1:]
    assert ["v-0h" not in bar and "v0h" not in bar for bar in bars] == [number > 0 for number in run["activity"]]


async def test_the_name_of_the_page_leads_from_a_search_to_all_runs(page: Page, many: None) -> None:
    search = page.get_by_label("Search runs")
    await search.press_sequentially("run-many-77")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(1)
    await expect(page).to_have_url("/?q=run-many-77")
    await page.get_by_role("link", name="Enchanted").click()
    await expect(search).to_have_value("")
    await expect(rows).to_have_count(100)
    await expect(page).to_have_url("/")


async def failing(world: World) -> list[StoredEvent]:
    log = AgentLog(world.bus, run_id="run-failing", role="coder", agent_name="coder-1")
    call = {"model": "m", "messages": "[]", "parameters": {}, "finish_reason": "stop"}
    stored = await log.emit(
        tool_call(tool="fine", arguments={}, outcome="OK"),
        tool_call(tool="bad", arguments={}, outcome="FAILED"),
        model_call(completion="x", **call),
        model_call(completion="", error="no answer", **call),
        tool_call(tool="fine", arguments={}, outcome="OK"),
        run_transition(subject="task", from_state="coding", to_state="rejected", reason="spent", task_id="t-1"),
        tool_call(tool="fine", arguments={}, outcome="OK"),
    )
    await world.stored("run-failing", len(stored))
    return stored


async def test_keys_and_buttons_go_from_failure_to_failure(page: Page, world: World, history: History) -> None:
    stored = await failing(world)
    bad = [stored[at].seq for at in (1, 3, 5)]
    await opened(page, "run-failing")
    for wanted in (*bad, bad[0]):
        await page.keyboard.press("e")
        assert await cursor(page) == wanted
    for wanted in (bad[2], bad[1], bad[0]):
        await page.keyboard.press("Shift+E")
        assert await cursor(page) == wanted
    await page.get_by_role("button", name="3 failures").click()
    assert await cursor(page) == bad[1]
    await page.get_by_role("button", name="Previous failure").click()
    assert await cursor(page) == bad[0]
    await expect(page.locator(".log-failed")).to_have_count(3)
    # What the live stream brings is a failure by the same rule.
    log = AgentLog(world.bus, run_id="run-failing", role="coder", agent_name="coder-1")
    await log.emit(model_call(model="m", messages="[]", parameters={}, completion="", finish_reason="error", error="e"))
    await expect(page.get_by_role("button", name="4 failures")).to_be_visible()
