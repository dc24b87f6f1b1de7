"""For tests: Debian's Chromium, and a page in it that keeps account of everything it should not do."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from enchanted.cluster.errors import ClusterError
from enchanted.cluster.testing_world import TOKEN

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""No sandbox, since tests run as root in containers; the rest keeps the browser from asking anybody else."""
PATIENCE = 60_000
"""Milliseconds that the page may take to show what is expected of it, on a machine that does much else."""
_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


class ChromiumMissing(ClusterError):
    """The page cannot be tested without a browser."""

    def __init__(self) -> None:
        super().__init__(
            "no Chromium is installed, and the page is tested in one",
            "`apt-get install -y --no-install-recommends chromium` installs it; ENCHANTED_CHROMIUM may name one",
        )


def chromium() -> Path:
    """The browser to use.

    Raises:
        ChromiumMissing: there is none.
    """
    names = [os.environ["ENCHANTED_CHROMIUM"]] if "ENCHANTED_CHROMIUM" in os.environ else NAMES
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    raise ChromiumMissing


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser with a profile of its own, which goes with the block."""
    executable = chromium()
    expect.set_options(timeout=PATIENCE)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=executable, args=list(QUIET))
        try:
            yield running
        finally:
            await running.close()


@dataclass(frozen=True)
class Watched:
    """A page, and what went wrong in it."""

    page: Page
    wrongs: list[str] = field(default_factory=list)
    """Errors on the console, refusals by the content policy, requests to anybody but the origin."""


@contextlib.asynccontextmanager
async def watched(running: Browser, origin: str, *, colours: str = "dark") -> AsyncIterator[Watched]:
    """A page for ``origin`` in a context of its own: no cookie, no storage, nothing kept."""
    context = await running.new_context(
        base_url=origin, color_scheme="light" if colours == "light" else "dark", viewport={"width": 1440, "height": 900}
    )
    await context.add_init_script(_VIOLATIONS)
    found = Watched(await context.new_page())
    found.page.on("console", lambda line: found.wrongs.append(line.text) if line.type == "error" else None)
    found.page.on("pageerror", lambda error: found.wrongs.append(str(error)))
    found.page.on(
        "request", lambda sent: None if sent.url.startswith(f"{origin}/") else found.wrongs.append(f"asked {sent.url}")
    )
    try:
        yield found
    finally:
        await context.close()


async def sign_in(page: Page, token: str = TOKEN) -> None:
    """Give the token that the page asks for."""
    await page.get_by_label("Token of this API").fill(token)
    await page.get_by_role("button", name="Open").click()


async def opened(page: Page, run: str, at: int | None = None) -> None:
    """The run's mission view, at a moment of it, with rows in its log."""
    await page.goto(f"/runs/{run}" + ("" if at is None else f"?at={at}"))
    await expect(page.locator(".log-row").first).to_be_visible()


async def cursor(page: Page) -> int:
    """The sequence that the mission view's cursor stands at."""
    return int(await page.locator(".place").get_attribute("data-seq") or 0)


async def settled(page: Page) -> None:
    """Wait until files and event of the cursor's moment are shown, and of no other."""
    seq = str(await cursor(page))
    for panel in (page.locator(".event"), page.locator(".files")):
        await expect(panel).to_have_attribute("data-seq", seq)
        await expect(panel).to_have_attribute("aria-busy", "false")


async def files_shown(page: Page) -> list[tuple[str, str]]:
    """Path and blob of each file that the mission view shows."""
    files = page.locator(".file-list .file")
    found: list[list[str]] = await files.evaluate_all(
        "all => all.map(one => [one.querySelector('.file-path').textContent, one.dataset.blob])"
    )
    return sorted((path, blob) for path, blob in found)


async def sequences_shown(page: Page) -> list[int]:
    """Every event the mission view holds, found by stepping through it."""
    await page.keyboard.press("End")
    last = await cursor(page)
    await page.keyboard.press("Home")
    found = [await cursor(page)]
    while found[-1] != last:
        await page.keyboard.press("ArrowRight")
        found.append(await cursor(page))
        assert found[-1] != found[-2], f"stuck at {found[-1]}"
    return found


def act_bar(page: Page) -> Locator:
    """The buttons of what changes something."""
    return page.get_by_role("region", name="Act", exact=True)


async def act_dialog(page: Page, act: str) -> Locator:
    """The dialog of an act, opened."""
    await act_bar(page).get_by_role("button", name=act, disabled=False).click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    return dialog


def region(page: Page, name: str) -> Locator:
    """The panel with this heading."""
    return page.get_by_role("region", name=name)


async def tabbed_to(page: Page, what: str, key: str = "Tab") -> None:
    """Move the focus as somebody without a mouse does."""
    for _ in range(30):
        await page.keyboard.press(key)
        if await page.evaluate("what => document.activeElement.matches(what)", what):
            return
    raise AssertionError(f"no {what} among the first thirty stops")


async def barriers(page: Page) -> list[str]:
    """What axe finds serious for people who see, hear or move differently."""
    found = await Axe().run(page)
    return [
        f"{one['id']}: {node['html']} {node['failureSummary']}"
        for one in found.response["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
