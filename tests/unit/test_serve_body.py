"""A body that is too slow, or never comes, gives its place back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from enchanted.serve.guard.body import IDLE_SECONDS, TOTAL_SECONDS, BodyLimit

ANNOUNCED, CHUNKED = (b"content-length", b"10"), (b"transfer-encoding", b"chunked")
LONG = 60.0
"""Seconds; longer than any request here."""


class Client:
    """Sends its pieces with a pause before each, then nothing more."""

    def __init__(self, *pieces: bytes, whole: bool = False, pause: float = 0) -> None:
        self._left = [
            {"type": "http.request", "body": one, "more_body": not whole or number < len(pieces)}
            for number, one in enumerate(pieces, 1)
        ]
        self._pause = pause
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        await asyncio.sleep(self._pause)
        if not self._left:
            await asyncio.Event().wait()
        return self._left.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def refusal(self) -> dict[str, object]:
        start, body = self.sent
        headers = dict(start["headers"])
        assert (start["status"], headers[b"connection"]) == (408, b"close")
        assert headers[b"content-type"] == b"application/problem+json"
        document: dict[str, object] = json.loads(body["body"])
        return document


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers with the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def through(
    client: Client, *headers: tuple[bytes, bytes], idle: float = LONG, total: float = LONG, path: str = "/"
) -> None:
    scope: Scope = {"type": "http", "path": path, "headers": list(headers)}
    async with asyncio.timeout(LONG / 2):
        await BodyLimit(echo, 100, {}, spans={"/v1/traces"}, idle=idle, total=total)(scope, client.receive, client.send)


@pytest.mark.parametrize("header", [ANNOUNCED, CHUNKED])
@pytest.mark.parametrize("pieces", [(), (b"12",)])
async def test_a_body_of_which_nothing_more_comes_is_refused(header: tuple[bytes, bytes], pieces: tuple[bytes]) -> None:
    client = Client(*pieces)
    await through(client, header, idle=0.05)
    document = client.refusal()
    assert (document["status"], document["code"]) == (408, "body-overdue")
    assert "send it again" in str(document["detail"])


@pytest.mark.parametrize("header", [ANNOUNCED, CHUNKED])
async def test_a_body_that_only_trickles_is_refused(header: tuple[bytes, bytes]) -> None:
    client = Client(*[b"x"] * 90, pause=0.02)
    await through(client, header, total=0.2)
    assert client.refusal()["code"] == "body-overdue"


@pytest.mark.parametrize("header", [ANNOUNCED, CHUNKED])
async def test_a_slow_body_that_keeps_coming_arrives_whole(header: tuple[bytes, bytes]) -> None:
    client = Client(b"0123", b"456", b"789", whole=True, pause=0.05)
    await through(client, header, idle=5)
    assert client.sent[1]["body"] == b"0123456789"


async def test_a_request_without_a_body_is_not_waited_for() -> None:
    got = list[Receive]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(receive)

    client = Client()
    await BodyLimit(app, 100, {}, idle=0, total=0)({"type": "http", "headers": []}, client.receive, client.send)
    assert got == [client.receive], "Ray Serve's own, which LateReceive has looked after"


async def test_an_exporter_of_spans_is_told_to_send_them_again() -> None:
    client = Client(b"12")
    await through(client, ANNOUNCED, idle=0.05, path="/v1/traces")
    start = client.sent[0]
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"1"), "of OTLP's own statuses to repeat"


def test_the_deadlines_leave_time_for_what_exporters_send() -> None:
    assert 10 < IDLE_SECONDS < 30 < TOTAL_SECONDS, "exporters give up after 10 seconds, collectors after 30"


@contextlib.asynccontextmanager
async def served(limit: BodyLimit) -> AsyncIterator[int]:
    """The app on a real socket; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(limit, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def test_a_silent_client_is_answered_and_cut_off_while_others_are_served() -> None:
    async with served(BodyLimit(echo, 100, {}, idle=0.5)) as port, asyncio.timeout(LONG):
        ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in silent:
            writer.write(ask)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ask + b"0123456789")
        assert (await reader.readuntil(b"0123456789")).startswith(b"HTTP/1.1 200")
        writer.close()
        for reader, writer in silent:
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"body-overdue" in answer
            writer.close()
