"""Hand-offs in Mission Control: arrows between the lanes, and the folded graph of who gave what to whom."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.actors.rerun.recording import Recording
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import barriers, cursor, opened, sign_in, tabbed_to, watched
from enchanted.schemas.events import StoredEvent, decision, run_transition, tool_call
from enchanted.serve.testing import World

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
MARKS = """canvas => {
  const context = canvas.getContext("2d"), y = Math.round(26 * devicePixelRatio);
  return context.getImageData(0, y, canvas.width, 1).data.some((value, at) => at % 4 === 3 && value > 0);
}"""
"""Whether something is drawn halfway between the first two lanes, where no mark reaches."""


def handed(events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """The first event of each agent, in each task, that another agent's event caused."""
    agents: dict[str, str] = {}
    found: dict[tuple[str, ...], StoredEvent] = {}
    for stored in events:
        event = stored.event
        giver = agents.get(event.parent_event_id)
        if giver is not None and giver != event.agent_name:
            found.setdefault((event.parent_event_id, event.agent_name, event.task_id), stored)
        agents[event.event_id] = event.agent_name
    return list(found.values())


async def test_arrows_join_the_lanes_of_those_who_handed_work_on(page: Page, recording: Recording) -> None:
    await opened(page, recording.run_id)
    wanted = len(handed(recording.events))
    assert wanted > 5
    await expect(page.get_by_role("button", name=f"Graph of {wanted} hand-offs")).to_be_visible()
    await expect(page.locator(".place")).to_contain_text(f"of {len(recording.events)}")
    # It is drawn with the next frame.
    await page.wait_for_function(f"({MARKS})(document.querySelector('.lanes canvas'))")


async def test_a_run_without_hand_offs_has_no_arrow_and_the_graph_teaches(page: Page, world: World) -> None:
    for name in ("alone", "apart"):
        log = AgentLog(world.bus, run_id="run-apart", role="coder", agent_name=name)
        await log.emit(*(tool_call(tool=f"t-{at}", arguments={}, outcome="OK") for at in range(3)))
    await world.stored("run-apart", 6)
    await opened(page, "run-apart")
    assert not await page.locator(".lanes canvas").evaluate(MARKS)
    await page.get_by_role("button", name="Graph of 0 hand-offs").click()
    await expect(page.get_by_text("No hand-off yet")).to_be_visible()


async def test_the_graph_grows_with_the_cursor_and_moves_it(page: Page, recording: Recording) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await opened(page, recording.run_id)
    assert not [url for url in asked if "graph" in url], "the graph is loaded when it is unfolded"
    await page.locator(".lane-names").first.focus()
    await page.get_by_role("radio", name="by event").focus()
    await tabbed_to(page, ".panel-timeline .panel-head button")
    await page.keyboard.press("Enter")
    nodes = page.locator(".graph-node")
    names = {one.event.agent_name for one in handed(recording.events)}
    for name in names:
        await expect(nodes.filter(has_text=name).first).to_be_visible()
    task = next(one.event.task_id for one in recording.events if one.event.task_id)
    await expect(nodes.filter(has_text=task)).to_contain_text("accepted")
    whole = await nodes.count()
    await page.keyboard.press("Home")
    await expect(page.get_by_text("No hand-off yet")).to_be_visible()
    await page.keyboard.press("End")
    await expect(nodes).to_have_count(whole)
    assert "graph=1" in page.url
    await page.locator(".graph-task").first.focus()
    end = await cursor(page)
    await page.keyboard.press("Enter")
    assert await cursor(page) < end
    await page.get_by_role("button", name="Fold the graph").click()
    await expect(nodes).to_have_count(0)
    assert "graph" not in page.url


async def test_a_live_hand_off_appears_and_hostile_names_stay_text(page: Page, world: World) -> None:
    giver = AgentLog(world.bus, run_id="run-handed", role="architect", agent_name=HOSTILE)
    [plan] = await giver.emit(decision(context_hash="c", trigger="t", rationale="r", action={}))
    await world.stored("run-handed", 1)
    await page.goto("/runs/run-handed?graph=1")
    await expect(page.get_by_text("No hand-off yet")).to_be_visible()
    taker = AgentLog(world.bus, run_id="run-handed", role="coder", agent_name="coder-1")
    step = run_transition(
        subject="task", from_state="", to_state="coding", reason="r", task_id=HOSTILE, parent=plan.event.event_id
    )
    await taker.emit(step)
    await expect(page.locator(".graph-node")).to_have_text([f"{HOSTILE}0 in · 1 out", f"{HOSTILE}coding",
                                                            "coder-11 in · 0 out"])  # fmt: skip
    assert "owned" not in await page.title()
    assert await page.locator("main img").count() == 0


async def test_of_hundreds_of_agents_the_newest_are_shown(page: Page, world: World) -> None:
    parent = ""
    for number in range(90):
        log = AgentLog(world.bus, run_id="run-crowd", role="coder", agent_name=f"coder-{number}")
        [stored] = await log.emit(tool_call(tool="t", arguments={}, outcome="OK", parent=parent))
        parent = stored.event.event_id
    await world.stored("run-crowd", 90)
    await page.goto("/runs/run-crowd?graph=1")
    await expect(page.locator(".graph-node")).to_have_count(40)
    await expect(page.locator(".graph-node").filter(has_text="coder-89")).to_have_count(1)
    await expect(page.get_by_text("50 that were busy earlier are left out")).to_be_visible()


@pytest.mark.parametrize("colours", ["dark", "light"])
async def test_axe_finds_no_serious_barrier_in_the_graph(
    chromium_browser: Browser, world: World, recording: Recording, colours: str
) -> None:
    async with watched(chromium_browser, world.url, colours=colours) as found:
        await found.page.goto(f"/runs/{recording.run_id}?graph=1")
        await sign_in(found.page)
        await expect(found.page.locator(".graph-node").first).to_be_visible()
        assert await barriers(found.page) == []
        assert found.wrongs == []
