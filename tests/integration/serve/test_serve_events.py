"""Events through the API: a foreign producer's, filtered, paged, inflated."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import SwarmEvent, model_call
from enchanted.schemas.gen import events_pb2 as pb
from enchanted.serve.sources import store
from enchanted.serve.testing import History, World, until


async def foreign_events(world: World, trace: str, count: int) -> list[bytes]:
    """What a tool in another language publishes: the frozen part only, by plain JetStream publishes."""
    client = await nats.connect(world.nats.url)
    stream = client.jetstream()
    published = []
    for number in range(count):
        event = SwarmEvent(event_id=str(uuid.uuid4()), trace_id=trace, span_id=f"{number % 7:016x}", agent_id="foreign")
        event.agent_role = pb.ROLE_ARCHITECT
        event.timestamp.GetCurrentTime()
        event.decision.rationale = f"foreign thought {number} on Größe"
        event.decision.confidence_score = 0.5
        # A field of a newer schema: it must survive.
        published.append(event.SerializeToString() + b"\xfa\x3e\x03new")
    # Without fsync in between there is nothing to wait for one by one.
    await asyncio.gather(*(stream.publish("swarm.events.architect.decision", raw, timeout=60) for raw in published))
    await client.close()
    return published


async def test_a_foreign_producers_events_are_all_there_and_byte_equal(world: World) -> None:
    trace = uuid.uuid4().hex
    published = await foreign_events(world, trace, 1_000)

    async def all_there() -> bool:
        page = await world.document("events", run=trace, limit=1_000, fields="seq")
        return len(page["data"]) == 1_000

    await until(all_there)
    documents: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await world.document("events", run=trace, limit=300, **cursor)
        documents += page["data"]
        if page["meta"]["cursor"] is None:
            break
        cursor = {"cursor": page["meta"]["cursor"]}
    assert [d["seq"] for d in documents] == sorted({d["seq"] for d in documents})
    assert sorted(d["sha256"] for d in documents) == sorted(map(sha256_hex, published))
    assert documents[0]["decision"]["rationale"].startswith("foreign thought")
    by_hash = {sha256_hex(raw): raw for raw in published}
    for document in random.Random(1).sample(documents, 20):
        raw = await world.get(f"events/{document['event_id']}/raw")
        assert raw.headers["content-type"] == "application/octet-stream"
        assert raw.content == by_hash[document["sha256"]]
    spans = (await world.document(f"traces/{trace}"))["spans"]
    assert len(spans) == 7
    assert sum(len(span["events"]) for span in spans) == 1_000
    run = await world.document(f"runs/{trace}")
    assert (run["state"], run["closed"], run["events"], run["decisions"]) == ("", False, 1_000, 1_000)
    verdict = await world.document(f"runs/{trace}/verify")
    assert (verdict["intact"], verdict["complete"], verdict["checked"]) == (True, True, 1_000)
    assert verdict["stream"]["events"] == 1_000


async def test_filters_are_joined_and_pages_run_both_ways(world: World, history: History) -> None:
    async def seqs(**filters: Any) -> list[int]:
        return [d["seq"] for d in (await world.document("events", run=history.run, **filters))["data"]]

    every = [stored.seq for stored in history.events]
    tools = [s.seq for s in history.events if s.event.HasField("tool_call")]
    assert await seqs() == every
    assert await seqs(kind="tool_call") == tools
    assert await seqs(kind="tool_call", agent="coder-1", role="coder") == tools
    assert await seqs(agent=history.events[0].event.agent_id, kind="tool_call") == []
    assert await seqs(after=every[3]) == every[4:]
    assert await seqs(before=every[3]) == every[:3]
    assert await seqs(before=every[-1], limit=2) == every[-3:-1]
    assert await seqs(after=every[1], before=every[4]) == every[2:4]
    assert await seqs(q="BEGIN") == [every[2]]
    assert await seqs(q="no such text") == []
    assert await seqs(until="2020-01-01T00:00:00Z") == []
    assert await seqs(since=(datetime.now(UTC) - timedelta(days=30)).isoformat()) == every
    moment = (await world.document("events", run=history.run))["data"][5]["stream_time"]
    assert await seqs(since=moment) == every[5:]
    assert await seqs(until=moment) == every[:5]
    back: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = await world.document("events", run=history.run, before=2**62, limit=4, **cursor)
        back = [d["seq"] for d in page["data"]] + back
        if page["meta"]["cursor"] is None:
            break
        cursor = {"cursor": page["meta"]["cursor"]}
    assert back == every
    stolen = await world.get("events", run="other", **cursor)
    assert (stolen.status_code, stolen.json()["code"]) == (400, "bad-cursor")


async def test_the_list_of_runs_goes_on_where_it_ended(world: World, history: History) -> None:
    runs: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await world.document("runs", limit=1, **cursor)
        runs += page["data"]
        if page["meta"]["cursor"] is None:
            break
        cursor = {"cursor": page["meta"]["cursor"]}
    assert [run["first_seq"] for run in runs] == sorted((run["first_seq"] for run in runs), reverse=True)
    mine = next(run for run in runs if run["run_id"] == history.run)
    assert (mine["state"], mine["closed"], mine["reason"]) == ("rejected", True, "it is rejected")
    assert mine["request"] == {"task": "tidy"}
    assert mine["events"] == len(history.events)


async def test_a_field_that_was_moved_out_comes_back_on_a_single_read(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-large", role="coder", agent_name="coder-1")
    call = model_call(model="m", messages=["x" * 600_000], parameters={}, completion="short", finish_reason="stop")
    stored = (await log.emit(call))[0]
    await world.stored("run-large", 1)
    listed = (await world.document("events", run="run-large"))["data"][0]
    assert "messages" not in listed["model_call"]
    whole = await world.document(f"events/{stored.event.event_id}")
    assert whole["inflated"] is True
    assert whole["model_call"]["messages"] == json.dumps(["x" * 600_000])
    assert (await world.get(f"events/{stored.event.event_id}/raw")).content == stored.raw


async def test_a_damaged_event_says_so_though_its_fields_are_put_back(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-large-damaged", role="coder", agent_name="coder-1")
    call = model_call(model="m", messages=["x" * 600_000], parameters={}, completion="short", finish_reason="stop")
    stored = (await log.emit(call))[0]
    await world.stored("run-large-damaged", 1)
    await world.table.command(
        "INSERT INTO events SELECT * REPLACE (unhex({raw:String}) AS body, 0 AS cut_at) FROM events FINAL "
        "WHERE run = 'run-large-damaged'",
        parameters={"raw": stored.raw.replace(b"short", b"shirt").hex()},
    )
    shown = await world.document(f"events/{stored.event.event_id}")
    assert (shown["inflated"], shown["corrupted"], shown["model_call"]["completion"]) == (True, True, "shirt")


async def test_a_page_of_large_events_is_shorter_and_the_next_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = []
    for number in range(40):
        event = SwarmEvent(event_id=f"large-{number}", run_id="run-many-large", trace_id="1a" * 16, agent_id="a")
        event.decision.rationale = "x" * 50_000
        payload = event.SerializeToString()
        messages.append(Outgoing(subject="swarm.events.coder.decision", payload=payload, event_id=event.event_id))
    await world.bus.publisher.publish_many(messages)
    await world.stored("run-many-large", 40)
    monkeypatch.setattr(store, "PAGE_BYTES", 1_000_000)
    seen: list[int] = []
    cursor, pages = None, 0
    while cursor is not None or not pages:
        page = await world.document(
            "events", run="run-many-large", limit=1_000, **({"cursor": cursor} if cursor else {})
        )
        seen += [event["seq"] for event in page["data"]]
        cursor, pages = page["meta"]["cursor"], pages + 1
    assert len(seen) == len(set(seen)) == 40
    assert seen == sorted(seen)
    assert pages > 2
    trace = await world.document(f"traces/{'1a' * 16}")
    assert trace["meta"]["truncated"]
    assert 0 < trace["meta"]["events"] < 40


async def test_an_event_larger_than_any_answer_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.stored("run-many-large", 40)
    monkeypatch.setattr(store, "PAGE_BYTES", 1_000)
    response = await world.get("events", run="run-many-large")
    assert (response.status_code, response.json()["code"]) == (400, "too-much-asked")
