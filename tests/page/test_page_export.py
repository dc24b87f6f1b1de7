"""A run as one HTML file: from the disk, without script and without network, it shows the run and runs nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from enchanted.actors.rerun.recording import Recording
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.cli import execute
from enchanted.cluster.testing_browser import barriers, opened
from enchanted.schemas.events import decision, kind_of, model_call, run_transition, state_change, tool_call
from enchanted.schemas.gen.events_pb2 import FileChange
from enchanted.serve.testing import History, World

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</pre></details><script>document.title='owned'</script>",
    "\"><svg onload=\"document.title='owned'\"> ' onmouseover='document.title=1",
    "</title></style><style>*{display:none}</style><base href='http://192.0.2.1/'>",
    "&lt;b&gt; \x1b[31mred\x1b[0m \u202etxt.exe\u202c \u0000 <!-- ",
    "x" * 300_000,
)


async def saved(world: World, run: str, folder: Path) -> Path:
    """The file as the command line writes it."""
    file = folder / "run.html"
    access = ["--url", world.url, "--token-file", str(world.token_file)]
    assert await asyncio.to_thread(execute, ["export", run, "--html", str(file), *access]) == 0
    return file


@contextlib.asynccontextmanager
async def from_disk(running: Browser, file: Path, *, script: bool = True) -> AsyncIterator[Page]:
    """The file in a browser; that it asked for anything else, or broke its own policy, fails the test."""
    context = await running.new_context(java_script_enabled=script, offline=True)
    page = await context.new_page()
    asked: list[str] = []
    wrongs: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: wrongs.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: wrongs.append(str(error)))
    try:
        await page.goto(file.as_uri())
        yield page
        assert (asked, wrongs) == ([file.as_uri()], [])
    finally:
        await context.close()


async def test_it_shows_the_whole_run_without_script_or_network(
    chromium_browser: Browser, world: World, recording: Recording, tmp_path: Path
) -> None:
    file = await saved(world, recording.run_id, tmp_path)
    decided = next(one.event for one in recording.events if one.event.decision.rejected_alternatives)
    edited = [one.event for one in recording.events if one.event.state_change.reason == "merge"]
    async with from_disk(chromium_browser, file, script=False) as page:
        await expect(page.locator("h1")).to_have_text("make the checks pass")
        await expect(page.locator(".state")).to_have_text("merged")
        assert await page.locator("article").count() == len(recording.events)
        article = page.locator(f"[id='e-{decided.event_id}']")
        await expect(article).to_contain_text(decided.decision.rationale)
        await expect(article).to_contain_text("confidence of 49%")
        await expect(article.locator("li")).to_have_text(list(decided.decision.rejected_alternatives))
        await expect(page.locator(f"[id='e-{edited[-1].event_id}'] pre ins").first).to_be_visible()
        state = await world.document(f"runs/{recording.run_id}/state")
        files = state["workspaces"]["main"]["files"]
        await expect(page.locator(".file bdi")).to_have_text([one["path"] for one in files])
        path = edited[-1].state_change.files[0].path
        content = (await world.document(f"runs/{recording.run_id}/state", path=path))["content"]
        # By key: what is above is laid out as it is scrolled past, and a mouse would miss what moves.
        await page.locator(f".file summary:has(bdi:text-is('{path}'))").press("Enter")
        shown = page.locator("details[open].file pre")
        assert await shown.text_content() == content
        await expect(page.locator("#proof .good")).to_contain_text("none is missing")
        heads = {one.event.agent_id for one in recording.events}
        assert await page.locator("#proof tbody tr").count() == len(heads)


async def test_kinds_are_hidden_and_causes_are_followed_without_script(
    chromium_browser: Browser, world: World, recording: Recording, tmp_path: Path
) -> None:
    file = await saved(world, recording.run_id, tmp_path)
    tools = sum(kind_of(one.event) == "tool_call" for one in recording.events)
    async with from_disk(chromium_browser, file, script=False) as page:
        await expect(page.locator(".system_signal").first).to_be_hidden()
        assert await page.locator(".tool_call").count() == tools
        await expect(page.locator(".tool_call").first).to_be_visible()
        await page.get_by_label("tools").uncheck()
        await expect(page.locator(".tool_call").first).to_be_hidden()
        await page.get_by_role("link", name="cause").first.click()
        await expect(page.locator("article:target")).to_have_count(1)


async def hostile(world: World) -> int:
    log = AgentLog(world.bus, run_id="run-<b>", role="coder", agent_name=HOSTILE[0])
    events = [
        run_transition(
            subject="run", from_state="", to_state="created", reason=HOSTILE[1], details={"task": HOSTILE[3]}
        )
    ]
    call = {"messages": "[]", "parameters": {}, "finish_reason": "stop"}
    for at, text in enumerate(HOSTILE):
        made = FileChange(path=f"{at}/{text[:200]}", new_mode="100644", new_blob=f"{at}" * 64, size=3)
        tree = {"previous_tree": "0" * 64, "new_tree": "1" * 64, "patch": f"+{text}\n-{text}\n@@ {text}\n"}
        events += [
            decision(context_hash="c", trigger=text[:100], rationale=text, action={"choice": text}, rejected=[text]),
            tool_call(tool=text[:50], arguments={"a": text}, outcome="FAILED", output=text, reason=text),
            model_call(model=text[:50], completion=text, error=text, **call),
            state_change(workspace_id="main", files=[made], reason="edit", resource=text[:200], **tree),
        ]
    events[-1].task_id = HOSTILE[2]
    stored = await log.emit(*events)
    await world.stored("run-<b>", len(stored))
    return len(stored)


@pytest.mark.parametrize("script", [True, False])
async def test_what_a_hostile_run_says_stays_text(
    chromium_browser: Browser, world: World, tmp_path: Path, script: bool
) -> None:
    count = await hostile(world) if script else None
    file = await saved(world, "run-<b>", tmp_path)
    assert b"\x1b" not in file.read_bytes()
    assert b"\0" not in file.read_bytes()
    async with from_disk(chromium_browser, file, script=script) as page:
        articles = page.locator("article")
        assert await articles.count() >= 25
        assert count is None or await articles.count() == count
        await expect(articles.first).to_be_visible()
        await expect(page.locator("h1")).to_have_text(HOSTILE[3])
        for text in HOSTILE[:4]:
            await expect(page.locator(".rejected li").filter(has_text=text)).to_have_count(1)
            await expect(page.locator(".decision .sentence").filter(has_text=text)).to_have_count(1)
        assert await page.locator("img, script, svg, base, iframe, [onload], [onmouseover], [onerror]").count() == 0
        assert await page.locator("style").count() == 1
        await expect(page.locator("#files")).to_contain_text("Their contents are not here")
        assert "owned" not in (await page.title()).replace(HOSTILE[3], "")
        await page.mouse.move(300, 300)


async def test_no_serious_barrier_is_in_it(
    chromium_browser: Browser, world: World, recording: Recording, tmp_path: Path
) -> None:
    file = await saved(world, recording.run_id, tmp_path)
    for colours in ("dark", "light"):
        context = await chromium_browser.new_context(color_scheme="dark" if colours == "dark" else "light")
        page = await context.new_page()
        await page.goto(file.as_uri())
        assert await barriers(page) == []
        await context.close()


async def test_the_page_saves_the_same_file(page: Page, world: World, history: History, tmp_path: Path) -> None:
    await opened(page, history.run)
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Save as HTML").click()
    found = await download.value
    assert found.suggested_filename == f"{history.run}.html"
    file = await saved(world, history.run, tmp_path)
    await found.save_as(tmp_path / "saved.html")
    assert (tmp_path / "saved.html").read_bytes() == file.read_bytes()
