"""What is measured inside of Mission Control: frames, the first useful one, memory; and the hand on its slider."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

SWEEP = 90
"""Frames from one end of the slider to the other."""
MIB = 1 << 20
_KEY = "enchanted.token"
"""Where the page keeps its token."""
_PROBE = """
sessionStorage.setItem("%s", "%s");
const bench = (window.bench = { frames: null, first: 0, all: 0, places: 0, wanted: "%s" });
let useful = false, place = "";
requestAnimationFrame(function frame(now) {
  if (bench.frames) bench.frames.push(now);
  const line = document.querySelector(".place");
  if (line && line.dataset.seq !== place) {
    place = line.dataset.seq;
    bench.places += 1;
  }
  // What was in the document in one frame is on the screen in the next.
  if (useful && !bench.first) bench.first = performance.now();
  // A canvas that was never drawn on has the 150 pixels of every new canvas.
  useful ||= document.querySelector(".log-row") && (document.querySelector(".lanes canvas")?.height ?? 150) !== 150;
  if (line && !bench.all && line.textContent.includes(bench.wanted)) bench.all = performance.now();
  requestAnimationFrame(frame);
});
"""
# Chromium hands on one move of the mouse in a frame; a driver from outside is slower than that.
_DRAG = """
([milliseconds, sweep]) => new Promise((done) => {
  const lanes = document.querySelector(".lanes");
  const { left, width, top } = lanes.getBoundingClientRect();
  const until = performance.now() + milliseconds;
  let step = 0;
  requestAnimationFrame(function move(now) {
    const along = Math.abs(((step++ / sweep + 1) % 2) - 1);
    const init = { bubbles: true, buttons: 1, clientX: left + along * (width - 1), clientY: top + 1 };
    lanes.dispatchEvent(new PointerEvent("pointermove", init));
    now < until ? requestAnimationFrame(move) : done();
  });
})
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """What a browser drew in a while."""

    times: list[float]
    """Milliseconds, of each frame."""
    places: int
    """Frames in which the cursor was at another place than in the one before."""

    @property
    def intervals(self) -> list[float]:
        """Milliseconds between two frames."""
        return [after - before for before, after in itertools.pairwise(self.times)]

    @property
    def rates(self) -> list[float]:
        """The same as frames a second."""
        return [1_000 / max(one, 0.1) for one in self.intervals]

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.times[-1] - self.times[0]) / 1_000


@asynccontextmanager
async def looking_at(running: Browser, origin: str, token: str, wanted: int) -> AsyncIterator[Page]:
    """A page that is signed in and measured, in a profile that has seen nothing yet; ``wanted`` events are all.

    Raises:
        RuntimeError: something went wrong in the page.
    """
    from enchanted.cluster.testing_browser import watched  # not every machine has what it imports

    async with watched(running, origin) as found:
        await found.page.add_init_script(_PROBE % (_KEY, token, f"of {wanted:,} "))
        yield found.page
        # A store that is too slow for an answer is asked again; it shows in the figures.
        if wrongs := [wrong for wrong in found.wrongs if "status of 503" not in wrong]:
            raise RuntimeError(f"the page did what it should not: {wrongs[:3]}")


async def begin_frames(page: Page) -> None:
    """Note every frame from now on."""
    await page.evaluate("bench.frames = []; bench.places = 0")


async def noted_frames(page: Page) -> Frames:
    """What was noted; no more is."""
    times = await page.evaluate("bench.frames")
    places = await page.evaluate("bench.frames = null, bench.places")
    return Frames(times=times, places=places)


async def idle_frames(running: Browser, origin: str, seconds: float) -> Frames:
    """Frames of a page that has nothing to do: it asks for a token."""
    async with looking_at(running, origin, "", 0) as page:
        await page.goto("/")
        await begin_frames(page)
        await page.wait_for_timeout(seconds * 1_000)
        return await noted_frames(page)


async def scrubbed(page: Page, seconds: float) -> Frames:
    """Drag the slider's cursor to and fro, to another place in each frame."""
    await begin_frames(page)
    await page.evaluate(_DRAG, [seconds * 1_000, SWEEP])
    return await noted_frames(page)


async def heap(page: Page) -> float:
    """MiB that scripts hold, after what nobody holds was collected."""
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.collectGarbage")
    used = (await session.send("Runtime.getHeapUsage"))["usedSize"]
    await session.detach()
    return float(used) / MIB
