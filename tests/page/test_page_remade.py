"""Mission Control when the bus has lost its events and counts from one again: the page goes on with what comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.bus.testing import SMALL_LIMITS
from enchanted.cluster.testing_api import api_process
from enchanted.cluster.testing_browser import opened, sign_in, watched
from enchanted.schemas.events import tool_call
from enchanted.serve.testing import World

AWAY = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING")
"""What Chromium itself writes to the console of a server that is gone."""


async def begin_anew(world: World) -> None:
    """Lose the stream's events, and count from one again."""
    await world.bus.link.api(f"STREAM.DELETE.{EVENTS_STREAM}")
    await world.bus.ensure_streams(SMALL_LIMITS)


async def say(world: World, run: str, *tools: str) -> list[int]:
    log = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
    return [one.seq for one in await log.emit(*(tool_call(tool=tool, arguments={}, outcome="OK") for tool in tools))]


async def shows(page: Page, *tools: str) -> None:
    """The log has a row of each of them, and no other."""
    await expect(page.locator(".place")).to_contain_text(f"of {len(tools)} ")
    for tool in tools:
        await expect(page.locator(".log-row").filter(has_text=f"{tool} succeeded")).to_have_count(1)
    await expect(page.locator(".log-row")).to_have_count(len(tools))


@pytest.mark.parametrize("restarted", [False, True], ids=["the API goes on", "the API is killed"])
async def test_of_a_stream_that_begins_anew_every_event_is_shown_beside_those_of_the_former_one(
    chromium_browser: Browser, world: World, tmp_path: Path, restarted: bool
) -> None:
    former, new = [f"former-{number}" for number in range(5)], [f"new-{number}" for number in range(3)]
    run = f"run-remade-{restarted}"
    await begin_anew(world)
    before = await say(world, run, *former)
    await world.stored(run, len(former))
    async with api_process(world, tmp_path / "cache") as api, watched(chromium_browser, api.url) as found:
        page = found.page
        await page.goto("/")
        await sign_in(page)
        await opened(page, run)
        await expect(page.locator(".pill-open")).to_have_text("Live")
        await shows(page, *former)
        if restarted:
            await api.kill()
            await expect(page.locator(".pill-broken")).to_have_text("Reconnecting")
        await begin_anew(world)
        assert set(await say(world, run, *new)) < set(before)
        if restarted:
            await api.start()
        await expect(page.locator(".pill-open")).to_have_text("Live")
        await shows(page, *former, *new)
        await say(world, run, "last")
        await shows(page, *former, *new, "last")
        # Two events have the sequence 1: the cursor stands at either.
        order = ["former-0", "new-0", "former-1", "new-1", "former-2", "new-2", "former-3", "last", "former-4"]
        for number, tool in reversed([*enumerate(order, 1)]):
            await expect(page.locator(".place")).to_contain_text(f"event {number} of {len(order)} ")
            await expect(page.locator(".event")).to_contain_text(tool)
            await page.keyboard.press("ArrowLeft")
        await world.stored(run, len(order))
        await page.reload()
        await shows(page, *former, *new, "last")
        assert [wrong for wrong in found.wrongs if "409" not in wrong and not any(one in wrong for one in AWAY)] == []
        assert any("409" in wrong for wrong in found.wrongs), "the API was to refuse the former position"
