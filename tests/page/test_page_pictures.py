"""The five canonical states of Mission Control on the run that ships with Enchanted, as pictures for docs/.

``ENCHANTED_PICTURES=docs/images pytest tests/page/test_page_pictures.py`` writes them; else a scratch folder has them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from playwright.async_api import Browser, Page, expect

from enchanted.actors.rerun import file
from enchanted.actors.rerun.importing import import_recording
from enchanted.actors.rerun.recording import Recording
from enchanted.bus.batch import Outgoing
from enchanted.bus.subjects import event_subject
from enchanted.cluster.commands.importing import RECORDED
from enchanted.cluster.testing_browser import opened, settled, sign_in, watched
from enchanted.ingest.testing import export_of
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of
from enchanted.serve.testing import World, until

OTHER = "run-5b1e0c77a9d2"
"""A copy of the run in which a Coder chose what it turned down, and so changed nothing there."""
MOST_BYTES = 300 * 1024


@pytest.fixture(scope="module")
async def shipped(world: World) -> Recording:
    recording = await file.load(RECORDED)
    await import_recording(recording, world.bus)
    await world.stored(recording.run_id, len(recording.events))
    return recording


def choice_of(recording: Recording) -> StoredEvent:
    """A Coder's first decision that turned something down."""
    return next(
        one
        for one in recording.events
        if one.event.agent_name.startswith("coder") and one.event.decision.rejected_alternatives
    )


@pytest.fixture(scope="module")
async def other(world: World, shipped: Recording) -> str:
    parted, copies = choice_of(shipped), list[SwarmEvent]()
    for stored in shipped.events:
        copy = SwarmEvent()
        copy.CopyFrom(stored.event)
        copy.run_id, copy.event_id, copy.trace_id = OTHER, f"{OTHER}-{stored.seq}", copy.trace_id[::-1]
        if kind_of(copy) == "run_transition":
            copy.run_transition.reason = copy.run_transition.reason.replace(shipped.run_id, OTHER)
        if stored.seq == parted.seq:
            action = json.loads(copy.decision.action)
            choice = copy.decision.rejected_alternatives[0]
            copy.decision.rejected_alternatives[0] = action["choice"]
            copy.decision.rationale = "the linter offers this safe fix for F401"
            copy.decision.action = json.dumps({"choice": choice, "rationale": copy.decision.rationale})
        if stored.seq > parted.seq and kind_of(copy) == "state_change" and "orders.py" in str(copy.state_change.files):
            continue
        copies.append(copy)
    await world.bus.publisher.publish_many(
        [
            Outgoing(subject=event_subject(copy), payload=copy.SerializeToString(), event_id=copy.event_id)
            for copy in copies
        ]
    )
    await world.stored(OTHER, len(copies))
    return OTHER


def spans_of(recording: Recording) -> list[Span]:
    """What an exporter would have told: the recording has the ids, and what was said in each span."""
    said: dict[str, list[SwarmEvent]] = {}
    for event in (stored.event for stored in recording.events if kind_of(stored.event) != "system_signal"):
        said.setdefault(event.span_id, []).append(event)
    found = {span_id: _span(events) for span_id, events in said.items() if events[0].agent_name != "operator"}
    whole = next(span for span in found.values() if span.name == "invoke_workflow")
    agents = [span for span in found.values() if span.name.startswith("invoke_agent")]
    for span_id, span in found.items():
        if span is whole:
            continue
        own = f"invoke_agent {said[span_id][0].agent_name}"
        later = [one for one in agents if one is not span and one.name == own]
        around = [one for one in later if one.end_time_unix_nano >= span.end_time_unix_nano and span not in agents]
        parent = min(around, key=lambda one: one.end_time_unix_nano, default=whole)
        span.parent_span_id = parent.span_id
        parent.start_time_unix_nano = min(parent.start_time_unix_nano, span.start_time_unix_nano)
    return list(found.values())


def _span(events: list[SwarmEvent]) -> Span:
    first, last = events[0], events[-1]
    names = {"tool_call": f"execute_tool {first.tool_call.tool}", "model_call": f"chat {first.model_call.model}"}
    agent = "invoke_workflow" if first.agent_name == "orchestrator" else f"invoke_agent {first.agent_name}"
    took = int(max(first.tool_call.duration_ms, first.model_call.duration_ms) * 1_000_000)
    return Span(
        trace_id=bytes.fromhex(first.trace_id),
        span_id=bytes.fromhex(first.span_id),
        name=names.get(kind_of(first), agent),
        start_time_unix_nano=first.timestamp.ToNanoseconds() - took,
        end_time_unix_nano=last.timestamp.ToNanoseconds(),
    )


@pytest.fixture
async def page(
    chromium_browser: Browser, world: World, shipped: Recording, other: str, recording: Recording
) -> AsyncIterator[Page]:
    async with watched(chromium_browser, world.url) as found:
        await found.page.goto("/")
        await sign_in(found.page)
        for run in (shipped.run_id, other, recording.run_id):
            await expect(found.page.locator(f".runs-task a[href='/runs/{run}']")).to_be_visible()
        yield found.page
        assert found.wrongs == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where pictures go."""
    asked = os.environ.get("ENCHANTED_PICTURES", "")
    where = Path(asked).absolute() if asked else tmp_path
    where.mkdir(parents=True, exist_ok=True)
    return where


async def drawn(page: Page, path: Path) -> None:
    """Write the picture, and look whether there is something on it, in a size that documents can have."""
    await page.mouse.move(0, 0)
    await page.evaluate("document.activeElement.blur()")
    picture = await page.screenshot(path=path, animations="disabled", caret="hide")
    assert len(picture) < MOST_BYTES, f"{path.name} has {len(picture) >> 10} KiB"
    colours: list[int] = await page.evaluate(COLOURS, picture.hex())
    [(_, ground)] = Counter(colours).most_common(1)
    assert len(set(colours)) > 40, "it is blank"
    assert ground < 0.97 * len(colours), "it is almost blank"


# The browser takes its own picture apart: nothing else here reads PNG.
COLOURS = """
async (hex) => {
  const bytes = Uint8Array.from(hex.match(/../g), (two) => parseInt(two, 16));
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  if (image.width !== 1440 || image.height !== 900) throw new Error(`${image.width} x ${image.height}`);
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const pixels = new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer);
  return Array.from(pixels.filter((_, at) => at % 13 === 0));
}
"""


async def test_the_list_of_runs(page: Page, shipped: Recording, folder: Path) -> None:
    row = page.get_by_role("row").filter(has=page.locator(f"a[href='/runs/{shipped.run_id}']"))
    await expect(row).to_contain_text("1 min 59 s")
    assert await page.evaluate(
        "document.querySelector('table').offsetWidth <= document.querySelector('h1').parentElement.offsetWidth"
    )
    await drawn(page, folder / "runs.png")


async def test_a_merged_run_at_its_end(page: Page, shipped: Recording, folder: Path) -> None:
    await opened(page, shipped.run_id)
    await expect(page.get_by_text("chain verified")).to_be_visible()
    await settled(page)
    await drawn(page, folder / "run.png")


async def test_a_run_at_a_change_with_its_diff(page: Page, shipped: Recording, folder: Path) -> None:
    merges = [one for one in shipped.events if one.event.state_change.reason == "merge"]
    place = shipped.events.index(merges[len(merges) // 2])
    await opened(page, shipped.run_id)
    await page.keyboard.press("Home")
    for _ in range(place // 10):
        await page.keyboard.press("PageDown")
    for _ in range(place % 10):
        await page.keyboard.press("ArrowRight")
    await expect(page.locator(".place")).to_contain_text(f"event {place + 1} of")
    await settled(page)
    await expect(page.locator(".diff")).to_be_visible()
    await expect(page.locator(".diff .diff-gutter-delete").first).to_be_in_viewport()
    await drawn(page, folder / "change.png")


async def test_two_runs_from_where_they_part(page: Page, shipped: Recording, other: str, folder: Path) -> None:
    await page.goto(f"/compare/{shipped.run_id}/{other}")
    await expect(page.locator(".parting-lead")).to_contain_text("is the first to differ")
    await drawn(page, folder / "compare.png")


async def test_the_trace_of_a_run_with_the_events_of_a_span(
    page: Page, world: World, shipped: Recording, folder: Path
) -> None:
    stored, spans = choice_of(shipped), spans_of(shipped)
    headers = {"Content-Type": "application/x-protobuf"}
    told = await world.http.post("/v1/traces", content=export_of(*spans).SerializeToString(), headers=headers)
    assert told.status_code == 200, told.text

    async def arrived() -> bool:
        trace = await world.document(f"traces/{stored.event.trace_id}")
        return bool(trace["meta"]["stored_spans"] == len(spans))

    await until(arrived)
    await page.goto(f"/traces/{stored.event.trace_id}?span={stored.event.span_id}")
    await expect(page.locator(".waterfall [aria-pressed=true]")).to_be_visible()
    await page.locator(".span-event summary").last.click()
    await drawn(page, folder / "trace.png")
