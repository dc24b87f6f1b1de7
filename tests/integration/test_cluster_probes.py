"""Probes: what is not a healthy service is told apart, and nothing hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from enchanted.bus.testing import nats_server
from enchanted.cluster import probes, ray_head
from enchanted.cluster.probes import NotReady


@asynccontextmanager
async def listening(answer: bytes | None, *, asked: bytes = b"") -> AsyncIterator[int]:
    """A server that says ``answer``, once it was ``asked``, and closes; None says nothing for ever."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asked:
            await reader.readuntil(asked)
        if answer is None:
            await asyncio.sleep(30)
            return
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_real_bus_is_ready_and_wrong_credentials_are_not(tmp_path: Path) -> None:
    async with nats_server(tmp_path, limits=None) as server:
        await probes.nats(server.url)
        with pytest.raises(NotReady, match="Authorization Violation"):
            await probes.nats(server.url.replace(server.password, "wrong"))


async def test_a_cluster_is_ready_when_one_of_its_servers_is(tmp_path: Path) -> None:
    async with nats_server(tmp_path, limits=None) as server:
        await probes.nats(f"nats://127.0.0.1:1, {server.url}")
        await probes.nats(f"{server.url},nats://127.0.0.1:1")
    with pytest.raises(NotReady):
        await probes.nats(f"nats://127.0.0.1:1,{server.url}")


async def test_another_program_on_the_port_is_not_a_bus() -> None:
    async with listening(b"SSH-2.0-OpenSSH\r\n") as port:
        with pytest.raises(NotReady, match="not a NATS server"):
            await probes.nats(f"nats://127.0.0.1:{port}")


async def test_a_bus_without_jetstream_is_not_ready() -> None:
    async with listening(b'INFO {"server_id":"x"}\r\n') as port:
        with pytest.raises(NotReady, match="JetStream switched off"):
            await probes.nats(f"nats://127.0.0.1:{port}")


@pytest.mark.parametrize("told", [b"[]", b"1", b"{", b"[" * 50_000])
async def test_a_server_that_says_something_else_of_itself_is_not_a_bus(told: bytes) -> None:
    async with listening(b"INFO " + told + b"\r\n") as port:
        with pytest.raises(NotReady, match="is not a NATS server"):
            await probes.nats(f"nats://127.0.0.1:{port}")


@pytest.mark.parametrize("body", [b"[]", b"1", b'{"data": 1}', b'{"data": {"summary": [1, {"raylet": []}]}}'])
async def test_a_stranger_on_the_dashboards_port_is_not_ray(body: bytes) -> None:
    async with listening(b"HTTP/1.1 200 OK\r\n\r\n" + body, asked=b"\r\n\r\n") as port:
        with pytest.raises(NotReady, match="no living node"):
            await ray_head.ask(f"http://127.0.0.1:{port}", None)


async def test_a_token_of_ray_that_is_gone_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="cannot be read: No such file"):
        await ray_head.ask("http://127.0.0.1:1", tmp_path / "gone")


async def test_a_silent_server_is_given_up_in_time() -> None:
    async with listening(None) as port:
        begun = time.monotonic()
        with pytest.raises(NotReady, match=r"did not answer within 0\.2 s"):
            await probes.nats(f"nats://127.0.0.1:{port}", timeout=0.2)
        with pytest.raises(NotReady, match=r"did not answer within 0\.2 s"):
            await probes.http(f"http://127.0.0.1:{port}/ping", timeout=0.2)
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Busy\r\n\r\n", b"", b"\xff\xfe\r\n\r\n"])
async def test_every_answer_but_200_is_not_ready(answer: bytes) -> None:
    async with listening(answer) as port:
        with pytest.raises(NotReady):
            await probes.http(f"http://127.0.0.1:{port}/healthz")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data":', b"\xff", b"[" * 100_000])
async def test_a_200_answer_that_is_not_json_is_not_ready(body: bytes) -> None:
    async with listening(b"HTTP/1.1 200 OK\r\n\r\n" + body, asked=b"\r\n\r\n") as port:
        with pytest.raises(NotReady, match=f"127.0.0.1:{port} answered 200 without JSON"):
            await probes.http_json(f"http://u:secret@127.0.0.1:{port}/nodes")
        with pytest.raises(NotReady):
            await ray_head.ask(f"http://127.0.0.1:{port}", None)


async def test_a_closed_port_is_not_ready() -> None:
    with pytest.raises(NotReady):
        await probes.http("http://127.0.0.1:1/healthz")


async def test_until_ready_asks_again_and_raises_the_last_answer() -> None:
    asked = 0

    async def third_time() -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise NotReady("not yet")

    await probes.until_ready(third_time, deadline=5, interval=0.01)
    assert asked == 3

    async def never() -> None:
        raise NotReady("never")

    with pytest.raises(NotReady, match="never"):
        await probes.until_ready(never, deadline=0.05, interval=0.01)
