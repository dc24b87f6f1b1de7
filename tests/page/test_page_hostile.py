"""What is huge or meant to harm is text in Mission Control, and never keeps a reader waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import cursor, opened, region, settled, sign_in, watched
from enchanted.schemas.events import (
    StoredEvent,
    SwarmEvent,
    decision,
    model_call,
    run_transition,
    state_change,
    tool_call,
)
from enchanted.schemas.gen.events_pb2 import FileChange
from enchanted.serve.testing import World

RUN = "run-huge"
MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
TERMINAL = "\x1b[31mred\x1b[0m\x1b]0;owned\x07 \u202etxt.exe \u2066\u0000"
NAME = f"{MARKUP}{TERMINAL}" + "n" * 20_000
OUTPUT = f"{MARKUP}{TERMINAL}" + "x" * (5 << 20)
FILES = 10_000
AGENTS = 500
LONGEST_STALL = 6_000.0
"""Milliseconds without a frame, on a machine that does other things too: it may stop the browser for some seconds."""
STALLS = """
window.longestStall = 0;
let last = performance.now();
requestAnimationFrame(function frame(now) {
  window.longestStall = Math.max(window.longestStall, now - last);
  last = now;
  requestAnimationFrame(frame);
});
"""


@dataclass(frozen=True, kw_only=True)
class Huge:
    """Events of the run that are looked at."""

    base: StoredEvent
    output: StoredEvent
    last: StoredEvent


@pytest.fixture(scope="module")
async def huge(world: World) -> Huge:
    log = AgentLog(world.bus, run_id=RUN, role="coder", agent_name=NAME)
    files = [
        FileChange(path=f"{number:05}/{MARKUP}\u202e.py", new_mode="100644", new_blob="b" * 64, size=number)
        for number in range(FILES)
    ]
    tree = {"previous_tree": "0" * 64, "new_tree": "1" * 64}
    events = [
        run_transition(subject="run", from_state="", to_state="created", reason=NAME, details={"task": NAME}),
        state_change(workspace_id="main", files=files, reason="edit", resource=NAME, patch=OUTPUT[:200_000], **tree),
        tool_call(tool=NAME, arguments={"text": NAME}, outcome="OK", output=OUTPUT),
        decision(context_hash="c", trigger=NAME, rationale=OUTPUT, action={"choice": NAME}, rejected=[NAME] * 20),
        *(tool_call(tool=NAME, arguments={}, outcome="FAILED", output=NAME, task_id=NAME) for _ in range(100)),
    ]
    stored = await log.emit(*events)
    await world.stored(RUN, len(stored))
    return Huge(base=stored[1], output=stored[2], last=stored[-1])


@pytest.fixture
async def page(chromium_browser: Browser, world: World) -> AsyncIterator[Page]:
    """A page that notes how long it drew nothing; whatever it did wrong fails the test."""
    async with watched(chromium_browser, world.url) as found:
        await found.page.goto("/")
        await sign_in(found.page)
        await found.page.add_init_script(STALLS)
        yield found.page
        assert [wrong for wrong in found.wrongs if not wrong.startswith("asked blob:")] == []


async def assert_responsive(page: Page) -> None:
    stall = await page.evaluate("window.longestStall")
    assert 0 < stall < LONGEST_STALL, f"the page stood still for {stall:.0f} ms"


async def test_the_meter_notices_a_page_that_stands_still(page: Page, world: World) -> None:
    await page.goto("/")
    await page.evaluate("for (const until = performance.now() + 7_000; performance.now() < until; );")
    await page.evaluate("new Promise(requestAnimationFrame)")
    with pytest.raises(AssertionError, match="stood still"):
        await assert_responsive(page)


async def test_names_of_twenty_thousand_characters_are_cut_and_stay_text(page: Page, huge: Huge) -> None:
    await opened(page, RUN)
    for shown in (page.locator(".log-row .agent").first, page.locator(".lane-names .agent")):
        text = await shown.inner_text()
        assert text.startswith(MARKUP)
        assert len(text) <= 210
    await page.keyboard.press("Home")
    for _ in range(8):
        await page.keyboard.press("ArrowRight")
        await settled(page)
    await page.get_by_label("Search the log").fill("failed")
    await expect(region(page, "Log").locator(".panel-head .dim")).to_have_text("100 of 104")
    assert await page.title() != "owned"
    assert await page.locator("main img, main script, main iframe").count() == 0
    await assert_responsive(page)


async def test_ten_thousand_files_are_a_few_rows_and_the_last_is_in_reach(page: Page, huge: Huge) -> None:
    await opened(page, RUN, huge.base.seq)
    await settled(page)
    await expect(region(page, "Files at the cursor").locator(".panel-head .dim")).to_have_text("10,000")
    assert 0 < await page.locator(".file").count() < 100
    await page.locator(".file-list").evaluate("list => list.scrollTo(0, list.scrollHeight)")
    last = page.locator(".file-path").filter(has_text=f"{FILES - 1:05}/")
    await expect(last).to_have_text(f"{FILES - 1:05}/{MARKUP}\u202e.py")
    assert await page.locator(".file").count() < 100
    await assert_responsive(page)


async def test_a_line_of_five_mebibytes_is_cut_and_all_of_it_can_be_had(page: Page, huge: Huge, tmp_path: Path) -> None:
    await opened(page, RUN, huge.output.seq)
    await settled(page)
    output = page.get_by_role("figure").filter(has_text="output")
    assert await cursor(page) == huge.output.seq
    assert await output.locator("pre").evaluate("pre => pre.textContent.length") == 8_000
    await output.get_by_role("button", name="Show more of 5.0 MiB").click()
    assert await output.locator("pre").evaluate("pre => pre.textContent.length") == 100_000
    async with page.expect_download() as saving:
        await output.get_by_role("button", name="Save all 5.0 MiB").click()
    saved = await saving.value
    await saved.save_as(tmp_path / "output.txt")
    assert (tmp_path / "output.txt").read_text() == OUTPUT
    await page.get_by_text("Everything it holds").click()
    await expect(page.locator("details").get_by_role("button", name="Save all 5.")).to_be_visible()
    await page.keyboard.press("ArrowRight")
    await settled(page)
    await expect(page.locator(".event-sentence")).to_contain_text("chose")
    await assert_responsive(page)


async def test_of_five_hundred_agents_sixty_have_lanes_and_the_others_share_one(page: Page, world: World) -> None:
    names = [f"coder-{number}" for number in range(AGENTS)]
    logs = [AgentLog(world.bus, run_id="run-crowd", role="coder", agent_name=name) for name in names]
    await asyncio.gather(*(log.emit(tool_call(tool="t", arguments={}, outcome="OK")) for log in logs))
    await world.stored("run-crowd", AGENTS)
    await opened(page, "run-crowd")
    lanes = page.locator(".lane-names li")
    await expect(lanes).to_have_count(61)
    await expect(lanes.last).to_have_text("440 more agents")
    box = await page.locator(".lanes canvas").bounding_box()
    assert box is not None
    assert box["height"] < 2_000
    await page.get_by_label("Agent", exact=True).select_option("coder-499")
    await expect(region(page, "Log").locator(".panel-head .dim")).to_have_text("1 of 500")
    await assert_responsive(page)


async def test_an_event_is_told_as_what_it_is_whatever_its_author_left_out(page: Page, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-odd", role="coder", agent_name="coder-1")
    call = {"model": "m", "parameters": {}, "completion": "", "finish_reason": "stop"}
    parts = [{"role": "user", "content": [{"type": "text", "text": "say it"}]}, "just words"]
    stored = await log.emit(
        SwarmEvent(),
        decision(context_hash="c", trigger="t", rationale="sure", action={}, confidence=float("inf")),
        model_call(messages=parts, **call),
        model_call(messages="no list at all", **call),
    )
    await world.stored("run-odd", len(stored))
    panel = page.locator(".event")
    for one, said, unsaid in zip(
        stored,
        ("has no payload that this page knows", "because sure", '"text": "say it"', "no list at all"),
        ("MB", "Infinity", "[object Object]", "[object Object]"),
        strict=True,
    ):
        await opened(page, "run-odd", one.seq)
        await settled(page)
        await expect(panel).to_contain_text(said)
        await expect(panel).not_to_contain_text(unsaid)
    await opened(page, "run-odd", stored[2].seq)
    await expect(panel).to_contain_text("just words")


async def test_what_is_shown_of_one_text_is_not_shown_of_the_next(page: Page, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-long", role="coder", agent_name="coder-1")
    stored = await log.emit(
        *(tool_call(tool="t", arguments={}, outcome="OK", output=sign * 50_000) for sign in ("a", "b"))
    )
    await world.stored("run-long", len(stored))
    await opened(page, "run-long", stored[0].seq)
    output = page.get_by_role("figure").filter(has_text="output").locator("pre")
    await page.get_by_role("button", name="Show more of").click()
    await expect(output).to_have_text("a" * 50_000)
    await page.keyboard.press("ArrowRight")
    await expect(output).to_have_text("b" * 8_000)
