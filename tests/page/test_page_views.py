"""Mission Control's pages beside the mission view, in a real browser: two runs side by side, and what runs where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.bus.subjects import event_subject
from enchanted.cluster.testing_browser import barriers, region, sign_in, tabbed_to, watched
from enchanted.cluster.testing_world import TOKEN
from enchanted.schemas.events import SwarmEvent, kind_of, model_call, run_transition, system_signal
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, served

ALTERED = "run-altered"
SAID = "begin somewhere else"
NODE = {"node_id": "n1", "host": "box-1", "address": "10.0.0.1", "alive": True, "resources": {"CPU": 2.0, "GPU": 1.0}}
ENGINE = {
    "key": "k", "model": "vllm:small", "dedicated_to": "", "pid": 7, "ready": True, "uptime_s": 61.0, "running": 1,
    "completed": 9, "failed": 0, "input_tokens": 4_000, "cached_tokens": 3_000, "output_tokens": 500,
}  # fmt: skip


class OneMachine:
    """A cluster as Ray would tell of it."""

    dashboard_url = "http://127.0.0.1:8265"

    async def nodes(self) -> list[dict[str, Any]] | None:
        return [NODE]

    async def engines(self) -> list[dict[str, Any]] | None:
        return [ENGINE]


async def soundly_reconciled() -> dict[str, Any] | None:
    return {"sound": True, "at": "2026-01-02T03:04:05+00:00"}


@pytest.fixture(scope="module")
async def altered(world: World, history: History) -> dict[str, Any]:
    """A copy of the scripted run: its first decision is another, and what was rolled back there stays here."""
    copies = []
    for stored in history.events:
        copy = SwarmEvent()
        copy.CopyFrom(stored.event)
        copy.run_id, copy.event_id = ALTERED, f"altered-{stored.seq}"
        if kind_of(copy) == "decision":
            copy.decision.rationale = SAID
        if copy.state_change.reason != "rollback":
            copies.append(copy)
    await world.bus.publisher.publish_many(
        [
            Outgoing(subject=event_subject(copy), payload=copy.SerializeToString(), event_id=copy.event_id)
            for copy in copies
        ]
    )
    await world.stored(ALTERED, len(copies))
    return await world.document(f"runs/{history.run}/compare/{ALTERED}")


@pytest.mark.parametrize("side", ["A", "B"])
async def test_two_runs_are_shown_from_where_they_part_and_both_links_lead_there(
    page: Page, history: History, altered: dict[str, Any], side: str
) -> None:
    parting = altered["divergence"]
    assert parting["a"]["kind"] == parting["b"]["kind"] == "decision"
    await page.goto(f"/compare/{history.run}/{ALTERED}")
    shown = region(page, "Where they part")
    await expect(shown.locator(".parting-lead")).to_contain_text("coder-1 is the first to differ")
    await expect(shown.get_by_role("article", name="In A")).to_contain_text("because begin")
    await expect(shown.get_by_role("article", name="In B")).to_contain_text(f"because {SAID}")
    field = shown.get_by_role("row").filter(has_text="decision.rationale")
    await expect(field.get_by_role("cell")).to_have_text(["begin", SAID])
    run, seq = (history.run, parting["a"]["seq"]) if side == "A" else (ALTERED, parting["b"]["seq"])
    await shown.get_by_role("article", name=f"In {side}").get_by_role("link").click()
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(seq))
    assert page.url.endswith(f"/runs/{run}?at={seq}")


async def test_costs_are_held_against_each_other_and_a_file_that_differs_opens(
    page: Page, history: History, altered: dict[str, Any]
) -> None:
    await page.goto(f"/compare/{history.run}/{ALTERED}")
    events = region(page, "Verdict and cost").get_by_role("row", name="Events")
    total = len(history.events)
    await expect(events.get_by_role("cell")).to_have_text([str(total), str(total - 1), "−1"])
    files = region(page, "Files")
    names = sorted(one["path"] for one in altered["files"])
    assert names == ["a.py", "b c.py", "dos.txt", "link"]
    await expect(files.locator("tbody bdi")).to_have_text(names)
    gone = files.get_by_role("row").filter(has_text="a.py").first
    await expect(gone).to_contain_text("not there")
    await files.get_by_role("link", name="b c.py in B").click()
    await expect(page.locator(".file-content")).to_contain_text("print('ü')")
    await page.locator(".file-content").get_by_role("button", name="Close").click()
    assert "file=" not in page.url


async def test_a_run_beside_itself_says_the_same_and_an_unknown_one_teaches(
    chromium_browser: Browser, world: World, history: History
) -> None:
    async with watched(chromium_browser, world.url) as found:
        await found.page.goto(f"/compare/{history.run}/{history.run}")
        await sign_in(found.page)
        await expect(region(found.page, "Where they part")).to_contain_text("They say the same")
        await expect(region(found.page, "Files")).to_contain_text("Both end with the same files")
        assert found.wrongs == []
        await found.page.goto(f"/compare/{history.run}/nothing")
        await expect(found.page.get_by_role("alert")).to_contain_text("enchanted runs")


async def test_two_runs_are_chosen_in_the_list_by_the_keyboard_alone(
    page: Page, world: World, history: History, altered: dict[str, Any]
) -> None:
    compare = page.get_by_role("button", name="Compare")
    await expect(compare).to_be_disabled()
    for run in (ALTERED, history.run):
        await tabbed_to(page, f"[aria-label='Choose {run} to compare']")
        await page.keyboard.press(" ")
    await expect(compare).to_be_enabled()
    await tabbed_to(page, "button[title='Side by side']", key="Shift+Tab")
    await page.keyboard.press("Enter")
    # The older one comes first, whichever was chosen first.
    await expect(page).to_have_url(f"{world.url}/compare/{history.run}/{ALTERED}")
    await expect(page.get_by_role("article", name="In B")).to_be_visible()
    await tabbed_to(page, f"article a[href='/runs/{ALTERED}?at={altered['divergence']['b']['seq']}']")
    await page.keyboard.press("Enter")
    await expect(page.locator(".place")).to_have_attribute("data-seq", str(altered["divergence"]["b"]["seq"]))


async def test_a_fork_leads_to_its_comparison_with_its_parent(page: Page, world: World, history: History) -> None:
    log = AgentLog(world.bus, run_id="run-fork", role="operator", agent_name="orchestrator")
    request = {"task": "tidy", "forked_from": history.run, "forked_at": history.events[2].seq}
    created = run_transition(subject="run", from_state="", to_state="created", reason="forked", details=request)
    await log.emit(created, run_transition(subject="run", from_state="created", to_state="planning", reason="it is"))
    await world.stored("run-fork", 2)
    await page.goto("/runs/run-fork")
    await page.get_by_role("link", name="Compare with its parent").click()
    await expect(page.locator(".parting-lead")).to_contain_text(f"forked from A at seq {history.events[2].seq}")
    await expect(page.get_by_role("article", name="In B")).to_contain_text("says nothing more here")
    await expect(page.get_by_role("button", name="Compare again")).to_be_enabled()
    await page.goto(f"/runs/{history.run}")
    await expect(page.locator(".log-row").first).to_be_visible()
    await expect(page.get_by_role("link", name="Compare with its parent")).to_have_count(0)


async def test_an_actor_that_signals_appears_and_what_nobody_told_is_unknown(page: Page, world: World) -> None:
    await tabbed_to(page, "a[href='/cluster']")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Cluster")
    for name, words in (("Nodes", "machines are unknown"), ("Engines", "engines are unknown")):
        await expect(region(page, name)).to_contain_text(words)
    await expect(region(page, "From the stream")).to_contain_text("unknown")
    await expect(region(page, "Models")).to_contain_text("No model was asked in the last minute")
    log = AgentLog(world.bus, run_id="run-seen", role="coder", agent_name="coder-7")
    signal = system_signal(status="DEGRADED", cpu_load_percent=93, memory_usage_mb=1_207, pid=42, node="box-2")
    await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="r"), signal)
    call = model_call(
        model="m-1", messages="[]", parameters={}, completion="x", finish_reason="stop", output_tokens=120
    )
    await log.emit(call)
    # Nobody reloads: the page asks again by itself.
    actor = region(page, "Actors").get_by_role("row").filter(has_text="coder-7")
    for words in ("run-seen", "degraded", "box-2 · 42", "93 %", "1,207 MB", " s ago"):
        await expect(actor).to_contain_text(words)
    await expect(region(page, "Models").get_by_role("row").filter(has_text="m-1")).to_contain_text("2.0")
    await actor.get_by_role("link", name="run-seen").click()
    await expect(page.locator(".log-row").first).to_be_visible()


@pytest.mark.parametrize("colours", ["dark", "light"])
async def test_pages_are_drawn_in_both_colours_with_all_that_ray_knows(
    chromium_browser: Browser, world: World, history: History, altered: dict[str, Any], tmp_path: Path, colours: str
) -> None:
    deps = Dependencies(
        store=Store(world.store_url),
        bus=BusLink(world.nats.url),
        access=Access(token=TOKEN),
        cache=tmp_path,
        cluster=OneMachine(),
        reconciliation=soundly_reconciled,
    )
    async with served(deps) as url, watched(chromium_browser, url, colours=colours) as found:
        page = found.page
        await page.goto("/cluster")
        await sign_in(page)
        await expect(region(page, "Nodes")).to_contain_text("box-1")
        engine = region(page, "Engines").get_by_role("row").filter(has_text="vllm:small")
        for words in ("ready", "4,000", "75 %", "500"):
            await expect(engine).to_contain_text(words)
        await expect(region(page, "From the stream")).to_contain_text("Reconciliationsound")
        dashboard = page.get_by_role("link", name="Ray's dashboard")
        await expect(dashboard).to_have_attribute("href", OneMachine.dashboard_url)
        await expect(dashboard).to_have_attribute("rel", "noopener noreferrer")
        await page.screenshot(path=tmp_path / f"cluster-{colours}.png", full_page=True)
        await page.goto(f"/compare/{history.run}/{ALTERED}")
        await expect(page.locator(".parting-lead")).to_be_visible()
        await page.screenshot(path=tmp_path / f"compare-{colours}.png", full_page=True)
        assert await page.evaluate("document.documentElement.dataset.theme") == colours
        assert found.wrongs == []


@pytest.mark.parametrize("colours", ["dark", "light"])
async def test_axe_finds_no_serious_barrier_on_list_cluster_comparison_and_run(
    chromium_browser: Browser, world: World, history: History, altered: dict[str, Any], colours: str
) -> None:
    async with watched(chromium_browser, world.url, colours=colours) as found:
        page = found.page
        await page.goto("/")
        assert await barriers(page) == []
        await page.goto("/")
        await sign_in(page)
        for address, there in (
            ("/", ".runs table"),
            ("/cluster", ".panel-actors"),
            (f"/compare/{history.run}/{ALTERED}", ".parting-lead"),
            (f"/runs/{ALTERED}?file=link", ".file-content"),
        ):
            await page.goto(address)
            await expect(page.locator(there).first).to_be_visible()
            assert await barriers(page) == []
        assert found.wrongs == []
