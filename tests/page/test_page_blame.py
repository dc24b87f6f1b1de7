"""Blame in Mission Control: each line of the open file leads to the decision and the change it comes from."""

from __future__ import annotations

from playwright.async_api import Locator, Page, expect

from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.rerun.recording import Recording
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import barriers, cursor, settled, tabbed_to
from enchanted.schemas.events import kind_of, run_transition, state_change
from enchanted.serve.testing import History, World


async def blamed(page: Page, run: str, path: str, at: int) -> Locator:
    await page.goto(f"/runs/{run}?at={at}&file={path}&blame=1")
    await expect(page.locator(".blame li").first).to_be_visible()
    return page.locator(".blame li")


async def test_each_line_leads_to_its_decision_and_its_change(page: Page, world: World, recording: Recording) -> None:
    changes = [one for one in recording.events if one.event.state_change.reason == "merge"]
    path = changes[-1].event.state_change.files[0].path
    found = await world.document(f"runs/{recording.run_id}/blame", path=path)
    line = next(one for one in found["lines"] if one["decision_id"])
    decided = next(one for one in recording.events if one.event.event_id == line["decision_id"])
    decided_at = (await world.document(f"events/{line['decision_id']}"))["seq"]
    rows = await blamed(page, recording.run_id, path, found["at"])
    numbered = rows.filter(has=page.locator(".blame-number"))
    shown = await numbered.evaluate_all("all => all.map(one => one.querySelector('pre').textContent)")
    assert shown == [one["text"] for one in found["lines"]][: len(shown)]
    assert len(shown) > 5
    origin = rows.locator(".blame-origin").filter(has_text=f"change {line['seq']}")
    await expect(origin.first).to_contain_text(line["agent_name"])
    await expect(origin.first).to_contain_text(decided.event.decision.rationale)
    await origin.first.get_by_role("button", name=f"seq {decided_at}").click()
    assert await cursor(page) == decided_at
    rows = await blamed(page, recording.run_id, path, found["at"])
    origin = rows.locator(".blame-origin").filter(has_text=f"change {line['seq']}")
    await origin.first.get_by_role("button", name=f"change {line['seq']}").click()
    assert await cursor(page) == line["seq"]
    await settled(page)


async def test_it_is_opened_by_keyboard_and_is_in_the_address(page: Page, history: History) -> None:
    at = [one.seq for one in history.events if kind_of(one.event) == "state_change"][1]
    await page.goto(f"/runs/{history.run}?at={at}&file=a.py")
    await expect(page.get_by_role("button", name="Blame")).to_be_visible()
    await page.locator(".files select, .panel-files select").focus()
    await tabbed_to(page, ".file-content button")
    await page.keyboard.press("Enter")
    await expect(page.locator(".blame-number")).to_have_text(["1", "2"])
    assert "blame=1" in page.url
    assert await barriers(page) == []
    await page.get_by_role("button", name="Blame").click()
    await expect(page.locator(".blame")).to_have_count(0)
    assert "blame" not in page.url


async def test_a_line_of_a_forks_parent_leads_to_the_change_in_the_parents_run(
    page: Page, world: World, history: History
) -> None:
    repository = ShadowRepository.open(world.folder / history.run / "repo.git")
    wrote = next(one for one in history.events if one.event.state_change.reason == "merge")
    log = AgentLog(world.bus, run_id="run-forked", role="operator", agent_name="orchestrator")
    base, forked = repository.base_tree, wrote.event.state_change.new_state_hash
    bundle = await world.bus.blobs.put(await repository.bundle(base))
    patch = await repository.diff(base, forked)
    change = {"workspace_id": "main", "resource": "r"}
    stored = await log.emit(
        run_transition(
            subject="run", from_state="", to_state="created", reason="r",
            details={"forked_from": history.run, "forked_at": wrote.seq},
        ),
        state_change(
            previous_tree=repository.empty_tree, new_tree=base, patch="", files=await repository.list(base),
            reason="base", content_sha256=bundle, **change,
        ),
        state_change(
            previous_tree=base, new_tree=forked, patch=patch.text, files=patch.files, reason="fork", **change,
        ),
    )  # fmt: skip
    await world.stored("run-forked", len(stored))
    rows = await blamed(page, "run-forked", "a.py", stored[-1].seq)
    await rows.get_by_role("link", name=f"change {wrote.seq} of {history.run}").click()
    await expect(page).to_have_url(f"/runs/{history.run}?at={wrote.seq}&file=a.py")
    await settled(page)
    assert await cursor(page) == wrote.seq
    await expect(page.get_by_role("region", name="Content of a.py")).to_contain_text("print('b')")
