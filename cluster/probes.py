"""Quick questions to running services, over plain sockets: importing a client costs more than the answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

ProbeFunction = Callable[[], Awaitable[None]]


class NotReady(Exception):
    """The service does not answer as a healthy one does; says how."""


@contextlib.asynccontextmanager
async def _connection(
    host: str, port: int, timeout: float, *, tls: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection whose whole use must be over in ``timeout`` seconds."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls or None)
            try:
                yield reader, writer
            finally:
                writer.close()
    except TimeoutError as error:
        raise NotReady(f"{host}:{port} did not answer within {timeout:g} s") from error
    except OSError as error:
        raise NotReady(f"{host}:{port}: {error.strerror or error}") from error
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise NotReady(f"{host}:{port} closed the connection or speaks another protocol") from error


async def nats(url: str, *, timeout: float = 2.0) -> None:
    """Connect to a server of ``url``, which may name several, and, unless it wants TLS, log in.

    Raises:
        NotReady: none answers, is a NATS server, and takes the credentials; says why the last one does not.
    """
    *others, last = url.split(",")
    for other in others:
        try:
            return await _nats(other.strip(), timeout)
        except NotReady:
            continue
    return await _nats(last.strip(), timeout)


async def _nats(url: str, timeout: float) -> None:
    parts = urlsplit(url)
    async with _connection(parts.hostname or "127.0.0.1", parts.port or 4222, timeout) as (reader, writer):
        verb, _, body = (await reader.readline()).partition(b" ")
        if verb != b"INFO":
            raise NotReady(f"what listens at {parts.hostname}:{parts.port} is not a NATS server")
        info = json.loads(body)
        if info.get("tls_required") or parts.scheme == "tls":
            return
        if not info.get("jetstream", False):
            raise NotReady("the NATS server has JetStream switched off")
        login = {"verbose": False, "pedantic": False, "lang": "python", "version": "1", "protocol": 1}
        if parts.username:
            login |= {"user": unquote(parts.username), "pass": unquote(parts.password or "")}
        writer.write(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
        answer = (await reader.readline()).strip()
        if answer != b"PONG":
            raise NotReady(f"the NATS server refuses: {answer.decode(errors='replace')}")


async def http(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 2.0) -> bytes:
    """The body of a 200 answer to GET ``url``; credentials in the URL are sent as basic authentication.

    Raises:
        NotReady: no answer, or another status.
    """
    parts = urlsplit(url)
    sent = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close", **(headers or {})}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        sent["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    async with _connection(parts.hostname or "127.0.0.1", port, timeout, tls=tls) as (reader, writer):
        # HTTP/1.0: the answer is not chunked and ends with the connection.
        writer.write(f"GET {target} HTTP/1.0\r\n{lines}\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise NotReady(f"{parts.hostname}:{parts.port}{parts.path} answered {b''.join(status).decode() or 'nothing'}")
    return body


async def http_json(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 2.0) -> Any:
    """The JSON of a 200 answer to GET ``url``; raises NotReady as ``http`` does, and when it is not JSON."""
    body = await http(url, headers=headers, timeout=timeout)
    try:
        return json.loads(body)
    except ValueError as error:
        # Ray's dashboard says 200 and nothing more while what it passes the question on to is starting.
        raise NotReady(f"{urlsplit(url).netloc.rpartition('@')[2]} answered 200 without JSON: {body[:80]!r}") from error


async def until_ready(probe: ProbeFunction, *, deadline: float, interval: float = 0.05) -> None:
    """Ask again until the probe passes.

    Raises:
        NotReady: its last answer when ``deadline`` seconds are over.
    """
    end = time.monotonic() + deadline
    while True:
        try:
            await probe()
        except NotReady:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(interval)
        else:
            return
