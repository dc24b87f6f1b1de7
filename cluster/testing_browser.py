"""For tests: Debian's Chromium, and a page in it that keeps account of everything it should not do."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from enchanted.cluster.errors import ClusterError

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
