"""Mission Control on the real thing: a run watched from its start to its verdict, and every act done to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from enchanted.actors.repository.git import Git
from enchanted.actors.testing import make_repository
from enchanted.cluster.testing import HomeUnderTest, kill
from enchanted.cluster.testing_browser import (
    Watched,
    act_dialog,
    browser,
    cursor,
    files_shown,
    opened,
    sequences_shown,
    settled,
    watched,
)

pytestmark = pytest.mark.timeout(300)

FILES: dict[str, str | bytes] = {
    "shop.py": "import os\nimport sys\n\nprint(1)\n",
    "old.py": "import re\n\nprint(2)\n",
    "cart.py": "import json\nimport shutil\n\n\ndef total(cart):\n    unused = 1\n    return sum(cart)\n",
}
TASK = "make the linter pass"
VERDICT = 200_000
"""Milliseconds until a run has one."""
# What a person could have seen, whenever it changed.
GLANCES = """
() => {
  window.glances = [];
  const text = (what) => document.querySelector(what)?.textContent.trim() ?? "";
  const glance = () => {
    const one = {
      live: text(".run-marks .pill"), state: text(".run-marks .badge"), place: text(".place"),
      files: document.querySelectorAll(".file-path").length,
    };
    if (JSON.stringify(one) !== JSON.stringify(window.glances.at(-1))) window.glances.push(one);
  };
  new MutationObserver(glance).observe(document, { subtree: true, childList: true, characterData: true });
}
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run that was watched, what was seen of it, and what the command line says when it is over."""

    run: str
    repo: Path
    glances: Sequence[dict[str, Any]]
    wrongs: Sequence[str]
    log: Sequence[dict[str, Any]]
    info: dict[str, Any]

    @property
    def branch(self) -> str:
        return f"enchanted/{self.run}"

    @property
    def git(self) -> Git:
        return Git(cwd=self.repo)

    def main_changes(self) -> list[dict[str, Any]]:
        return [one for one in self.log if one["kind"] == "state_change" and one["workspace_id"] == "main"]


async def said(home: HomeUnderTest, *arguments: str) -> str:
    """What a command prints; it must end well."""
    done = await asyncio.to_thread(home.run, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def events_of(home: HomeUnderTest, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await said(home, "events", run, "--output", "ndjson")).splitlines()]


@pytest.fixture(scope="module")
async def chromium_browser() -> AsyncIterator[Browser]:
    async with browser() as running:
        yield running


@contextlib.asynccontextmanager
async def entered(running: Browser, home: HomeUnderTest, run: str = "") -> AsyncIterator[Watched]:
    """The page, by the link that the command line prints; nothing may go wrong in it."""
    link = (await said(home, "open", *([run] if run else []))).strip()
    origin = link.split("/runs/")[0].split("/#")[0]
    async with watched(running, origin) as found:
        await found.page.goto(link)
        await expect(found.page.get_by_role("button", name="Sign out")).to_be_visible()
        yield found


def state(page: Page) -> Locator:
    return page.locator(".run-marks .badge").first


async def holds_all(page: Page, home: HomeUnderTest, run: str) -> list[dict[str, Any]]:
    """Wait until the run is quiet and the page has what the command line tells of it; gives that."""
    while True:
        log = await events_of(home, run)
        # The orchestrator's last sign of life comes after its verdict.
        if log[-1].get("system_signal", {}).get("status") == "STOPPING":
            break
        await asyncio.sleep(0.2)
    await expect(page.locator(".place")).to_contain_text(f"event {len(log)} of {len(log)} ")
    return log


@pytest.fixture(scope="module")
async def seen(swarm: HomeUnderTest, chromium_browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A run that is started in the page and watched there until it is over."""
    repo = tmp_path_factory.mktemp("watched") / "shop"
    make_repository(repo, FILES)
    async with entered(chromium_browser, swarm) as found:
        page = found.page
        dialog = await act_dialog(page, "Start a run")
        await dialog.get_by_label("Task").fill(TASK)
        await dialog.get_by_label("Repository on the server").fill(str(repo))
        await dialog.get_by_label("Checks").fill("ruff check .")
        await dialog.get_by_role("button", name="Start a run on").click()
        link = dialog.get_by_role("link", name="watch run-")
        run = (await link.inner_text(timeout=60_000)).removeprefix("watch ")
        await page.evaluate(GLANCES)
        await link.click()
        await expect(state(page)).to_contain_text("merged", timeout=VERDICT)
        await expect(page.get_by_text("chain verified")).to_be_visible()
        log = await holds_all(page, swarm, run)
        await settled(page)
        glances = await page.evaluate("window.glances")
    info = json.loads(await said(swarm, "run-info", run, "--json"))
    return Seen(run=run, repo=repo, glances=glances, wrongs=found.wrongs, log=log, info=info)


async def test_a_real_run_is_watched_live_from_its_start_to_its_verdict(seen: Seen) -> None:
    assert seen.wrongs == []
    lives, states = [one["live"] for one in seen.glances], [one["state"] for one in seen.glances]
    assert "Live" in lives
    assert lives[-1] == "At the end"
    assert any("●" in one for one in states), "it was seen at work"
    assert states[-1].endswith("merged")
    counts = [int(one["place"].split(" of ")[1].split(" ")[0]) for one in seen.glances if one["place"]]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5, "it grew before one's eyes"
    files = [one["files"] for one in seen.glances]
    assert (files[0], files[-1]) == (0, len(FILES))
    assert counts[-1] == len(seen.log) == seen.info["events"]
    assert (seen.info["state"], seen.git.run("branch", "--list", "--format=%(refname:short)", "enchanted/*")) == (
        "merged", f"{seen.branch}\n".encode(),
    )  # fmt: skip


async def test_every_tenth_moment_shows_the_files_that_the_command_line_tells_of(
    swarm: HomeUnderTest, chromium_browser: Browser, seen: Seen
) -> None:
    trees = set()
    async with entered(chromium_browser, swarm, seen.run) as found:
        page = found.page
        await expect(page.locator(".log-row").first).to_be_visible()
        await page.keyboard.press("Home")
        for moment in seen.log[::10]:
            assert await cursor(page) == moment["seq"]
            await settled(page)
            told = json.loads(await said(swarm, "state", seen.run, "--at", str(moment["seq"]), "--json"))
            files = told["workspaces"].get("main", {"files": []})["files"]
            shown = await files_shown(page)
            assert shown == sorted((one["path"], one["blob"]) for one in files)
            trees.add(tuple(shown))
            await page.keyboard.press("PageDown")
        assert found.wrongs == []
    assert len(trees) > 2, "the run's files changed"


async def test_a_moment_is_restored_into_a_folder_and_put_back(
    swarm: HomeUnderTest, chromium_browser: Browser, seen: Seen, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    before, after = seen.main_changes()[0]["seq"], seen.main_changes()[-1]["seq"]
    async with entered(chromium_browser, swarm, seen.run) as found:
        for at, commit in ((before, "main"), (after, seen.branch)):
            await opened(found.page, seen.run, at)
            dialog = await act_dialog(found.page, "Restore these files")
            await dialog.get_by_label("Folder on the server").fill(str(into))
            await dialog.get_by_role("button", name="Show what it would do").click()
            await dialog.get_by_role("button", name=f"in {into}").click()
            await expect(dialog.get_by_role("status").filter(has_text=f"sequence {at}")).to_be_visible()
            for name in FILES:
                assert (into / name).read_bytes() == seen.git.run("show", f"{commit}:{name}")
        assert found.wrongs == []
    await said(swarm, "restore", "--back", "--into", str(into), "--yes")
    assert {name: (into / name).read_text() for name in FILES} == FILES


async def test_a_moment_is_restored_onto_a_branch_once_and_the_working_tree_stays(
    swarm: HomeUnderTest, chromium_browser: Browser, seen: Seen
) -> None:
    git, at = seen.git, seen.main_changes()[-1]["seq"]
    tree, head = git.run("rev-parse", f"{seen.branch}^{{tree}}"), git.run("rev-parse", "HEAD")
    async with entered(chromium_browser, swarm, seen.run) as found:
        await opened(found.page, seen.run, at)
        dialog = await act_dialog(found.page, "Restore these files")
        await dialog.get_by_text("onto a branch").click()
        await dialog.get_by_label("New branch").fill("as-it-was")
        await dialog.get_by_role("button", name="Show what it would do").click()
        act = dialog.get_by_role("button", name=f"Make branch as-it-was in {seen.repo}")
        await expect(dialog.get_by_role("listitem")).to_have_text(sorted(FILES))
        assert git.run("branch", "--list", "as-it-was") == b"", "a preview makes no branch"
        await act.click()
        await expect(dialog.get_by_role("status").filter(has_text="git switch as-it-was")).to_be_visible()
        assert git.run("rev-parse", "as-it-was^{tree}") == tree
        assert (git.run("rev-parse", "as-it-was^"), git.run("rev-parse", "HEAD")) == (head, head)
        assert git.run("status", "--porcelain") == b""
        assert found.wrongs == []
    made = git.run("for-each-ref")
    preview = await asyncio.to_thread(swarm.run, "restore", seen.run, "--at", str(at), "--branch", "by-command")
    assert (preview.returncode, "one commit on branch by-command" in preview.stderr) == (2, True), preview.stderr
    assert git.run("for-each-ref") == made


async def test_a_branch_that_cannot_be_made_is_refused_by_its_preview(
    swarm: HomeUnderTest, chromium_browser: Browser, seen: Seen
) -> None:
    git, at = seen.git, seen.main_changes()[0]["seq"]
    before = git.run("for-each-ref")
    async with entered(chromium_browser, swarm, seen.run) as found:
        await opened(found.page, seen.run, at)
        dialog = await act_dialog(found.page, "Restore these files")
        await dialog.get_by_text("onto a branch").click()
        for name, words in (("main", "exists with other content"), ("no..such", "is no name for a branch")):
            await dialog.get_by_label("New branch").fill(name)
            await dialog.get_by_role("button", name="Show what it would do").click()
            await expect(dialog.get_by_role("alert")).to_contain_text(words)
            await expect(dialog.get_by_role("button", name="Make branch")).to_have_count(0)
        assert [wrong for wrong in found.wrongs if "status of 409" not in wrong] == []
    assert git.run("for-each-ref") == before


async def test_a_fork_made_in_the_page_is_watched_to_its_own_verdict(
    swarm: HomeUnderTest, chromium_browser: Browser, seen: Seen
) -> None:
    at = next(one["seq"] for one in seen.log if one.get("run_transition", {}).get("to_state") == "working")
    async with entered(chromium_browser, swarm, seen.run) as found:
        page = found.page
        await opened(page, seen.run, at)
        dialog = await act_dialog(page, "Fork from here")
        await dialog.get_by_label("Coders").fill("1")
        await dialog.get_by_role("button", name=f"Start a new run from sequence {at}").click()
        link = dialog.get_by_role("link", name="watch run-")
        forked = (await link.inner_text(timeout=60_000)).removeprefix("watch ")
        await link.click()
        await expect(state(page)).to_contain_text("merged", timeout=VERDICT)
        await holds_all(page, swarm, forked)
        await page.get_by_role("link", name="Compare with its parent").click()
        await expect(page.locator(".parting-lead")).to_be_visible()
        assert found.wrongs == []
    info = json.loads(await said(swarm, "run-info", forked, "--json"))
    assert (info["request"]["forked_from"], info["request"]["forked_at"]) == (seen.run, at)
    assert (info["request"]["coders"], info["state"]) == (1, "merged")
    tree = seen.git.run("rev-parse", f"{seen.branch}^{{tree}}")
    assert seen.git.run("rev-parse", f"enchanted/{forked}^{{tree}}") == tree
    assert (await said(swarm, "verify", forked)).count("intact") == 1


async def test_a_change_undone_in_the_page_is_gone_from_state_and_branch_and_the_log_still_verifies(
    swarm: HomeUnderTest, chromium_browser: Browser, seen: Seen
) -> None:
    git, change = seen.git, seen.main_changes()[-1]
    before = git.run("rev-parse", seen.branch)
    async with entered(chromium_browser, swarm, seen.run) as found:
        page = found.page
        await opened(page, seen.run, change["seq"])
        dialog = await act_dialog(page, "Undo this change")
        name = await dialog.get_by_role("listitem").inner_text()
        await dialog.get_by_role("button", name=f"Undo change {change['seq']}").click()
        await dialog.get_by_role("link", name="change ").click()
        await expect(page.locator(".place")).to_contain_text(f"of {len(seen.log) + 1} ")
        undone = await cursor(page)
        await settled(page)
        shown = await files_shown(page)
        await expect(page.get_by_text("chain verified")).to_be_visible()
        assert found.wrongs == []
    assert git.run("rev-parse", f"{seen.branch}^") == before
    assert git.run("show", f"{seen.branch}:{name}").startswith(b"import")
    told = json.loads(await said(swarm, "state", seen.run, "--json"))["workspaces"]["main"]
    assert shown == sorted((one["path"], one["blob"]) for one in told["files"])
    assert told["tree"] == change["state_change"]["previous_state_hash"]
    last = (await events_of(swarm, seen.run))[-1]
    assert (last["seq"], last["state_change"]["reason"], last["parent_event_id"]) == (
        undone,
        "undo",
        change["event_id"],
    )
    assert "intact, complete" in await said(swarm, "verify", seen.run)


async def test_a_run_is_watched_on_to_its_verdict_though_the_api_is_killed_meanwhile(
    swarm: HomeUnderTest, chromium_browser: Browser, tmp_path: Path
) -> None:
    more: dict[str, str | bytes] = {f"part_{number}.py": FILES["shop.py"] for number in range(6)}
    make_repository(tmp_path / "shop", FILES | more)
    asked = ("run", TASK, "--repo", str(tmp_path / "shop"), "--check", "ruff check .", "--coders", "1", "--detach")
    run = (await said(swarm, *asked)).strip()
    async with entered(chromium_browser, swarm, run) as found:
        page = found.page
        await expect(page.locator(".pill-open")).to_have_text("Live")
        killed = swarm.replica().pid
        kill(killed)
        await expect(page.locator(".pill-broken")).to_have_text("Reconnecting")
        await expect(page.locator(".pill-open").or_(page.get_by_text("At the end"))).to_be_visible(timeout=60_000)
        await expect(state(page)).to_contain_text("merged", timeout=VERDICT)
        log = await holds_all(page, swarm, run)
        assert await sequences_shown(page) == [one["seq"] for one in log]
        assert swarm.replica().pid != killed
        # The browser itself notes each answer that did not come.
        assert [wrong for wrong in found.wrongs if "net::ERR_" not in wrong and "status of 5" not in wrong] == []
