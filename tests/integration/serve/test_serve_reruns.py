"""`POST /runs/{run}/reruns` and `enchanted rerun`, on a recorded run that is published again."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from enchanted.actors.rerun import file
from enchanted.bus.batch import Outgoing
from enchanted.schemas.canonical import canonical_json
from enchanted.schemas.events import SwarmEvent, kind_of
from enchanted.serve.acts import reruns
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, copies

DEMO = next((Path(__file__).parents[2] / "golden").glob("demo*.zip"))


@dataclass(frozen=True)
class Published:
    """A run on the world's bus and in its table."""

    run: str
    events: int


async def published(world: World, run: str, change: Callable[[SwarmEvent], None] = lambda _: None) -> Published:
    """The recorded demo as another run (of the same length of name): other ids throughout."""
    recording = await file.load(DEMO)
    for content in recording.blobs.values():
        await world.bus.blobs.put(content)
    messages = copies(recording, run, change)
    await world.bus.publisher.publish_many(messages)
    await world.stored(run, len(messages))
    return Published(run=run, events=len(messages))


@pytest.fixture(scope="module")
async def demo(world: World) -> Published:
    return await published(world, "run-000000000001")


@pytest.fixture(scope="module")
async def bent(world: World) -> Published:
    """The same, with the first of the options in the Architect's answer."""

    def change(event: SwarmEvent) -> None:
        if kind_of(event) == "model_call" and event.agent_name == "architect":
            first = json.loads(event.model_call.parameters)["schema"]["anyOf"][0]["properties"]
            event.model_call.completion = canonical_json({name: form["enum"][0] for name, form in first.items()})

    return await published(world, "run-000000000002", change)


async def enchanted(world: World, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command line."""
    where = ("--url", world.url, "--token-file", str(world.token_file))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enchanted", *arguments, *where,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_run_reruns_equal_from_the_table_and_writes_nothing(world: World, demo: Published) -> None:
    before = await world.bus.stream_info()
    response = await world.http.post(f"/api/v1/runs/{demo.run}/reruns", timeout=240)
    assert response.status_code == 200, response.text
    document = response.json()
    assert (document["equal"], document["divergence"], document["after"]) == (True, None, 0)
    assert document["compared"] == document["recorded"] == sum(agent["equal"] for agent in document["agents"])
    assert (await world.bus.stream_info()).last_seq == before.last_seq
    cache = world.folder / "cache"
    assert [entry.name for entry in await asyncio.to_thread(lambda: list(cache.glob("rerun-*")))] == []


async def test_a_rerun_may_begin_in_the_middle(world: World, demo: Published) -> None:
    events = (await world.document("events", run=demo.run, kind="run_transition", limit=1000))["data"]
    working = next(event["seq"] for event in events if event["run_transition"]["to_state"] == "working")
    whole = (await world.http.post(f"/api/v1/runs/{demo.run}/reruns", timeout=240)).json()
    later = (await world.http.post(f"/api/v1/runs/{demo.run}/reruns", params={"from": working + 5}, timeout=240)).json()
    assert (later["equal"], later["after"]) == (True, working)
    assert 0 < later["compared"] == later["recorded"] < whole["compared"]


async def test_a_divergence_names_the_recorded_and_the_new_event(world: World, bent: Published) -> None:
    document = (await world.http.post(f"/api/v1/runs/{bent.run}/reruns", timeout=240)).json()
    found = document["divergence"]
    assert document["equal"] is False
    assert found["agent"] == "architect"
    recorded = await world.document(f"events/{found['recorded']['event']['event_id']}")
    assert (recorded["kind"], recorded["seq"]) == ("decision", found["recorded"]["seq"])
    said, now = recorded["decision"]["rationale"], found["new"]["event"]["decision"]["rationale"]
    assert now.startswith("inventory/items.py: ")
    assert {"field": "decision.rationale", "recorded": said, "new": now} in found["differences"]


async def test_the_command_exits_with_the_verdict(world: World, demo: Published, bent: Published) -> None:
    status, out, err = await enchanted(world, "rerun", demo.run)
    assert (status, err) == (0, "")
    assert re.search(r": equal, \d+ of \d+ events, \d+ times faster \(live [\d.]+ s, rerun [\d.]+ s\)$", out.strip())
    status, out, err = await enchanted(world, "rerun", bent.run)
    assert status == 1
    assert "DIFFERENT" in out
    assert "first divergence: architect: decision." in err
    assert "decision.rationale" in err
    status, out, _ = await enchanted(world, "rerun", bent.run, "--json")
    assert (status, json.loads(out)["equal"]) == (1, False)
    status, out, err = await enchanted(world, "rerun", "run-nobody")
    assert (status, out) == (3, "")
    assert err.count("\n") == 2


async def test_runs_that_cannot_be_run_again_say_why(world: World, demo: Published) -> None:
    unknown = await world.http.post("/api/v1/runs/nobody/reruns")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "run-not-found")
    event = SwarmEvent(event_id="11111111-1111-7111-8111-111111111111", trace_id="f" * 32, span_id="e" * 16)
    event.decision.rationale = "a stranger's"
    message = Outgoing(
        subject="swarm.events.coder.decision", payload=event.SerializeToString(), event_id=event.event_id
    )
    await world.bus.publisher.publish(message)
    await world.stored(event.trace_id, 1)
    foreign = await world.http.post(f"/api/v1/runs/{event.trace_id}/reruns")
    assert (foreign.status_code, foreign.json()["code"]) == (409, "not-rerunnable")
    assert "does not begin with a request" in foreign.json()["detail"]
    for bad in ("-1", "x", str(2**64)):
        refused = await world.http.post(f"/api/v1/runs/{demo.run}/reruns", params={"from": bad})
        assert refused.status_code == 422


async def test_several_reruns_at_once_all_answer(world: World, demo: Published) -> None:
    asked = (world.http.post(f"/api/v1/runs/{demo.run}/reruns", timeout=240) for _ in range(5))
    assert [response.json()["equal"] for response in await asyncio.gather(*asked)] == [True] * 5


async def test_a_rerun_that_nobody_waits_for_any_more_ends_and_gives_its_thread_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def recording(*_: object) -> None:
        return None

    async def endless(*_: object, start: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(reruns, "recording_of", recording)
    monkeypatch.setattr(reruns, "rerun", endless)
    bus = BusLink(world.nats.url)
    access = Access(token="of-nobody")
    deps = Dependencies(store=Store(world.store_url), reader=None, bus=bus, access=access, cache=tmp_path)
    performing = reruns.Reruns(deps)
    for _ in range(2 * reruns.AT_ONCE):
        begun.clear()
        ended.clear()
        asked = asyncio.create_task(performing.verdict("run", 0))
        assert await asyncio.to_thread(begun.wait, 30)
        asked.cancel()
        assert await asyncio.to_thread(ended.wait, 30)
