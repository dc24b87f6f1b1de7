"""Behind a real Ray Serve: how often a replica asks the proxy for what a client sends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from enchanted.bus.testing import free_port
from enchanted.cluster import ray_head
from enchanted.cluster.home import new_secret, write_once

pytestmark = pytest.mark.timeout(300)
LONG = 60.0
"""Seconds; longer than any request here."""


class Counted:
    """An app that answers how often the proxy was asked for its request, after it has been there for a while."""

    def __init__(self, late: float | None) -> None:
        from enchanted.serve.receiving import LateReceive

        self._app = self._answer if late is None else LateReceive(self._answer, late)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["query_string"]:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            self._count(scope, receive)
            await self._app(scope, receive, send)

    def _count(self, scope: Any, receive: Any) -> None:
        ask, scope["asked"] = receive._receive_asgi_messages, 0

        async def counted(request: Any) -> bytes:
            scope["asked"] += 1
            found: bytes = await ask(request)
            return found

        receive._receive_asgi_messages = counted

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"].decode()
        if scope["query_string"]:
            await self._outlive(Path(scope["query_string"].decode()), receive)
        await asyncio.sleep(0.2)
        answer = json.dumps({"asked": scope["asked"], "body": body}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def _outlive(self, said: Path, receive: Any) -> None:
        """Say when it is here, wait until the client has gone, and say so too."""
        say(said, "waiting")
        try:
            await receive()
        finally:
            say(said, "gone")


def serve_and_ask(port: int, folder: str) -> dict[str, Any]:
    """The answers of both apps, to a request without and one with a body."""
    import ray
    from ray import serve

    from enchanted.serve.receiving import LATE

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    @serve.ingress()
    class Replica:
        def __init__(self, late: float | None) -> None:
            self._late = late

        def __serve_build_asgi_app__(self) -> Any:
            return Counted(self._late)

    def answered(path: str, data: bytes | None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data, timeout=60) as answer:
            return json.load(answer)

    def left(path: str) -> float:
        """Seconds until the replica knows that a client went away in the middle."""
        said = Path(folder, path)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"GET /{path}?{said} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            told(said, "waiting")
        return told(said, "gone")

    ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    found: dict[str, Any] = {}
    for name, late in (("ours", LONG), ("control", None), ("deployed", LATE)):
        serve.run(Replica.bind(late), name=name, route_prefix=f"/{name}")
        found[name] = left(name) if late == LATE else [answered(name, None), answered(name, b"text")]
    serve.shutdown()
    ray.shutdown()
    return found


def say(said: Path, what: str) -> None:
    said.write_text(what)


def told(said: Path, what: str) -> float:
    begun = time.monotonic()
    while not said.exists() or said.read_text() != what:
        assert time.monotonic() - begun < 60, f"the replica never said {what!r}"
        time.sleep(0.02)
    return time.monotonic() - begun


def test_a_read_asks_the_proxy_nothing_and_a_body_arrives_and_who_leaves_is_missed(tmp_path: Path) -> None:
    token, folder = tmp_path / "token", tempfile.mkdtemp(prefix="ray")
    write_once(token, new_secret())
    try:
        found = subprocess.run(
            [sys.executable, __file__, str(free_port()), folder],
            env={**os.environ, **ray_head.environment(token)},
            stdout=subprocess.PIPE,
            check=True,
            timeout=200,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    answers = json.loads(found.stdout.splitlines()[-1])
    assert [one["body"] for one in answers["ours"]] == [one["body"] for one in answers["control"]] == ["", "text"]
    read, written = (one["asked"] for one in answers["ours"])
    assert read == 0 < written
    assert answers["control"][0]["asked"] == 2
    assert answers["deployed"] < 30


if __name__ == "__main__":
    print(json.dumps(serve_and_ask(int(sys.argv[1]), sys.argv[2])))
