"""Mission Control without a mouse, and what axe says of the trace and of every dialog."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.actors.rerun.recording import Recording
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import (
    Watched,
    act_dialog,
    barriers,
    cursor,
    opened,
    settled,
    sign_in,
    tabbed_to,
    watched,
)
from enchanted.cluster.testing_world import TOKEN
from enchanted.schemas.events import kind_of, run_transition
from enchanted.serve.testing import History, World

OPEN = "run-open-still"


@pytest.fixture(scope="module")
async def still_open(world: World) -> str:
    log = AgentLog(world.bus, run_id=OPEN, role="operator", agent_name="operator")
    await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="open"))
    await world.stored(OPEN, 1)
    return OPEN


@pytest.fixture(params=["dark", "light"])
async def found(chromium_browser: Browser, world: World, request: pytest.FixtureRequest) -> AsyncIterator[Watched]:
    async with watched(chromium_browser, world.url, colours=request.param) as found:
        await found.page.goto("/")
        await sign_in(found.page)
        await expect(found.page.get_by_role("heading", level=1)).to_have_text("Runs")
        yield found
        assert [wrong for wrong in found.wrongs if "status of 4" not in wrong] == []


async def pressed(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)


async def test_a_person_without_a_mouse_goes_from_the_token_to_a_span_and_back(
    chromium_browser: Browser, world: World, recording: Recording
) -> None:
    async with watched(chromium_browser, world.url) as found:
        page = found.page
        await page.goto("/")
        await tabbed_to(page, "input")
        await page.keyboard.insert_text(TOKEN)
        await pressed(page, "Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
        await tabbed_to(page, "[aria-label='Search runs']")
        await page.keyboard.insert_text(recording.run_id)
        await tabbed_to(page, f"a[href='/runs/{recording.run_id}']")
        await pressed(page, "Enter")
        await expect(page.locator(".log-row").first).to_be_visible()

        change = next(one for one in recording.events if one.event.state_change.reason == "merge")
        at = recording.events.index(change)
        await pressed(page, "Home", *["ArrowRight"] * at)
        await expect(page.locator(".place")).to_contain_text(f"event {at + 1} of")
        await settled(page)
        seq = await cursor(page)

        await tabbed_to(page, ".help-button")
        await pressed(page, "Enter")
        await expect(page.get_by_role("dialog")).to_contain_text("next change of files")
        await pressed(page, "Escape")
        await expect(page.locator(".help-button")).to_be_focused()

        await tabbed_to(page, ".file")
        await pressed(page, "Enter")
        await expect(page.locator(".file-content pre")).to_be_visible()
        await tabbed_to(page, ".event-links a[href^='/traces/']", key="Shift+Tab")
        await pressed(page, "Enter")
        await expect(page.locator(".waterfall [aria-pressed=true]")).to_be_visible()
        await tabbed_to(page, ".waterfall button:not([aria-pressed=true])")
        await pressed(page, "Enter")
        await expect(page.locator(".waterfall button:focus")).to_have_attribute("aria-pressed", "true")
        assert "?span=" in page.url

        await page.go_back()
        await expect(page.locator(".place")).to_have_attribute("data-seq", str(seq))
        await tabbed_to(page, "a.brand")
        await pressed(page, "Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
        assert found.wrongs == []


async def test_axe_finds_no_serious_barrier_on_a_trace_with_an_event_open(found: Watched, recording: Recording) -> None:
    page = found.page
    stored = next(one for one in recording.events if kind_of(one.event) == "model_call")
    await page.goto(f"/traces/{stored.event.trace_id}?span={stored.event.span_id}")
    await expect(page.locator(".waterfall [aria-pressed=true]")).to_be_visible()
    assert await barriers(page) == []
    await page.locator(".span-event summary").first.click()
    await expect(page.locator(".span-event pre").first).to_be_visible()
    assert await barriers(page) == []
    await page.goto("/traces/00")
    await expect(page.get_by_role("alert").first).to_be_visible()
    assert await barriers(page) == []


async def test_axe_finds_no_serious_barrier_in_any_dialog(
    found: Watched, history: History, still_open: str, tmp_path: Path
) -> None:
    page = found.page
    dialog = await act_dialog(page, "Start a run")
    assert await barriers(page) == []
    await dialog.get_by_label("Task").fill("tidy")
    await dialog.get_by_label("Repository on the server").fill(str(tmp_path / "none"))
    await dialog.get_by_role("button", name="Start a run on").click()
    await expect(dialog.get_by_role("alert")).to_be_visible()
    assert await barriers(page) == []

    change = next(one for one in history.events if one.event.state_change.files[:1] and
                  one.event.state_change.files[0].path == "data.bin")  # fmt: skip
    await opened(page, history.run, change.seq)
    await page.get_by_role("button", name="Keys").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    assert await barriers(page) == []
    await pressed(page, "Escape")

    dialog = await act_dialog(page, "Restore these files")
    (tmp_path / "a.py").write_text("mine")
    await dialog.get_by_label("Folder on the server").fill(str(tmp_path))
    await dialog.get_by_role("button", name="Show what it would do").click()
    await expect(dialog.get_by_text("only this folder has")).to_be_visible()
    assert await barriers(page) == []
    await dialog.get_by_text("onto a branch").click()
    await expect(dialog.get_by_label("New branch")).to_be_visible()
    assert await barriers(page) == []
    await pressed(page, "Escape")

    for act, there in (("Fork from here", "A run of its own"), ("Undo this change", "data.bin")):
        dialog = await act_dialog(page, act)
        await expect(dialog.get_by_text(there).first).to_be_visible()
        assert await barriers(page) == []
        await pressed(page, "Escape")

    await opened(page, still_open)
    dialog = await act_dialog(page, "Cancel the run")
    await expect(dialog.get_by_text("This cannot be taken back")).to_be_visible()
    assert await barriers(page) == []


async def letter_keys(page: Page, *, were_on: bool) -> None:
    """Turn the keys of one character on or off."""
    await page.get_by_role("button", name="Keys").click()
    switch = page.get_by_label("Letter keys")
    await expect(switch).to_be_checked(checked=were_on)
    await switch.click()
    await pressed(page, "Escape")


async def test_keys_of_one_character_can_be_turned_off_and_stay_off(page: Page, history: History) -> None:
    await opened(page, history.run)
    end = await cursor(page)
    await letter_keys(page, were_on=True)
    for _ in range(2):
        await page.locator("body").click(position={"x": 5, "y": 5})
        await pressed(page, "[", "e", "l", "ArrowLeft")
        assert await cursor(page) == history.events[-2].seq
        await page.goto(f"/runs/{history.run}")
        await expect(page.locator(".place")).to_have_attribute("data-seq", str(end))
    await letter_keys(page, were_on=False)
    await page.locator("body").click(position={"x": 5, "y": 5})
    await pressed(page, "[")
    assert await cursor(page) < end
    # As with Caps Lock.
    await page.evaluate("dispatchEvent(new KeyboardEvent('keydown', { key: 'L' }))")
    assert await cursor(page) == end


async def test_paging_scrolls_the_panel_that_has_the_focus(page: Page, recording: Recording) -> None:
    await opened(page, recording.run_id)
    await pressed(page, "Home")
    first = await cursor(page)
    rows = page.locator(".log-rows")
    await rows.focus()
    await pressed(page, "PageDown")
    await expect(rows.locator("[aria-selected=true]")).not_to_be_in_viewport()
    assert await cursor(page) == first
    await page.locator(".lanes").focus()
    await pressed(page, "PageDown")
    await expect(page.locator(".place")).to_contain_text("event 11 of")
