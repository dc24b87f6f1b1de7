"""Is Mission Control fast where runs are long and busy? In a real browser, on real services.

``ENCHANTED_BENCH_SECONDS`` sets for how long events are offered to it live.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx

from enchanted.benchmarks.browsing import Frames, begin_frames, heap, idle_frames, looking_at, noted_frames, scrubbed
from enchanted.benchmarks.case import Benchmark, Budget, Result, Row, Unavailable, told
from enchanted.benchmarks.figures import percentile
from enchanted.benchmarks.listeners import TOKEN
from enchanted.benchmarks.players import player
from enchanted.benchmarks.rig import Plane, plane
from enchanted.benchmarks.swarm import Pace, swarm_run
from enchanted.bus.connection import Bus
from enchanted.bus.testing import free_port
from enchanted.cluster.errors import ClusterError
from enchanted.serve.pages import static_files

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

QUESTION = "is the page at hand, smooth and bounded in a run of very many events, and in one that makes them now?"
LONG, LIVE = "run-long", "run-live"
STUCK = 120.0
"""Seconds after which events that the page does not show are given up."""
IDLE = "a page at rest: frames"
NOTES = (
    "Chromium without a screen or a graphics card draws on the same cores that run nats-server, store, ingest worker, "
    "API (a uvicorn without Ray Serve) and publisher; a page at rest, which only asks for a token, is the floor of "
    "every frame rate",
    "opening: after one seek to the end, from the navigation, in a profile that has seen nothing yet, until log rows "
    "and timeline are drawn, and until every event is there",
    "frames: from the intervals of requestAnimationFrame while each frame drags the slider to another place, or "
    "while events come; p95 is the interval that 95 % of them do not exceed",
    "live: the page follows the end, and must show every event at last, or the benchmark fails",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    events: int
    repeats: int
    scrub: float
    """Seconds."""
    rate: int
    """Events/s, live."""
    live: float
    """Seconds."""


FULL = Scale(events=50_000, repeats=5, scrub=6.0, rate=1_000, live=60.0)
SMOKE = Scale(events=3_000, repeats=1, scrub=1.0, rate=500, live=3.0)


async def run(smoke: bool) -> Result:
    """A long run that has ended, then one that happens."""
    scale = SMOKE if smoke else replace(FULL, live=float(os.environ.get("ENCHANTED_BENCH_SECONDS", FULL.live)))
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(_browser())
        servers = await stack.enter_async_context(plane())
        origin = await _serving(stack, servers)
        idle = await idle_frames(running, origin, 2.0)
        rows = [_bundle(), Row(name=IDLE, unit="frames/s", samples=idle.rates)]
        await _ingested(servers, scale)
        await _sought(origin)
        rows += await _long(running, origin, scale)
        for row in rows:
            told(f"{row.name}: {row.median:.1f} {row.unit}")
        rows += await _live(running, servers, origin, scale)
    load = f"load average {os.getloadavg()[0]:.1f} at the end"
    return Result(benchmark="ui", question=QUESTION, rows=tuple(rows), notes=(*NOTES, load), smoke=smoke)


def _browser() -> AbstractAsyncContextManager[Browser]:
    try:
        from enchanted.cluster.testing_browser import browser, chromium

        chromium()
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"{error.name} drives the browser; install it with: pip install 'enchanted-swarm[dev]'"
        ) from error
    except ClusterError as error:
        raise Unavailable(str(error)) from error
    return browser()


async def _serving(stack: AsyncExitStack, servers: Plane) -> str:
    """An ingest worker and the API, for as long as the stack is there; the API's address."""
    port = free_port()
    worker = await stack.enter_async_context(player("work", servers.nats.url, servers.store.url, 10_000, 1.0))
    api = await stack.enter_async_context(player("api", servers.nats.url, port, servers.store.url, module="listeners"))
    for one in (worker, api):
        one.begin()
    return f"http://127.0.0.1:{port}"


async def _ingested(servers: Plane, scale: Scale) -> None:
    told(f"making a run of {scale.events} events")
    pace = Pace(begun=datetime.now(UTC) - timedelta(hours=6), mean=0.3, waits=0.0005)
    messages = await asyncio.to_thread(swarm_run, LONG, scale.events, pace, closed=True)
    async with Bus.connect(servers.nats.url) as bus:
        await bus.publisher.publish_many(messages)
    await servers.until(len(messages))


async def _sought(origin: str) -> None:
    """The first to ask for a state waits until checkpoints are made; `timemachine` tells how long."""
    told("the first seek to the end")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=origin, headers=headers, timeout=STUCK) as http:
        (await http.get(f"/api/v1/runs/{LONG}/state")).raise_for_status()


def _bundle() -> Row:
    size = sum(len(one.zipped) for one in static_files().values())
    return Row(name="the built page, gzip", unit="KiB", samples=[size / 1_024], budget=Budget(limit=260))


async def _long(running: Browser, origin: str, scale: Scale) -> list[Row]:
    first, every, loaded, after = list[float](), list[float](), list[float](), list[float]()
    frames = list[Frames]()
    for number in range(scale.repeats):
        told(f"opening and scrubbing {number + 1}/{scale.repeats}")
        async with looking_at(running, origin, TOKEN, scale.events) as page:
            await page.goto(f"/runs/{LONG}")
            await _all_shown(page, scale.events)
            first.append(await page.evaluate("bench.first"))
            every.append(await page.evaluate("bench.all"))
            await page.get_by_text("chain verified").wait_for(timeout=STUCK * 1_000)
            loaded.append(await heap(page))
            frames.append(await scrubbed(page, scale.scrub))
            after.append(await heap(page))
    held = f"heap, {scale.events} events"
    places = [one.places / one.seconds for one in frames]
    return [
        Row(name="first useful frame", unit="ms", samples=first, budget=Budget(limit=2_000)),
        Row(name=f"all {scale.events} events", unit="ms", samples=every),
        *_frame_rows("scrub", frames),
        Row(name="scrub, places shown", unit="places/s", samples=places),
        Row(name=held, unit="MiB", samples=loaded, budget=Budget(limit=128)),
        Row(
            name="heap after scrubbing", unit="MiB", samples=after, floor=held, budget=Budget(limit=1.25, of_ratio=True)
        ),
    ]


async def _live(running: Browser, servers: Plane, origin: str, scale: Scale) -> list[Row]:
    count = int(scale.rate * scale.live)
    told(f"{count} events, {scale.rate}/s")
    arguments = ("offer", servers.nats.url, LIVE, count, scale.rate)
    before = await servers.rows()
    async with (
        player(*arguments, module="swarm") as offering,
        looking_at(running, origin, TOKEN, count + 1) as page,
    ):
        await _opened_before(servers, before)
        await page.goto(f"/runs/{LIVE}")
        await page.locator(".pill-open").wait_for()
        await begin_frames(page)
        offering.begin()
        async with asyncio.timeout(scale.live + STUCK):
            published = await offering.found()
        frames = await noted_frames(page)
        await _all_shown(page, count + 1)
        behind = time.perf_counter() - max(at for _, at, _ in published)
        held = await heap(page)
    handed = [at for _, _, at in published]
    name = f"live, {scale.rate}/s"
    return [
        Row(name=f"{name}: offered", unit="events/s", samples=[(count - 1) / (max(handed) - min(handed))]),
        *_frame_rows(name, [frames]),
        Row(name=f"{name}: last event shown after it was stored", unit="s", samples=[behind]),
        Row(name=f"{name}: heap, {count} events", unit="MiB", samples=[held], budget=Budget(limit=128)),
    ]


async def _opened_before(servers: Plane, before: int) -> None:
    """One event of the run is there, so that there is a run to look at."""
    pace = Pace(begun=datetime.now(UTC), mean=0.001)
    async with Bus.connect(servers.nats.url) as bus:
        await bus.publisher.publish_many(swarm_run(LIVE, 2, pace, closed=False, seed=2)[:1])
    await servers.until(before + 1)


async def _all_shown(page: Page, count: int) -> None:
    await page.locator(".place", has_text=f"of {count:,} ").wait_for(timeout=STUCK * 1_000)


def _frame_rows(name: str, found: list[Frames]) -> list[Row]:
    intervals = [percentile(one.intervals, 0.95) for one in found]
    return [
        Row(
            name=f"{name}: frames", unit="frames/s", samples=[rate for one in found for rate in one.rates], floor=IDLE,
            budget=Budget(limit=30, least=True),
        ),
        Row(name=f"{name}: interval of frames, p95", unit="ms", samples=intervals),
        Row(name=f"{name}: longest interval", unit="ms", samples=[max(one.intervals) for one in found]),
    ]  # fmt: skip


BENCHMARK = Benchmark(name="ui", question=QUESTION, run=run)
