"""Probes understand every URL that the settings accept and the clients connect with."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from enchanted.bus.connection import Bus
from enchanted.bus.testing import free_port
from enchanted.cluster import deploy, probes, services
from enchanted.cluster.home import Home
from enchanted.cluster.probes import NotReady
from enchanted.cluster.settings import Settings, StreamSettings
from enchanted.cluster.state import Endpoints, State
from enchanted.ingest import tables
from enchanted.ingest.errors import TableUnavailable

TOKEN = "s3cr:t/%"
QUOTED = "s3cr%3At%2F%25"


@dataclass(frozen=True)
class Bare:
    """A nats-server with one token, without TLS, for clients and for WebSockets."""

    port: int
    socket_port: int


@asynccontextmanager
async def server_with_token(folder: Path, tls: str = "") -> AsyncIterator[Bare]:
    bare = Bare(free_port(), free_port())
    config = folder / "nats.conf"
    config.write_text(
        f"""\
        listen: "127.0.0.1:{bare.port}"
        max_payload: 2097152
        jetstream {{ store_dir: "{folder / "store"}" }}
        authorization {{ token: "{TOKEN}" }}
        websocket {{ listen: "127.0.0.1:{bare.socket_port}", {f"tls {{ {tls} }}" if tls else "no_tls: true"} }}
        """
    )
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "nats-server", "-c", config, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        for port in (bare.port, bare.socket_port):
            await _listens(port)
        yield bare
    finally:
        process.kill()
        await process.wait()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of a server on 127.0.0.1, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, hour = datetime.now(UTC), timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(host, critical=False)
    signed = builder.not_valid_before(now - hour).not_valid_after(now + hour).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(pem)
    return folder / "server.pem", folder / "server.key"


async def _listens(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def test_a_name_alone_is_a_token_for_the_probe_as_for_the_bus(tmp_path: Path) -> None:
    async with server_with_token(tmp_path) as server:
        url = f"nats://{QUOTED}@127.0.0.1:{server.port}"
        async with Bus.connect(url):
            pass
        await probes.nats(url, timeout=20)
        for wrong in ("other@", f"{QUOTED}:@", f"user:{QUOTED}@", ""):
            with pytest.raises(NotReady, match="Authorization Violation"):
                await probes.nats(f"nats://{wrong}127.0.0.1:{server.port}", timeout=20)


async def test_a_bus_behind_a_websocket_is_ready_and_wrong_credentials_are_not(tmp_path: Path) -> None:
    async with server_with_token(tmp_path) as server:
        url = f"ws://{QUOTED}@127.0.0.1:{server.socket_port}"
        async with Bus.connect(url):
            pass
        await probes.nats(url, timeout=20)
        await probes.nats(f"ws://127.0.0.1:1, {url}", timeout=20)
        with pytest.raises(NotReady, match="Authorization Violation"):
            await probes.nats(f"ws://other@127.0.0.1:{server.socket_port}", timeout=20)


async def test_a_bus_behind_a_websocket_with_tls_is_ready_when_its_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = self_signed(tmp_path)
    async with server_with_token(tmp_path, f'cert_file: "{certificate}", key_file: "{key}"') as server:
        url = f"wss://{QUOTED}@127.0.0.1:{server.socket_port}"
        with pytest.raises(NotReady, match="certificate verify failed"):
            await probes.nats(url, timeout=20)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with Bus.connect(url):
            pass
        await probes.nats(url, timeout=20)
        with pytest.raises(NotReady, match="Authorization Violation"):
            await probes.nats(url.replace(QUOTED, "other"), timeout=20)


async def test_what_is_no_websocket_is_not_ready_and_its_credentials_are_not_shown() -> None:
    async with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (port, _):
        with pytest.raises(NotReady, match=rf"^127\.0\.0\.1:{port}: .") as raised:
            await probes.nats(f"ws://user:hidden@127.0.0.1:{port}", timeout=20)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_nobody_behind_a_websocket_is_not_ready_and_its_credentials_are_not_shown(scheme: str) -> None:
    with pytest.raises(NotReady, match=r"^127\.0\.0\.1:1: ") as raised:
        await probes.nats(f"{scheme}://hidden@127.0.0.1:1", timeout=20)
    assert "hidden" not in str(raised.value)


async def test_a_silent_websocket_is_given_up_in_time() -> None:
    async with listening(b"") as (port, _):
        with pytest.raises(NotReady, match=r"did not answer within 0\.2 s"):
            await probes.nats(f"ws://127.0.0.1:{port}", timeout=0.2)


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[tuple[int, list[str]]]:
    """An HTTP server that answers so, and the first line of each request; nothing, and for ever, when it is empty."""
    asked = list[str]()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        asked.append(head.decode().partition("\r\n")[0])
        if answer:
            writer.write(answer)
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


ENDPOINTS = Endpoints(
    nats_url="nats://127.0.0.1:1",
    clickhouse_url="",
    api_url="http://127.0.0.1:1",
    ray_address="",
    ray_dashboard_url="",
    token_file=Path("/nowhere"),
    home=Path("/nowhere"),
)
FORMS = ("http://user:p%40ss@127.0.0.1:{}", "http://127.0.0.1:{}/", "http://user:p@127.0.0.1:{}/events?a=b/c")


@pytest.mark.parametrize("form", FORMS)
async def test_status_finds_a_store_whose_url_names_a_database_or_none(form: str) -> None:
    async with listening(b"HTTP/1.1 200 OK\r\n\r\nOk.\n") as (port, asked):
        current = State(phase="healthy", endpoints=replace(ENDPOINTS, clickhouse_url=form.format(port)))
        assert "store" not in await services._unhealthy(current)
    assert asked == ["GET /ping HTTP/1.0"]


@pytest.mark.parametrize("form", FORMS)
async def test_a_deployment_finds_a_store_whose_url_names_a_database_or_none(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def once(probe: probes.ProbeFunction) -> None:
        await probe()

    async def found(url: str) -> None:
        raise TableUnavailable(f"{url} is asked")

    monkeypatch.setattr(deploy, "_ready", once)
    monkeypatch.setattr(tables, "connect", found)
    async with server_with_token(tmp_path) as server, listening(b"HTTP/1.1 200 OK\r\n\r\nOk.\n") as (port, asked):
        endpoints = replace(
            ENDPOINTS, nats_url=f"nats://{QUOTED}@127.0.0.1:{server.port}", clickhouse_url=form.format(port)
        )
        settings = Settings(nats_url=endpoints.nats_url, stream=StreamSettings(max_bytes=64 * 1024**2))
        with pytest.raises(TableUnavailable, match="is asked"):
            await deploy.prepare_bus_and_store(endpoints, Home(tmp_path), settings)
    assert asked == ["GET /ping HTTP/1.0"]


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://h",
        "https://h/events",
        "http://user:p%3A80@h:",
        "http://user:80@[::1]/events",
        "https://[::1]:80",
        "http://user:p@h:08123/events",
    ],
)
async def test_the_store_is_asked_where_the_tables_are_connected(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    async def http(url: str, **_: object) -> bytes:
        asked.append(url)
        return b""

    monkeypatch.setattr(probes, "http", http)
    await probes.clickhouse(url)
    (ping,) = map(urlsplit, asked)
    options = tables._options(url)
    assert (ping.scheme, ping.hostname, ping.port) == (options["interface"], options["host"], options["port"])
    assert (ping.path, ping.username, ping.password) == ("/ping", urlsplit(url).username, urlsplit(url).password)


async def test_a_store_that_is_not_ready_is_told_without_its_credentials() -> None:
    async with listening(b"HTTP/1.1 503 Busy\r\n\r\n") as (port, _):
        with pytest.raises(NotReady, match=rf"^127\.0\.0\.1:{port}/ping answered 503$"):
            await probes.clickhouse(f"http://user:hidden@127.0.0.1:{port}")
    with pytest.raises(NotReady, match=r"^127\.0\.0\.1:1: "):
        await probes.clickhouse("http://user:hidden@127.0.0.1:1")
