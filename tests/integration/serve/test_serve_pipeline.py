"""The pipeline's state: stream, ingest, table, dead letters, last reconciliation."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import httpx
import pytest

from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.streams import parse_info
from enchanted.bus.testing import nats_server
from enchanted.schemas.events import SwarmEvent
from enchanted.serve.guard.auth import Access
from enchanted.serve.queries import pipeline
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, served, until

TOKEN = "t"


async def test_the_pipeline_says_where_events_are(world: World) -> None:
    # Copies that other tests made must not be merged while rows are counted here.
    await world.table.command("OPTIMIZE TABLE events FINAL")
    before = await world.document("pipeline")
    event = SwarmEvent(event_id="pipeline-event", trace_id="9" * 32, agent_id="pipeline")
    subject = "swarm.events.architect.decision"
    messages = [
        Outgoing(subject=subject, payload=payload, event_id=f"pipeline-{n}")
        for n, payload in enumerate([event.SerializeToString(), event.SerializeToString(), b"\xff"])
    ]
    await world.bus.publisher.publish_many(messages)

    async def settled() -> bool:
        ingest = (await world.document("pipeline"))["ingest"]
        return bool(ingest["acknowledged_seq"] >= before["stream"]["last_seq"] + 3 and not ingest["ack_pending"])

    await until(settled)
    after = await world.document("pipeline")
    info = parse_info(await world.bus.link.api("STREAM.INFO.ENCHANTED_SWARM"))
    assert after["stream"]["last_seq"] == info.last_seq
    assert after["stream"]["messages"] == info.messages
    assert after["stream"]["max_bytes"] == 256 * 1024**2
    assert after["stream"]["bytes"] > before["stream"]["bytes"]
    assert (after["ingest"]["connected"], after["ingest"]["pending"], after["ingest"]["lag_seconds"]) == (True, 0, 0.0)
    assert after["table"]["duplicates"] == before["table"]["duplicates"] + 1
    assert after["table"]["rows"] >= before["table"]["rows"] + 2
    assert after["dead_letters"] == before["dead_letters"] + 1
    assert after["reconciliation"] is None


async def test_a_copy_with_other_bytes_and_what_the_worker_did_are_counted(world: World) -> None:
    (before,) = (await world.document("pipeline"))["workers"]
    first = SwarmEvent(event_id="pipeline-conflict", trace_id="9" * 32, agent_id="pipeline")
    other = SwarmEvent(event_id="pipeline-conflict", trace_id="9" * 32, agent_id="pipeline", task_id="another")
    messages = [
        Outgoing(subject="swarm.events.architect.decision", payload=one.SerializeToString(), event_id=f"conflict-{n}")
        for n, one in enumerate([first, first, other])
    ]
    await world.bus.publisher.publish_many(messages)

    async def written() -> bool:
        (worker,) = (await world.document("pipeline"))["workers"]
        return bool(worker["events"]["rows"] >= before["events"]["rows"] + 3)

    await until(written)
    (after,) = (await world.document("pipeline"))["workers"]
    was, now = before["events"], after["events"]
    assert after["name"] == "ingest-0"
    assert {name: now[name] - was[name] for name in ("rows", "duplicates", "conflicting", "batches", "retries")} == {
        "rows": 3,
        "duplicates": 2,
        "conflicting": 1,
        "batches": 1,
        "retries": 0,
    }
    assert now["last_batch"] == 3
    assert now["mean_batch"] == pytest.approx((was["mean_batch"] * was["batches"] + 3) / now["batches"], abs=0.2)
    assert now["rows_per_second"] > 0
    assert 0 < now["last_insert_seconds"] < 30
    assert "duplicates" not in after["spans"]


async def test_the_pipeline_needs_the_token(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.url, timeout=30) as stranger:
        assert (await stranger.get("/api/v1/pipeline")).status_code == 401


async def test_without_ingest_the_lag_grows_and_a_silent_reconciler_is_not_waited_for(
    world: World, monkeypatch: Any
) -> None:
    async def silent() -> dict[str, Any] | None:
        await asyncio.Event().wait()
        return None

    async def silent_workers() -> list[dict[str, Any]]:
        await asyncio.Event().wait()
        return []

    async def telling() -> dict[str, Any] | None:
        return {"sound": True}

    monkeypatch.setattr(pipeline, "ACTORS_DEADLINE", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(nats_server(world.folder / "idle", sync="default"))
        bus = await stack.enter_async_context(Bus.connect(server.url))
        messages = [Outgoing(subject="swarm.events.a.b", payload=b"", event_id=f"idle-{n}") for n in range(3)]
        await bus.publisher.publish_many(messages)
        deps = Dependencies(
            store=Store(world.store_url),
            bus=BusLink(server.url),
            access=Access(token=TOKEN),
            cache=world.folder / "idle-cache",
            reconciliation=silent,
            ingest_workers=silent_workers,
        )
        documents = []
        for one in (deps, replace(deps, store=Store(world.store_url), bus=BusLink(server.url), reconciliation=telling)):
            url = await stack.enter_async_context(served(one))
            async with httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
            ) as client:
                documents.append((await client.get("/api/v1/pipeline")).json())
    assert [document["reconciliation"] for document in documents] == [None, {"sound": True}]
    assert (documents[0]["ingest"]["connected"], documents[0]["ingest"]["pending"]) == (False, 3)
    assert documents[0]["workers"] is None
    assert 0 < documents[0]["ingest"]["lag_seconds"] < documents[1]["ingest"]["lag_seconds"]
    assert documents[0]["table"]["highest_seq"] == 0
