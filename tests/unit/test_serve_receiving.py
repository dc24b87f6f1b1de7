"""Behind Ray Serve a short request without a body is answered without a question to the proxy."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.serve._private.http_util import ASGIReceiveProxy
from starlette.types import Message, Receive, Scope, Send

from enchanted.cluster.home import new_secret, write_once
from enchanted.serve.deployment import Api
from enchanted.serve.receiving import LateReceive

NOTHING: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


class Proxy:
    """Serve's proxy actor, as a replica asks it: the body at first, then that the client has gone."""

    def __init__(self, body: bytes = b"") -> None:
        self.asked = 0
        self.gone = asyncio.Event()
        self._left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_asgi_messages(self, request: Any) -> bytes:
        self.asked += 1
        if not self._left:
            await self.gone.wait()
            return pickle.dumps([GONE])
        given, self._left = self._left, []
        return pickle.dumps(given)


async def through(proxy: Proxy, app: Any, late: float, *headers: tuple[bytes, bytes], kind: str = "http") -> None:
    """One request, as Serve's replica handles it."""
    scope: Scope = {"type": kind, "headers": list(headers)}
    receive = ASGIReceiveProxy(scope, None, proxy.receive_asgi_messages)  # type: ignore[arg-type]
    fetching = asyncio.create_task(receive.fetch_until_disconnect())
    try:
        async with asyncio.timeout(60):
            await LateReceive(app, late)(scope, receive, None)  # type: ignore[arg-type]
    finally:
        fetching.cancel()


def app_that_reads(messages: int, got: list[Message]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(messages):
            got.append(await receive())

    return app


async def test_a_short_request_without_a_body_asks_the_proxy_nothing() -> None:
    proxy, got = Proxy(), list[Message]()
    await through(proxy, app_that_reads(1, got), 60)
    assert got == [NOTHING]
    assert proxy.asked == 0


async def test_a_long_one_learns_that_its_client_has_gone() -> None:
    proxy, got = Proxy(), list[Message]()
    proxy.gone.set()
    await through(proxy, app_that_reads(3, got), 0)
    assert got == [NOTHING, GONE, GONE]
    assert proxy.asked == 2


async def test_a_client_that_the_proxy_has_forgotten_has_gone() -> None:
    async def forgotten(request: Any) -> bytes:
        raise KeyError(request)

    proxy, got = Proxy(), list[Message]()
    proxy.receive_asgi_messages = forgotten  # type: ignore[method-assign]
    await through(proxy, app_that_reads(2, got), 0)
    assert got == [NOTHING, GONE]


@pytest.mark.parametrize("header", [(b"content-length", b"4"), (b"transfer-encoding", b"chunked")])
async def test_a_body_is_asked_for_at_once(header: tuple[bytes, bytes]) -> None:
    proxy, got = Proxy(b"text"), list[Message]()
    await through(proxy, app_that_reads(1, got), 60, header)
    assert [one["body"] for one in got] == [b"text"]


async def test_a_socket_is_asked_for_at_once() -> None:
    proxy, got = Proxy(b"text"), list[Message]()
    await through(proxy, app_that_reads(1, got), 60, kind="websocket")
    assert [one["body"] for one in got] == [b"text"]
    assert proxy.asked >= 1


async def test_the_deployed_app_asks_late(tmp_path: Path) -> None:
    write_once(tmp_path / "token", new_secret())
    config = {"nats_url": "", "clickhouse_url": "", "token_file": str(tmp_path / "token"), "home": str(tmp_path)}
    replica = SimpleNamespace(_config=config)
    assert isinstance(cast("Any", Api).func_or_class.__serve_build_asgi_app__(replica), LateReceive)


async def test_the_receive_of_another_server_is_left_alone() -> None:
    given = list[Receive]()

    async def receive() -> Message:
        return GONE

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.append(receive)

    await LateReceive(app)({"type": "http", "headers": []}, receive, None)  # type: ignore[arg-type]
    assert given == [receive]
