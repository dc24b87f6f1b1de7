"""The spans of a run, where nobody named a receiver: they are in the table, and are those its events name."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.repository.git import Git
from enchanted.bus.connection import Bus
from enchanted.cluster.testing import HomeUnderTest, eventually, home_under_test
from enchanted.ingest.tables import connect_blocking
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of

pytestmark = pytest.mark.timeout(300)

WORK = ("decision", "model_call", "tool_call", "state_change")


def test_a_runs_spans_are_stored_under_the_ids_of_its_events(tmp_path: Path, repository: Callable[..., Git]) -> None:
    repository()
    with home_under_test(tmp_path / "home", ENCHANTED_MODEL="minimal") as home:
        status = home.up()
        done = home.run(
            "run", "Fix the lint findings", "--repo", str(tmp_path / "shop"), "--check", "ruff check .", "--json"
        )
        assert done.returncode == 0, done.stderr
        run_id = json.loads(done.stdout)["run_id"]

        def published() -> list[SwarmEvent]:
            return [stored.event for stored in asyncio.run(_events(status["nats_url"], run_id))]

        # The orchestrator's last sign of life comes after its verdict.
        left = "the orchestrator has left"
        eventually(lambda: "STOPPING" in str(published()[-1].system_signal), seconds=60, about=left)
        events = published()
        (trace_id,) = {event.trace_id for event in events if kind_of(event) in WORK}
        wanted = {event.span_id for event in events if event.trace_id == trace_id}

        def stored() -> set[str]:
            sql = "SELECT SpanId FROM spans WHERE TraceId = {trace:String}"
            table = connect_blocking(status["clickhouse_url"])
            try:
                return {span for (span,) in table.query(sql, parameters={"trace": trace_id}).result_rows}
            finally:
                table.close()

        eventually(lambda: stored() >= wanted, seconds=30, about="every span that an event names is in the table")
        document = _trace(home, status, trace_id)
        (workflow,) = [span for span in document["spans"] if span["name"] == "invoke_workflow swarm_run"]
        (asked,) = [span for span in document["spans"] if span["name"] == "create_run"]
        assert document["roots"] == [asked["span_id"]] == [workflow["parent_span_id"]]
        assert document["meta"]["stored_spans"] == len(document["spans"])
        assert workflow["attributes"]["gen_ai.conversation.id"] == run_id
        assert {span["service"] for span in document["spans"]} == {"enchanted-worker"}
        assert all(span["stored"] for span in document["spans"])
        named = {event["event_id"] for span in document["spans"] for event in span["events"]}
        assert named == {event.event_id for event in events if event.trace_id == trace_id}


async def _events(nats_url: str, run_id: str) -> list[StoredEvent]:
    async with Bus.connect(nats_url, name="test") as bus:
        return await bus.read_run(run_id)


def _trace(home: HomeUnderTest, status: dict[str, Any], trace_id: str) -> dict[str, Any]:
    token = Path(status["token_file"]).read_text().strip()
    request = urllib.request.Request(f"{status['api_url']}/api/v1/traces/{trace_id}")
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        document: dict[str, Any] = json.load(answer)
    return document
