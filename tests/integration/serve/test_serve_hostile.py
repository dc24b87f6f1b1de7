"""Garbage and a store that hangs."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import httpx

from enchanted.cluster.testing_world import TOKEN
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, served, until

WORDS = [
    "", " ", "\0", "a\0b", "\n", "'", '"', "\\", "\\'", "%", "%00", "%ff", "{run:String}", "../..", "é", "😀", "\u2028",
    "-1", "0", "18446744073709551616", "9" * 5_000, "1e9", "NaN", "inf", "true", "null", "[]", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999+23:59", "2026-02-30", "run-scripted", "main", "a" * 10_000, "MS5hLjEuMTY", "a.b.c",
    "decision", "seq,raw", "blobs.field", "blobs.blobs", "timestamp.seconds.x", "W/\"1\"", "*", ";DROP TABLE events",
    "hour", "role", "arrow", "parquet",
]  # fmt: skip
VALUES = [b"", b"*", b'"', b"W/", b"\xff\xfe", b",,,", b"a" * 5_000, b"\\", b"'"]
PATHS = [
    "events", "events/{}", "events/{}/raw", "traces/{}", "runs", "runs/{}", "runs/{}/state", "runs/{}/diff",
    "runs/{}/verify", "runs/{}/receipt", "runs/{}/history", "runs/{}/blame", "runs/{}/cancel", "{}", "stream/{}",
    "agents/stats", "decisions/reverted", "export", "sql", "runs/{}/restores", "runs/{}/undos", "runs/{}/forks",
    "runs/{}/compare/x", "runs/{}/reruns", "runs/{}/outline", "runs/{}/play", "runs/{}/verify/patches",
]  # fmt: skip
NAMES = [
    "run", "trace", "agent", "role", "kind", "since", "until", "after", "before", "limit", "fields", "q", "cursor",
    "at", "path", "path_hex", "from", "to", "workspace", "token", "bucket", "by", "below", "format",
    "speed", "max_gap", "deep",
]  # fmt: skip


async def test_no_garbage_gives_a_server_error(world: World, history: History) -> None:
    dice = random.Random(7)
    statuses: set[int] = set()
    for _ in range(400):
        path = dice.choice(PATHS).format(_quoted(dice.choice([*WORDS, history.run])))
        query = "&".join(f"{dice.choice(NAMES)}={_quoted(dice.choice(WORDS))}" for _ in range(dice.randrange(4)))
        query = query[: 60_000 - len(path)]  # httpx sends no URL of more than 65,536 characters
        headers = (
            {b"If-None-Match": dice.choice(VALUES), b"Idempotency-Key": dice.choice(VALUES)}
            if dice.random() < 0.2
            else {}
        )
        method = dice.choice(["GET", "GET", "GET", "POST", "PUT", "HEAD", "OPTIONS"])
        body = dice.randbytes(20) if dice.random() < 0.3 else None
        response = await world.http.request(
            method, httpx.URL(f"{world.url}/api/v1/{path}?{query}"), headers=headers, content=body
        )
        statuses.add(response.status_code)
        assert response.status_code < 500, (method, path, query, response.text)
        if response.status_code >= 400 and method != "HEAD":
            assert response.headers["content-type"] == "application/problem+json"
    assert {200, 404, 422} <= statuses


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


async def test_garbage_bodies_are_refused(world: World) -> None:
    bodies = [
        b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"task": 1}', b'{"task": "t", "repo": "\\ud800"}',
        b'{"task":"t","repo":"/","budget":{"seconds":1e999}}', b'{"task":"t","repo":"/","seed":1' + b"0" * 400 + b"}",
        b"[" * 100_000, b'{"task":"t","repo":"/","coders":NaN}', b'{"task":"\\u0000","repo":"/"}',
    ]  # fmt: skip
    for body in bodies:
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
            response = await world.http.post("/api/v1/runs", content=body, headers={"Content-Type": kind})
            assert response.status_code in (400, 415, 422), (body[:40], response.text)
            assert response.headers["content-type"] == "application/problem+json"


async def test_a_store_that_hangs_is_a_problem_within_the_deadline(world: World, tmp_path: Path) -> None:
    deps = Dependencies(
        store=Store(world.store_url, deadline=2),
        bus=BusLink(world.nats.url),
        access=Access(token=TOKEN),
        cache=tmp_path,
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with served(deps) as url, httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:

        async def answers() -> bool:
            return (await http.get("/api/v1/runs")).status_code == 200

        await until(answers)
        os.kill(world.store_pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            response = await http.get("/api/v1/runs")
            assert (response.status_code, response.json()["code"]) == (503, "store-unavailable")
            assert response.headers["retry-after"]
            assert time.monotonic() - begun < 20
        finally:
            os.kill(world.store_pid, signal.SIGCONT)

        async def back() -> bool:
            return (await http.get("/api/v1/runs")).status_code == 200

        await until(back)
