"""Mission Control on a narrow screen, and in colours that the reader's system forces on it."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from enchanted.actors.rerun.recording import Recording
from enchanted.cluster.testing_browser import opened, settled
from enchanted.schemas.events import kind_of
from enchanted.serve.testing import History

WIDTH = 400


@pytest.fixture
def narrow(recording: Recording, history: History) -> dict[str, str]:
    """The address of each page, by its name."""
    traced = next(one.event for one in recording.events if kind_of(one.event) == "model_call")
    return {
        "runs": "/",
        "run": f"/runs/{recording.run_id}?file=README.md",
        "trace": f"/traces/{traced.trace_id}?span={traced.span_id}",
        "compare": f"/compare/{history.run}/{recording.run_id}",
        "cluster": "/cluster",
    }


@pytest.mark.parametrize("name", ["runs", "run", "trace", "compare", "cluster"])
async def test_a_narrow_page_is_read_without_scrolling_sideways(page: Page, narrow: dict[str, str], name: str) -> None:
    await page.set_viewport_size({"width": WIDTH, "height": 800})
    await page.goto(narrow[name])
    shown = {"runs": ".runs tbody tr", "run": ".log-row", "trace": ".waterfall li", "compare": ".sheet tbody tr"}
    await expect(page.locator(shown.get(name, ".cluster .panel")).first).to_be_visible()
    if name == "run":
        await settled(page)
    assert await page.evaluate("document.documentElement.scrollWidth") == WIDTH


async def test_a_narrow_run_shows_its_task_its_reason_and_its_log(page: Page, recording: Recording) -> None:
    await page.set_viewport_size({"width": WIDTH, "height": 800})
    await opened(page, recording.run_id)
    for part in (".run-title h1", ".run-title p", "#timeline-title", ".log-row .log-text"):
        box = await page.locator(part).first.bounding_box()
        assert box is not None
        assert box["width"] > WIDTH / 3, part
    for button in await page.locator(".run-marks button").all():
        await expect(button).to_be_in_viewport(ratio=1)


async def test_forced_colours_leave_the_marks_and_show_what_is_chosen(page: Page, recording: Recording) -> None:
    await page.emulate_media(forced_colors="active")
    await opened(page, recording.run_id)
    grounds = await page.locator(".legend .mark").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(grounds)) == len(grounds) > 3
    outline = "one => getComputedStyle(one).outlineStyle"
    for chosen, other in (
        (".log-row[aria-selected=true]", ".log-row[aria-selected=false]"),
        (".kind-toggle[aria-pressed=true]", ".kind-toggle[aria-pressed=false]"),
        (".choice label:has(:checked)", ".choice label:not(:has(:checked))"),
    ):
        assert await page.locator(chosen).first.evaluate(outline) != "none"
        assert await page.locator(other).first.evaluate(outline) == "none"
