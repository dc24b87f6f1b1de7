"""Mission Control while the API is killed, frozen or away: it says so, and goes on without a gap when it is back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_api import ApiProcess, api_process
from enchanted.cluster.testing_browser import (
    Watched,
    cursor,
    files_shown,
    opened,
    sequences_shown,
    settled,
    sign_in,
    watched,
)
from enchanted.schemas.events import StoredEvent, kind_of, run_transition, state_change, tool_call
from enchanted.schemas.gen.events_pb2 import FileChange
from enchanted.serve.testing import History, World

AWAY = (
    "ERR_CONNECTION_REFUSED",
    "ERR_CONNECTION_RESET",
    "ERR_CONTENT_LENGTH_MISMATCH",
    "ERR_EMPTY_RESPONSE",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
)
"""What Chromium itself writes to the console of a server that is gone."""


@pytest.fixture(scope="module")
async def process(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiProcess]:
    async with api_process(world, tmp_path_factory.mktemp("api") / "cache") as process:
        yield process


@pytest.fixture
async def api(process: ApiProcess) -> ApiProcess:
    if not process.running:
        await process.start()
    return process


@pytest.fixture
async def found(chromium_browser: Browser, api: ApiProcess) -> AsyncIterator[Watched]:
    """A page on that API; all that may go wrong in it is that nobody answers."""
    async with watched(chromium_browser, api.url) as found:
        yield found
        assert [wrong for wrong in found.wrongs if not any(words in wrong for words in AWAY)] == []


class Talk:
    """A run that somebody writes while the page is watched."""

    def __init__(self, world: World, run: str) -> None:
        self.run = run
        self._world = world
        self._log = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
        self.stored: list[StoredEvent] = []

    async def begin(self) -> None:
        self.stored += await self._log.emit(
            run_transition(subject="run", from_state="", to_state="created", reason="r")
        )
        await self._world.stored(self.run, 1)

    async def say(self, count: int) -> None:
        for number in range(count):
            self.stored += await self._log.emit(tool_call(tool=f"tool-{number}", arguments={}, outcome="OK"))
            await asyncio.sleep(0.005)

    async def make(self, path: str) -> None:
        made = FileChange(path=path, new_mode="100644", new_blob="b" * 64, size=3)
        trees = {"previous_tree": "0" * 64, "new_tree": "1" * 64}
        change = state_change(workspace_id="main", files=[made], reason="edit", resource=path, patch="", **trees)
        self.stored += await self._log.emit(change)


async def shows(page: Page, talk: Talk) -> None:
    """The page has what was said so far, each event once."""
    await expect(page.locator(".place")).to_contain_text(f"of {len(talk.stored)} ")
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(talk.stored[-1].seq))


async def test_after_a_kill_of_the_api_the_page_goes_on_live_with_every_event_once(
    found: Watched, api: ApiProcess, world: World
) -> None:
    page, talk = found.page, Talk(world, "run-killed")
    await talk.begin()
    await page.goto("/")
    await sign_in(page)
    await opened(page, talk.run)
    await expect(page.locator(".pill-open")).to_have_text("Live")
    for round_ in range(2):
        speaking = asyncio.create_task(talk.say(60))
        await expect(page.locator(".place")).not_to_contain_text(f"of {len(talk.stored)} ")
        await api.kill()
        await expect(page.locator(".pill-broken")).to_have_text("Reconnecting")
        await page.keyboard.press("Home")
        await page.get_by_role("button", name="Detached: go live (reconnecting)").click()
        await expect(page.locator(".pill-broken")).to_have_text("Reconnecting")
        await speaking
        await talk.make(f"made-{round_}.py")
        if not round_:  # somebody who waits is told what to do about it
            await expect(page.get_by_role("alert").first).to_contain_text("enchanted up")
        await api.start()
        await expect(page.locator(".pill-open")).to_have_text("Live")
        await shows(page, talk)
        await expect(page.get_by_role("alert")).to_have_count(0)
        await talk.say(5)
        await shows(page, talk)
        await settled(page)
        assert [path for path, _ in await files_shown(page)] == [f"made-{n}.py" for n in range(round_ + 1)]
    assert await sequences_shown(page) == [one.seq for one in talk.stored]
    assert [one.seq for one in await world.bus.read_run(talk.run)] == [one.seq for one in talk.stored]


async def test_an_api_that_only_falls_silent_is_noticed_and_left_for_a_new_connection(
    found: Watched, api: ApiProcess, world: World
) -> None:
    page, talk = found.page, Talk(world, "run-frozen")
    await talk.begin()
    await page.clock.install()
    await page.goto("/")
    await sign_in(page)
    await opened(page, talk.run)
    await expect(page.locator(".pill-open")).to_have_text("Live")
    api.send(signal.SIGSTOP)
    try:
        await page.clock.fast_forward(20_000)
        await expect(page.locator(".pill-open")).to_have_text("Live")
        await talk.say(5)
        await page.clock.fast_forward(25_000)
        await expect(page.locator(".pill-broken")).to_have_text("Reconnecting")
    finally:
        api.send(signal.SIGCONT)
    await expect(page.locator(".pill-open")).to_have_text("Live")
    await shows(page, talk)
    assert await sequences_shown(page) == [one.seq for one in talk.stored]


async def test_a_run_that_is_opened_while_the_api_is_away_fills_itself_when_it_is_back(
    found: Watched, api: ApiProcess, history: History
) -> None:
    page = found.page
    await page.goto("/")
    await sign_in(page)
    link = page.locator(f"a[href='/runs/{history.run}']")
    await expect(link).to_be_visible()
    await api.kill()
    await link.click()
    await expect(page.get_by_role("alert").first).to_contain_text("The API does not answer")
    await api.start()
    await expect(page.locator(".place")).to_contain_text(f"of {len(history.events)} ")
    await settled(page)
    await expect(page.get_by_role("alert")).to_have_count(0)
    assert {path for path, _ in await files_shown(page)} == set(history.files[history.events[-1].seq])


async def test_what_was_asked_while_the_api_was_away_is_asked_again_when_it_is_back(
    found: Watched, api: ApiProcess, history: History
) -> None:
    page = found.page
    changes = [one.seq for one in history.events if kind_of(one.event) == "state_change"]
    await page.goto("/")
    await sign_in(page)
    await opened(page, history.run)
    await settled(page)
    await api.kill()
    await page.keyboard.press("Home")
    for _ in range(3):
        await page.keyboard.press("]")
    assert await cursor(page) == changes[2]
    await expect(page.locator(".files").get_by_role("alert")).to_contain_text("does not answer")
    await api.start()
    # Nobody presses "Try again".
    await expect(page.get_by_role("alert")).to_have_count(0)
    await settled(page)
    assert {path for path, _ in await files_shown(page)} == set(history.files[changes[2]])


async def test_a_machine_without_a_network_still_reads_its_own_api(found: Watched, history: History) -> None:
    page = found.page
    await page.goto("/")
    await sign_in(page)
    await opened(page, history.run)
    await settled(page)
    await page.evaluate("dispatchEvent(new Event('offline'))")
    await page.keyboard.press("Home")
    await page.keyboard.press("]")
    await settled(page)
    assert {path for path, _ in await files_shown(page)} == set(history.files[await cursor(page)])
