"""Mission Control in a real browser, on the API and its real services."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Request, expect

from enchanted.actors.rerun.recording import Recording
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import (
    ChromiumMissing,
    chromium,
    cursor,
    files_shown,
    opened,
    settled,
    sign_in,
    watched,
)
from enchanted.cluster.testing_world import TOKEN
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import StoredEvent, decision, kind_of, run_transition, state_change, tool_call
from enchanted.schemas.gen.events_pb2 import FileChange
from enchanted.serve.client import ApiClient
from enchanted.serve.testing import History, World

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "\x1b[31mred\x1b[0m \u202etxt.exe\u202c \u0000",
    "x" * 300_000,
)


async def files_at(world: World, run: str, seq: int) -> list[tuple[str, str]]:
    state = await world.document(f"runs/{run}/state", at=seq)
    files: list[dict[str, Any]] = state["workspaces"].get("main", {"files": []})["files"]
    return sorted((one["path"], one["blob"]) for one in files)


async def test_a_link_with_a_code_opens_the_page_once_and_keeps_nothing_in_the_address(
    chromium_browser: Browser, world: World, history: History
) -> None:
    with ApiClient(world.url, TOKEN) as client:
        link = client.page(history.run)
    async with watched(chromium_browser, world.url) as first:
        await first.page.goto(link)
        await expect(first.page.locator(".log-row").first).to_be_visible()
        assert first.page.url == f"{world.url}/runs/{history.run}"
        assert first.wrongs == []
    async with watched(chromium_browser, world.url) as second:
        await second.page.goto(link)
        await expect(second.page.get_by_role("alert")).to_contain_text("enchanted open")
        await expect(second.page.locator(".log-row")).to_have_count(0)


async def test_the_list_leads_to_a_run_with_its_verdict_and_its_chain(page: Page, recording: Recording) -> None:
    row = page.get_by_role("row").filter(has_text=recording.run_id)
    await expect(row).to_contain_text("merged")
    await page.get_by_label("Search runs").fill("no such task")
    await expect(row).to_have_count(0)
    await page.get_by_label("Search runs").fill(recording.run_id)
    await row.get_by_role("link").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("make the checks pass")
    await expect(page.get_by_text("chain verified")).to_be_visible()
    await expect(page.locator(".place")).to_contain_text(f"of {len(recording.events)}")


@pytest.mark.parametrize("run", ["run-scripted", "golden"])
async def test_scrubbing_shows_the_files_of_the_moment(
    page: Page, world: World, recording: Recording, history: History, run: str
) -> None:
    run = recording.run_id if run == "golden" else run
    await opened(page, run)
    slider = page.get_by_role("slider")
    box = await slider.bounding_box()
    assert box is not None
    visited = set()
    for step in range(11):
        await page.mouse.click(box["x"] + 1 + (box["width"] - 2) * step / 10, box["y"] + box["height"] / 2)
        seq = await cursor(page)
        visited.add(seq)
        await settled(page)
        assert await files_shown(page) == await files_at(world, run, seq)
    assert len(visited) == 11
    assert "at=" in page.url


async def test_steps_by_change_visit_every_change_both_ways(page: Page, history: History) -> None:
    await opened(page, history.run)
    changes = [stored.seq for stored in history.events if kind_of(stored.event) == "state_change"]
    assert len(changes) > 5
    await page.keyboard.press("Home")
    for key, wanted in (("]", changes), ("[", changes[-2::-1])):
        for seq in wanted:
            await page.keyboard.press(key)
            assert await cursor(page) == seq
    await page.keyboard.press("]")
    await settled(page)
    await expect(page.locator(".diff")).to_be_visible()


@pytest.mark.parametrize(
    ("modifiers", "steps"),
    [({"altKey": True}, True), ({"ctrlKey": True, "altKey": True, "modifierAltGraph": True}, True),
     ({"ctrlKey": True}, False), ({"metaKey": True}, False)],
    ids=["Option", "AltGr", "Ctrl", "Command"],
)  # fmt: skip
async def test_a_bracket_is_one_however_the_keyboard_writes_it(
    page: Page, history: History, modifiers: dict[str, bool], steps: bool
) -> None:
    await opened(page, history.run)
    await page.keyboard.press("Home")
    before = await cursor(page)
    await page.evaluate(
        "with_ => document.body.dispatchEvent(new KeyboardEvent('keydown', {key: ']', bubbles: true, ...with_}))",
        modifiers,
    )
    await page.evaluate("() => new Promise(requestAnimationFrame)")
    assert (await cursor(page) != before) == steps


async def test_the_keyboard_alone_is_enough(page: Page, history: History) -> None:
    await expect(page.get_by_role("link", name="tidy")).to_be_visible()
    await page.keyboard.press("Tab")
    for _ in range(20):
        if await page.evaluate("document.activeElement.textContent") == "tidy":
            break
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator(".log-row").first).to_be_visible()
    first, second, last = history.events[0].seq, history.events[1].seq, history.events[-1].seq
    for key, seq in (("Home", first), ("ArrowRight", second), ("ArrowLeft", first), ("End", last)):
        await page.keyboard.press(key)
        assert await cursor(page) == seq
    await page.keyboard.press("Home")
    await page.locator(".speed select").focus()
    await page.keyboard.press("End")
    await page.get_by_role("slider").focus()
    await page.keyboard.press(" ")
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(last))
    rows = page.get_by_role("listbox")
    await rows.focus()
    await page.keyboard.press("ArrowUp")
    await expect(rows.locator("[aria-selected=true]")).to_have_count(1)
    assert await cursor(page) < last
    await expect(rows).to_have_attribute("aria-activedescendant", f"row-{await cursor(page)}")


async def test_a_link_names_a_moment_and_a_decision_is_a_sentence(page: Page, recording: Recording) -> None:
    stored = next(one for one in recording.events if one.event.decision.rejected_alternatives)
    found = page.locator(".log-row").filter(has_text="chose")
    await opened(page, recording.run_id)
    await page.get_by_label("Search the log").fill(stored.event.decision.rationale[:30])
    await found.first.click()
    seq = await cursor(page)
    await expect(page).to_have_url(re.compile(rf"\?at={seq}$"))
    await opened(page, recording.run_id, seq)
    assert await cursor(page) == seq
    await settled(page)
    sentence = page.locator(".event-sentence")
    await expect(sentence).to_contain_text(stored.event.decision.rationale)
    await expect(sentence).to_contain_text("49 %")
    rejected = list(stored.event.decision.rejected_alternatives)
    await expect(page.locator(".event-rejected li")).to_have_text(rejected)
    await expect(page.locator("[aria-selected=true] .log-rejected")).to_contain_text(rejected[0])
    await page.get_by_role("link", name="Its span").click()
    await expect(page.locator(".waterfall [aria-pressed=true]")).to_contain_text("architect")
    await page.get_by_role("link", name=f"seq {seq}").click()
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(seq))


async def test_a_run_is_watched_live_and_scrubbing_lets_go(page: Page, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-live", role="coder", agent_name="coder-1")
    begun = await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="live"))
    await world.stored("run-live", 1)
    await opened(page, "run-live")
    await expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()

    async def said(number: int) -> StoredEvent:
        stored = await log.emit(tool_call(tool=f"tool-{number}", arguments={}, outcome="OK"))
        return stored[-1]

    newest = begun[-1]
    for number in range(20):
        newest = await said(number)
        await expect(page.locator(".place")).to_have_attribute("data-seq", str(newest.seq))
    made = FileChange(path="live.py", new_mode="100644", new_blob="b" * 64, size=3)
    tree: dict[str, Any] = {"previous_tree": "0" * 64, "new_tree": "1" * 64, "patch": ""}
    await log.emit(state_change(workspace_id="main", files=[made], reason="edit", resource="live.py", **tree))
    await expect(page.locator(".file-path")).to_have_text("live.py")
    await settled(page)
    await page.keyboard.press("Home")
    newest = await said(20)
    await expect(page.locator(".place")).to_contain_text("of 23")
    assert await cursor(page) == begun[0].seq
    await page.get_by_role("button", name="Detached: go live").click()
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(newest.seq))


async def test_the_head_has_the_verdict_as_soon_as_the_log_tells_it(page: Page, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-ending", role="operator", agent_name="orchestrator")
    stored = await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="live"))
    await world.stored("run-ending", 1)
    await page.clock.install()
    await opened(page, "run-ending")
    await expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    await page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=30))
    heads = heads_of(stored)
    await log.emit(run_transition(subject="run", from_state="created", to_state="cancelled", reason="r", heads=heads))
    await world.stored("run-ending", 2)
    # Far less than the pause between two questions of how the run is.
    for what in (page.locator(".log-rows"), page.locator(".run-marks .badge").first):
        for _ in range(100):
            if "cancelled" in await what.inner_text():
                break
            await page.clock.run_for(10)
            await asyncio.sleep(0.2)
        assert "cancelled" in await what.inner_text()


async def test_a_stream_is_held_for_a_living_run_alone(page: Page, world: World, recording: Recording) -> None:
    streams = list[Request]()
    page.on("request", lambda sent: streams.append(sent) if "/api/v1/stream" in sent.url else None)
    await opened(page, recording.run_id)
    await expect(page.get_by_text("At the end")).to_be_visible()
    await settled(page)
    assert not streams
    log = AgentLog(world.bus, run_id="run-ends", role="operator", agent_name="orchestrator")
    begun = await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="live"))
    await world.stored("run-ends", 1)
    await opened(page, "run-ends")
    await expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    assert len(streams) == 1
    async with page.expect_event("requestfailed", lambda sent: sent == streams[0]):
        heads = heads_of(begun)
        await log.emit(run_transition(subject="run", from_state="", to_state="merged", reason="done", heads=heads))
    await expect(page.get_by_text("At the end")).to_be_visible()
    await expect(page.locator(".place")).to_contain_text("of 2")
    assert len(streams) == 1


async def test_what_a_hostile_run_says_stays_text(page: Page, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-hostile", role="coder", agent_name=HOSTILE[0])
    events = [run_transition(subject="run", from_state="", to_state="created", reason=HOSTILE[1])]
    for text in HOSTILE:
        events.append(decision(context_hash="c", trigger=text[:100], rationale=text, action={"choice": text}))
        events.append(tool_call(tool="t", arguments={"a": text}, outcome="OK", output=text))
    stored = await log.emit(*events)
    await world.stored("run-hostile", len(stored))
    await opened(page, "run-hostile")
    await page.keyboard.press("Home")
    for one in stored:
        await expect(page.locator(".place")).to_have_attribute("data-seq", str(one.seq))
        await settled(page)
        await page.keyboard.press("ArrowRight")
    assert "owned" not in await page.title()
    assert await page.locator("main img, main script, main iframe").count() == 0


async def test_a_wrong_token_is_asked_for_again_and_unknown_things_teach(
    world: World, chromium_browser: Browser
) -> None:
    async with watched(chromium_browser, world.url) as found:
        page = found.page
        await page.goto("/runs/nothing")
        await sign_in(page, "wrong")
        await expect(page.get_by_role("alert")).to_contain_text("does not open the API")
        await sign_in(page)
        await expect(page.get_by_role("alert").first).to_contain_text("enchanted runs")
        await page.goto("/traces/00")
        await expect(page.get_by_role("alert").first).to_be_visible()
        assert not [wrong for wrong in found.wrongs if "Failed to load resource" not in wrong]


def test_without_a_browser_the_error_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCHANTED_CHROMIUM", "no-such-browser")
    with pytest.raises(ChromiumMissing, match="apt-get install -y --no-install-recommends chromium"):
        chromium()


async def test_both_colours_are_drawn(
    chromium_browser: Browser, world: World, recording: Recording, tmp_path: Path
) -> None:
    grounds = set()
    for colours in ("dark", "light"):
        async with watched(chromium_browser, world.url, colours=colours) as found:
            await found.page.goto("/")
            await sign_in(found.page)
            await opened(found.page, recording.run_id)
            grounds.add(await found.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            await asyncio.gather(settled(found.page), found.page.screenshot(path=tmp_path / f"{colours}.png"))
            assert found.wrongs == []
    assert len(grounds) == 2
