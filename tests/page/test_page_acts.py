"""What a person does to runs through Mission Control: each act is previewed, confirmed, done once, or refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Request, Route, expect

from enchanted.actors.repository.restore import MARK
from enchanted.actors.rerun.recording import Recording
from enchanted.actors.testing import make_repository
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_browser import act_bar as bar
from enchanted.cluster.testing_browser import act_dialog as begin
from enchanted.cluster.testing_browser import opened
from enchanted.schemas.events import StoredEvent, kind_of, run_transition
from enchanted.serve.testing import History, World, scripted


@pytest.fixture
def expected_refusals() -> tuple[str, ...]:
    return ("status of 409", "status of 422")


def sent_by(page: Page) -> list[tuple[str, Any]]:
    """Where the page posts to from now on, and what."""
    found: list[tuple[str, Any]] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            found.append((request.url.rsplit("/", 1)[-1], request.post_data_json if request.post_data else None))

    page.on("request", note)
    return found


def changes(history: History) -> list[StoredEvent]:
    return [stored for stored in history.events if kind_of(stored.event) == "state_change"]


def change_of(history: History, path: str) -> StoredEvent:
    return next(one for one in changes(history) if one.event.state_change.files[0].path == path)


async def main_files(world: World, run: str, at: int) -> set[str]:
    state = await world.document(f"runs/{run}/state", at=at)
    return {one["path"] for one in state["workspaces"]["main"]["files"]}


def on_disk(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if MARK not in path.parts and (path.is_symlink() or not path.is_dir())
    }


async def test_a_change_is_undone_and_the_undo_is_undone_again(page: Page, world: World) -> None:
    history = await scripted(world, "run-undone")
    count = len(history.events)
    await opened(page, history.run, change_of(history, "data.bin").seq)
    before = await main_files(world, history.run, history.events[-1].seq)
    assert "data.bin" in before
    for step, wanted in enumerate((before - {"data.bin"}, before), start=1):
        dialog = await begin(page, "Undo this change")
        await expect(dialog.get_by_role("listitem")).to_have_text(["data.bin"])
        await dialog.get_by_role("button", name="Undo change").click()
        link = dialog.get_by_role("link", name="change ")
        seq = int((await link.inner_text()).removeprefix("change "))
        await link.click()
        await expect(dialog).to_have_count(0)
        await expect(page.locator(".place")).to_have_attribute("data-seq", str(seq))
        await expect(page.locator(".files")).to_have_attribute("aria-busy", "false")
        await world.stored(history.run, count + step)
        assert await main_files(world, history.run, seq) == wanted
        await expect(page.locator(".file-path").filter(has_text="data.bin")).to_have_count(step - 1)


async def test_escape_does_not_close_over_an_act_that_is_on_its_way(page: Page, world: World) -> None:
    history = await scripted(world, "run-busy")
    await opened(page, history.run, change_of(history, "data.bin").seq)
    dialog = await begin(page, "Undo this change")
    act = dialog.get_by_role("button", name="Undo change")
    await expect(act).to_be_visible()
    escaped = asyncio.Event()

    async def later(route: Route) -> None:
        await escaped.wait()
        await route.continue_()

    await page.route("**/undos", later)
    await act.click()
    await expect(dialog.get_by_role("status")).to_have_text("The API is at it …")
    for _ in range(3):
        await page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    escaped.set()
    await expect(dialog.get_by_role("link", name="change ")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)


async def test_a_moment_is_restored_into_a_folder_byte_for_byte(page: Page, history: History, tmp_path: Path) -> None:
    for at in (changes(history)[5].seq, changes(history)[1].seq):
        await opened(page, history.run, at)
        before = on_disk(tmp_path)
        dialog = await begin(page, "Restore these files")
        await dialog.get_by_label("Folder on the server").fill(str(tmp_path))
        await dialog.get_by_role("button", name="Show what it would do").click()
        act = dialog.get_by_role("button", name=f"in {tmp_path}")
        await expect(act).to_be_visible()
        assert on_disk(tmp_path) == before, "a preview writes nothing"
        await act.click()
        await expect(dialog.get_by_role("status").filter(has_text=str(tmp_path))).to_be_visible()
        assert on_disk(tmp_path) == history.files[at]


async def test_another_place_needs_another_preview(page: Page, history: History, tmp_path: Path) -> None:
    await opened(page, history.run, changes(history)[1].seq)
    dialog = await begin(page, "Restore these files")
    folder = dialog.get_by_label("Folder on the server")
    await folder.fill(str(tmp_path / "one"))
    await folder.press("Enter")
    act = dialog.get_by_role("button", name="Write")
    await expect(act).to_have_text(f"Write 2 files and delete 0 in {tmp_path / 'one'}")
    await folder.fill(str(tmp_path / "two"))
    await expect(act).to_have_count(0)


async def test_work_that_only_the_folder_has_is_overwritten_only_when_told(
    page: Page, history: History, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text("mine")
    at = changes(history)[0].seq
    await opened(page, history.run, at)
    dialog = await begin(page, "Restore these files")
    await dialog.get_by_label("Folder on the server").fill(str(tmp_path))
    await dialog.get_by_role("button", name="Show what it would do").click()
    await expect(dialog.get_by_text("only this folder has")).to_be_visible()
    await expect(dialog.get_by_role("button", name="Write")).to_have_count(0)
    await dialog.get_by_label("Overwrite them").check()
    await dialog.get_by_role("button", name="Write").click()
    await expect(dialog.get_by_text("What was replaced is in")).to_be_visible()
    assert on_disk(tmp_path) == history.files[at]


async def test_an_open_run_is_cancelled_and_a_closed_one_says_why_not(
    page: Page, world: World, history: History
) -> None:
    log = AgentLog(world.bus, run_id="run-open", role="operator", agent_name="operator")
    await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="open"))
    await world.stored("run-open", 1)
    await opened(page, "run-open")
    sent = sent_by(page)
    dialog = await begin(page, "Cancel the run")
    await expect(dialog.get_by_text("This cannot be taken back")).to_be_visible()
    assert (sent, world.starter.cancelled) == ([], [])
    await dialog.get_by_role("button", name="Cancel run-open").dblclick()
    await expect(dialog.get_by_text("was asked to end run-open")).to_be_visible()
    assert (sent, world.starter.cancelled) == ([("cancel", None)], ["run-open"])
    await opened(page, history.run)
    closed = bar(page).get_by_role("button", name="Cancel the run", disabled=True)
    await expect(closed).to_have_attribute("title", "The run has ended.")
    await closed.click(force=True)
    await expect(bar(page).get_by_role("status")).to_have_text("The run has ended.")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_a_fork_with_another_task_and_model_begins_once_though_clicked_twice(
    page: Page, world: World, recording: Recording
) -> None:
    found = await world.document("events", run=recording.run_id, kind="state_change")
    at = found["data"][-1]["seq"]
    await opened(page, recording.run_id, at)
    sent = sent_by(page)
    dialog = await begin(page, "Fork from here")
    await expect(dialog.get_by_text("as they stood here")).to_be_visible()
    await expect(dialog.get_by_label("Task")).to_have_value("make the checks pass")
    await dialog.get_by_label("Task").fill("make it shorter")
    await expect(dialog.get_by_text("a plan made anew")).to_be_visible()
    await dialog.get_by_label("Model of every role").fill("minimal")
    await dialog.get_by_label("Coders").fill("5")
    assert sent == []
    await dialog.get_by_role("button", name=f"Start a new run from sequence {at}").dblclick()
    link = dialog.get_by_role("link", name="watch run-")
    run = (await link.inner_text()).removeprefix("watch ")
    assert [verb for verb, _ in sent] == ["forks"]
    [request] = [one for one in world.starter.requests if one.run_id == run]
    assert (request.forked_from, request.forked_at) == (recording.run_id, at)
    assert (request.task, request.coders, set(request.models.values())) == ("make it shorter", 5, {"minimal"})
    await link.click()
    await expect(page).to_have_url(f"{world.url}/runs/{run}")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_a_run_is_started_from_the_list_by_keyboard_alone(page: Page, world: World, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "shop", {"shop.py": "print(1)\n"})
    sent = sent_by(page)
    await bar(page).get_by_role("button", name="Start a run").focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("Task")).to_be_focused()
    await page.keyboard.type("tidy [up]")
    for text in (str(tmp_path / "shop"), "true\nfalse\n", "bundled"):
        await page.keyboard.press("Tab")
        await page.keyboard.insert_text(text)
    await expect(dialog.get_by_role("button", name=f"Start a run on {tmp_path / 'shop'}")).to_be_visible()
    await page.keyboard.press("Enter")
    link = dialog.get_by_role("link", name="watch run-")
    run = (await link.inner_text()).removeprefix("watch ")
    assert [verb for verb, _ in sent] == ["runs"]
    [request] = [one for one in world.starter.requests if one.run_id == run]
    assert (request.task, Path(request.repo)) == ("tidy [up]", tmp_path / "shop")
    assert (request.checks, request.coders, set(request.models.values())) == (("true", "false"), 2, {"bundled"})
    assert repository.run("status", "--porcelain").strip() == b""


async def test_a_refusal_is_shown_with_its_remedy_and_the_next_try_may_succeed(
    page: Page, world: World, history: History, tmp_path: Path
) -> None:
    dialog = await begin(page, "Start a run")
    await dialog.get_by_label("Task").fill("tidy")
    await dialog.get_by_label("Repository on the server").fill(str(tmp_path / "none"))
    await dialog.get_by_role("button", name="Start a run on").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("The request is not valid")
    await expect(dialog.get_by_role("alert")).to_contain_text("run `git init` there")
    make_repository(tmp_path / "none", {"a": "a\n"})
    await dialog.get_by_role("button", name="Start a run on").click()
    await expect(dialog.get_by_role("link", name="watch run-")).to_be_visible()

    await opened(page, history.run)
    dialog = await begin(page, "Fork from here")
    await dialog.get_by_role("button", name="Start a new run").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("The run cannot be forked there")
    await expect(dialog.get_by_role("alert")).to_contain_text(f"`enchanted events {history.run}` lists")

    await opened(page, history.run, changes(history)[4].seq)
    dialog = await begin(page, "Undo this change")
    await expect(dialog.get_by_role("alert")).to_contain_text("nothing of this change is left")
    await expect(dialog.get_by_role("button", name="Undo change")).to_have_count(0)

    await opened(page, history.run, changes(history)[0].seq)
    base = bar(page).get_by_role("button", name="Undo this change", disabled=True)
    await expect(base).to_have_attribute("title", "This change says that it cannot be reversed; fork or restore a "
                                         "moment before it.")  # fmt: skip


async def test_later_work_in_the_same_place_is_named_as_a_conflict(page: Page, world: World) -> None:
    history = await scripted(world, "run-conflict")
    rollback = changes(history)[-1]
    edit = next(one for one in changes(history) if one.event.state_change.files[0].path == "dos.txt")
    answer = await world.http.post(f"/api/v1/runs/{history.run}/undos", json={"event_id": rollback.event.event_id})
    assert answer.status_code == 200, answer.text
    await opened(page, history.run, edit.seq)
    dialog = await begin(page, "Undo this change")
    await expect(dialog.get_by_role("alert")).to_contain_text("undo that first")
    await expect(dialog.get_by_role("listitem")).to_have_text(["dos.txt"])


async def test_escape_acts_nothing_and_gives_the_focus_back(page: Page, world: World, history: History) -> None:
    at = change_of(history, "data.bin").seq
    await opened(page, history.run, at)
    sent = sent_by(page)
    for act in ("Fork from here", "Restore these files", "Undo this change"):
        button = bar(page).get_by_role("button", name=act, disabled=False)
        await button.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        for _ in range(8):
            await page.keyboard.press("Tab")
            assert await page.evaluate(
                "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
            )
        await page.get_by_role("dialog").get_by_role("button", name="Close").focus()
        await page.keyboard.press("Home")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await expect(button).to_be_focused()
        await expect(page.locator(".place")).to_have_attribute("data-seq", str(at))
    assert [(verb, body["dry_run"]) for verb, body in sent] == [("undos", True)]
    assert (await world.document(f"runs/{history.run}"))["events"] == len(history.events)
