"""Schemathesis over the committed description: whatever it makes up, the API answers as it says it does."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.testing_world import served_world
from enchanted.ingest.testing import export_of, span_of
from enchanted.schemas.events import model_call
from enchanted.serve.openapi import COMMITTED
from enchanted.serve.testing import World, scripted, until

SEED = 20_260_101
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "unsupported_method", "allow_header_conformance", "ignored_auth"),
    *("missing_required_header", "use_after_free"),
)
"""Not those that take the form of a request for all there is to say of it: a path may be none, a task's run unknown."""
NEVER_DONE = {
    "POST /api/v1/runs/{run}/forks",  # these two need a run of the swarm itself
    "POST /api/v1/runs/{run}/reruns",
}
_TRACE = 0x5C5C


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One of these tests' own: in the folder's, what other tests damage is found in lists, and answers 500 rightly."""
    async with served_world(tmp_path_factory.mktemp("schema")) as world:
        yield world


@pytest.fixture
async def known(world: World, tmp_path: Path) -> dict[str, Any]:
    """Values of things that exist, by the names of parameters and members; a change is undone once, so of a new run."""
    history = await scripted(world, f"run-{tmp_path.name}")
    asked = AgentLog(world.bus, run_id=history.run, role="coder", agent_name="asked")
    await asked.emit(
        model_call(
            model="m", messages=[{"role": "user", "content": "?"}], parameters={}, completion="!", finish_reason="stop"
        )
    )
    await world.stored(history.run, len(history.events) + 1)
    body, kind = export_of(span_of(1, _TRACE)).SerializeToString(), {"Content-Type": "application/x-protobuf"}
    assert (await world.http.post("/v1/traces", content=body, headers=kind)).status_code == 200
    trace = f"{_TRACE:032x}"

    async def there() -> bool:
        return (await world.http.get(f"/api/traces/{trace}")).status_code == 200

    await until(there)
    change = next(one for one in history.events if one.event.state_change.reason == "merge")
    return {
        "run": history.run,
        "other": history.run,
        "agent": "asked",
        "event_id": change.event.event_id,
        "trace_id": trace,
        "service": (await world.http.get("/api/services")).json()["data"][0],
        "repo": str(world.folder / history.run / "user"),
        "workspace": "main",
        "branch": None,
        "path": "dos.txt",
        "path_hex": "",
        "at": history.events[-1].seq,
        "from": 0,
        "to": history.events[-1].seq,
        "fields": "seq,decision.rationale",
        "cursor": "",
        "query": "SELECT kind, count() FROM events GROUP BY kind",
        "model": None,
        "models": {},
        "variables": {},
        "tags": '{"a":"b"}',
        "tag": "a:b",
    }


async def asked_by_schemathesis(
    world: World, known: dict[str, Any], folder: Path, *options: str, description: Path = COMMITTED
) -> dict[str, Any]:
    """Its report on all its phases."""
    report = folder / "report.json"
    (folder / "schemathesis.toml").write_text("[phases.examples]\nfill-missing = true\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", str(description), "--url", world.url),
        *("--header", f"Authorization: {world.http.headers['Authorization']}", "--checks", ",".join(CHECKS)),
        *("--seed", str(SEED), "--generation-database", "none", "--suppress-health-check", "all"),
        *("--request-timeout", "60", "--continue-on-failure", "--warnings", "off", "--no-color"),
        *("--report-json-path", str(report), *options),
        cwd=folder,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "schema_hooks",
            "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
            "SCHEMA_KNOWN": json.dumps(known),
            "SCHEMA_INTO": str(folder / "restored"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    (folder / "output.txt").write_bytes(output)
    assert process.returncode in (0, 1), output[-3_000:].decode("utf-8", "replace")
    document: dict[str, Any] = json.loads(report.read_text())
    return document


async def answers_as_described(world: World, known: dict[str, Any], folder: Path, seconds: int) -> dict[str, Any]:
    """The report of so many seconds in which nothing was found."""
    # A live stream has no end, a play one that may be hours away; tests of their own look at them.
    without = ("/api/v1/stream", "/api/v1/runs/{run}/play")
    options = ("--max-time", str(seconds), *(word for path in without for word in ("--exclude-path", path)))
    found = await asked_by_schemathesis(world, known, folder, *options)
    output = await asyncio.to_thread(Path(folder, "output.txt").read_text)
    assert found["failures"] == [], output
    assert found["errors"] == []
    assert found["operations"]["tested"] == found["operations"]["total"] - len(without)
    return found


@pytest.mark.timeout(300)
async def test_for_a_minute_the_api_answers_as_it_is_described(
    world: World, known: dict[str, Any], tmp_path: Path
) -> None:
    found = await answers_as_described(world, known, tmp_path, 60)
    assert found["test_cases"]["generated"] > 200


@pytest.mark.slow
@pytest.mark.timeout(1_200)
async def test_for_ten_minutes_the_api_answers_as_it_is_described(
    world: World, known: dict[str, Any], tmp_path: Path
) -> None:
    found = await answers_as_described(world, known, tmp_path, 600)
    phases = {name: phase["status"] for name, phase in found["phases"].items()}
    assert phases == dict.fromkeys(("examples", "coverage", "fuzzing", "stateful"), "success")
    rates = {name: sum(phase["accepted"] for phase in rates.values()) for name, rates in found["valid_rates"].items()}
    assert {name for name, accepted in rates.items() if not accepted} <= NEVER_DONE


async def test_a_description_that_is_not_the_apis_is_found_out(
    world: World, known: dict[str, Any], tmp_path: Path
) -> None:
    document = json.loads(COMMITTED.read_text())
    document["components"]["schemas"]["ListedRun"]["properties"]["first_seq"] = {"type": "string"}
    del document["paths"]["/api/v1/events/{event_id}"]["get"]["responses"]["4XX"]
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(document))
    only = ("--include-path", "/api/v1/runs", "--include-path", "/api/v1/events/{event_id}")
    found = await asked_by_schemathesis(world, known, tmp_path, "--max-examples", "5", *only, description=wrong)
    assert {failure["type"] for failure in found["failures"]} == {"JsonSchemaError", "UndefinedStatusCode"}
