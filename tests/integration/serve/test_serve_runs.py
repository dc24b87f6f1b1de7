"""Runs are started once, cancelled, refused; the commands show them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from enchanted.bus.testing import free_port
from enchanted.cluster.cli import execute
from enchanted.serve.testing import History, World


async def test_a_run_is_started_once_for_each_idempotency_key(world: World, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    body = {"task": "tidy up", "repo": str(tmp_path), "checks": ["true"], "model": "bundled", "budget": {"seconds": 60}}
    begun = len(world.starter.requests)
    replies = [await world.http.post("/api/v1/runs", json=body, headers={"Idempotency-Key": "key 1"}) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [202, 200, 200]
    run = replies[0].json()["run_id"]
    assert {reply.json()["run_id"] for reply in replies} == {run}
    assert len(world.starter.requests) == begun + 1
    # Whoever recorded it may have been killed before it was handed on.
    assert world.starter.resumed == [run, run]
    request = world.starter.requests[-1]
    assert (request.task, request.checks, request.budget.seconds) == ("tidy up", ("true",), 60)
    assert request.models == {"architect": "bundled", "coder": "bundled", "reviewer": "bundled"}
    other = await world.http.post("/api/v1/runs", json={**body, "seed": 1}, headers={"Idempotency-Key": "key 1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    # The stream knows the run before the table does.
    assert (await world.document(f"runs/{run}"))["state"] == "created"
    assert (await world.http.post(f"/api/v1/runs/{run}/cancel")).status_code == 202
    assert world.starter.cancelled.count(run) == 1
    assert (await world.http.post("/api/v1/runs/nobody/cancel")).status_code == 404
    without = [(await world.http.post("/api/v1/runs", json=body)).json()["run_id"] for _ in range(2)]
    assert without[0] != without[1]


async def test_a_run_on_something_that_is_no_repository_is_refused(world: World, tmp_path: Path) -> None:
    for repo in (str(tmp_path), "relative", "", "/\0", "x" * 5_000, "/nobody/knows", "/" + "y" * 300):
        response = await world.http.post("/api/v1/runs", json={"task": "t", "repo": repo})
        assert (response.status_code, response.json()["code"]) == (422, "invalid-request")


async def test_the_commands_read_what_the_api_says(
    world: World, history: History, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    access = ["--url", world.url, "--token-file", str(world.token_file)]

    async def run(*arguments: str, code: int = 0) -> bytes:
        assert await asyncio.to_thread(execute, [*arguments, *access]) == code
        return capfdbinary.readouterr().out

    lines = (await run("events", history.run, "--output", "ndjson")).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [stored.seq for stored in history.events]
    assert len(json.loads(await run("events", history.run, "--json", "--limit", "3"))["data"]) == 3
    assert json.loads(await run("run-info", history.run, "--json"))["state"] == "rejected"
    assert history.run.encode() in await run("runs", "--limit", "1000")
    assert b"intact, complete" in await run("verify", history.run)
    seq = list(history.files)[7]
    expected = history.files[seq]
    assert await run("state", history.run, "--at", str(seq), "--path", "data.bin") == expected["data.bin"]
    assert {line.split(b"\t")[0].decode() for line in (await run("state", history.run, "--at", str(seq))).splitlines()}
    assert (await run("diff", history.run, "--from", "0", "--to", str(seq))).startswith(b"diff --git")
    assert len((await run("tail", history.run, "-n", "4")).splitlines()) == 4
    for command in ("run-info", "events", "tail"):
        await run(command, "nobody", code=3)
    assert await run("events", history.run, "--agent", "nobody") == b""
    assert await run("events", "--agent", "who-never-was") == b""
    await run("state", history.run, "--workspace", "nosuch", code=3)
    await run("events", "--cursor", "x", code=2)
    assert await asyncio.to_thread(execute, ["runs", "--url", world.url, "--token-file", "/nowhere"]) == 2
    gone = ["--url", f"http://127.0.0.1:{free_port()}", "--token-file", str(world.token_file)]
    assert await asyncio.to_thread(execute, ["runs", *gone]) == 4
