"""Quick questions to running services, over plain sockets: importing a client costs more than the answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse

ProbeFunction = Callable[[], Awaitable[None]]

CLOSE_SECONDS = 0.1
"""A WebSocket is closed with a farewell of both sides, which says nothing about health."""


class NotReady(Exception):
    """The service does not answer as a healthy one does; says how."""


@contextlib.asynccontextmanager
async def _in_time(host: str, port: int, timeout: float) -> AsyncIterator[None]:
    """What is done within must be over in ``timeout`` seconds; what goes wrong in it is told as NotReady."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise NotReady(f"{host}:{port} did not answer within {timeout:g} s") from error
    except OSError as error:
        raise NotReady(f"{host}:{port}: {error.strerror or error}") from error
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise NotReady(f"{host}:{port} closed the connection or speaks another protocol") from error


@contextlib.asynccontextmanager
async def _connection(
    host: str, port: int, timeout: float, *, tls: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection whose whole use must be over in ``timeout`` seconds."""
    async with _in_time(host, port, timeout):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls or None)
        try:
            yield reader, writer
        finally:
            writer.close()


async def nats(url: str, *, timeout: float = 2.0) -> None:
    """Connect to a server of ``url``, which may name several, and, unless it wants TLS, log in.

    A WebSocket is opened by aiohttp, TLS included, so that ``wss://`` is logged in to as well.

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
    ask = _nats_in_websocket if parts.scheme in ("ws", "wss") else _nats_by_tcp
    await ask(parts, timeout)


async def _nats_by_tcp(parts: SplitResult, timeout: float) -> None:
    host, port = parts.hostname or "127.0.0.1", parts.port or 4222
    async with _connection(host, port, timeout) as (reader, writer):
        info = _info(await reader.readline(), f"{host}:{port}")
        if info.get("tls_required") or parts.scheme == "tls":
            return
        writer.write(_login(info, parts))
        _welcomed(await reader.readline())


async def _nats_in_websocket(parts: SplitResult, timeout: float) -> None:
    import aiohttp  # what nats-py speaks it with; too heavy for those who have no WebSocket

    # As the bus does: the login goes to NATS, not to what listens before it, and the ports are those of HTTP.
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    host, port = parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "wss" else 80)
    brief = aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS)
    trusted = ssl.create_default_context() if parts.scheme == "wss" else True
    try:
        async with (
            _in_time(host, port, timeout),
            aiohttp.ClientSession() as session,
            session.ws_connect(url, timeout=brief, ssl=trusted) as socket,
        ):
            info = _info(await _line(socket), f"{host}:{port}")
            await socket.send_bytes(_login(info, parts))
            _welcomed(await _line(socket))
    except (aiohttp.ClientError, aiohttp.WSMessageTypeError) as error:
        raise NotReady(f"{host}:{port}: {error}") from error


async def _line(socket: ClientWebSocketResponse) -> bytes:
    """The next line; what comes with it is left out, since nothing that a probe waits for comes before it has asked."""
    text = b""
    while b"\n" not in text:
        text += await socket.receive_bytes()
    return text.partition(b"\n")[0]


def _info(line: bytes, where: str) -> dict[str, Any]:
    """What a server says of itself when somebody connects."""
    verb, _, body = line.partition(b" ")
    if verb != b"INFO":
        raise NotReady(f"what listens at {where} is not a NATS server")
    with contextlib.suppress(ValueError, RecursionError):
        info = json.loads(body)
        if isinstance(info, dict):
            return info
    raise NotReady(f"what listens at {where} is not a NATS server")


def _login(info: Mapping[str, Any], parts: SplitResult) -> bytes:
    """The credentials of the URL, and a question that is answered only when they are good."""
    if not info.get("jetstream", False):
        raise NotReady("the NATS server has JetStream switched off")
    login = {"verbose": False, "pedantic": False, "lang": "python", "version": "1", "protocol": 1}
    if parts.username is not None and parts.password is None:
        login |= {"auth_token": unquote(parts.username)}  # nats://secret@host: a token, as every NATS client reads it
    elif parts.username is not None:
        login |= {"user": unquote(parts.username), "pass": unquote(parts.password or "")}
    return b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n"


def _welcomed(line: bytes) -> None:
    answer = line.strip()
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


async def clickhouse(url: str, *, timeout: float = 2.0) -> None:
    """Ask the ClickHouse of ``url``, which may name a database, as any client does first; raises NotReady as ``http``.

    A URL without a port has the one that the tables are connected with.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or (8443 if parts.scheme == "https" else 8123)
    login, at, _ = parts.netloc.rpartition("@")
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    await http(f"{parts.scheme}://{login}{at}{where}/ping", timeout=timeout)


async def http_json(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 2.0) -> Any:
    """The JSON of a 200 answer to GET ``url``; raises NotReady as ``http`` does, and when it is not JSON."""
    body = await http(url, headers=headers, timeout=timeout)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
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
