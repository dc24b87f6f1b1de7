"""One API on its real services for each file, and a browser before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.actors.rerun import file
from enchanted.actors.rerun.importing import import_recording
from enchanted.actors.rerun.recording import Recording
from enchanted.cluster.testing_browser import browser, sign_in, watched
from enchanted.cluster.testing_world import served_world
from enchanted.serve.testing import History, World, scripted

GOLDEN = Path(__file__).parents[1] / "golden" / "repair-0.1.0.zip"


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with served_world(tmp_path_factory.mktemp("page")) as world:
        yield world


@pytest.fixture(scope="module")
async def recording(world: World) -> Recording:
    recording = await file.load(GOLDEN)
    await import_recording(recording, world.bus)
    await world.stored(recording.run_id, len(recording.events))
    return recording


@pytest.fixture(scope="module")
async def history(world: World) -> History:
    return await scripted(world, "run-scripted")


@pytest.fixture(scope="module")
async def chromium_browser() -> AsyncIterator[Browser]:
    async with browser() as running:
        yield running


@pytest.fixture
def expected_refusals() -> tuple[str, ...]:
    """What the console may say of the API's answers: each refusal is an error there."""
    return ()


@pytest.fixture
async def page(chromium_browser: Browser, world: World, expected_refusals: tuple[str, ...]) -> AsyncIterator[Page]:
    """A page that is signed in; whatever it did wrong fails the test."""
    async with watched(chromium_browser, world.url) as found:
        await found.page.goto("/")
        await sign_in(found.page)
        await expect(found.page.get_by_role("heading", level=1)).to_have_text("Runs")
        yield found.page
        assert [wrong for wrong in found.wrongs if not any(one in wrong for one in expected_refusals)] == []
