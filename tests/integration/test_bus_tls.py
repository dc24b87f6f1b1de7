"""The bus over TLS: a real server with a certificate of an authority of our own."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.consumer import PullConsumer
from enchanted.bus.errors import BusNotTrusted, BusUnreachable
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, free_port

MIB = 1024 * 1024


class Authority:
    """Signs certificates; ``file`` is its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        own = self._about(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._write(own, self.file)

    def certify(self, folder: Path) -> tuple[Path, Path]:
        """Certificate and key of a server on 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
        host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        folder.mkdir(exist_ok=True)
        self._write(self._about(name, key.public_key()).add_extension(host, critical=False), folder / "server.pem")
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "server.key").write_bytes(pem)
        return folder / "server.pem", folder / "server.key"

    def _about(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))

    def _write(self, builder: x509.CertificateBuilder, file: Path) -> None:
        file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


class TlsServer(NatsServer):
    """Takes clients over TLS only."""

    def __init__(self, folder: Path, certificate: Path, key: Path) -> None:
        super().__init__(folder)
        self.url = self.url.replace("nats://", "tls://")
        self._tls = f'tls {{\n  cert_file: "{certificate}"\n  key_file: "{key}"\n}}\n'

    async def _write_config(self) -> Path:
        config = await super()._write_config()
        config.write_text(config.read_text() + self._tls)
        return config


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TlsServer]:
    """A server whose authority we trust."""
    ours = Authority("ours", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.file))
    running = TlsServer(tmp_path / "nats", *ours.certify(tmp_path))
    try:
        await running.start()
        async with Bus.connect(running.url) as bus:
            await bus.ensure_streams(SMALL_LIMITS)
        yield running
    finally:
        await running.kill()


@pytest.fixture
async def untrusted(server: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TlsServer]:
    """Another server, whose authority we do not trust."""
    theirs = Authority("theirs", tmp_path)
    running = TlsServer(tmp_path / "untrusted", *theirs.certify(tmp_path / "certificate"))
    try:
        with monkeypatch.context() as meanwhile:
            meanwhile.setenv("SSL_CERT_FILE", str(theirs.file))
            await running.start()
        yield running
    finally:
        await running.kill()


async def publish(bus: Bus, count: int) -> list[bytes]:
    payloads = [new_id().encode() * 20 for _ in range(count)]
    await bus.publisher.publish_many(
        [Outgoing(subject="swarm.events.coder.decision.r", payload=one, event_id=new_id()) for one in payloads]
    )
    return payloads


async def take(consumer: PullConsumer, until: bytes) -> list[bytes]:
    """The payloads up to this one, acknowledged."""
    taken: list[bytes] = []
    while until not in taken:
        deliveries = await consumer.next_batch(1_000, MIB, 1.0)
        await consumer.ack_all(deliveries)
        taken += [delivery.payload for delivery in deliveries]
    return taken


async def test_what_is_published_over_tls_is_consumed_over_tls_also_after_the_server_was_killed(
    server: TlsServer,
) -> None:
    async with (
        asyncio.timeout(60),
        Bus.connect(server.url) as bus,
        PullConsumer(bus, durable="ingest") as consumer,
    ):
        payloads = await publish(bus, 2_500)
        assert await take(consumer, payloads[-1]) == payloads
        before = server.pid
        await server.kill()
        await server.start()
        assert server.pid != before
        more = await publish(bus, 10)
        # The acknowledgements may be lost with the server; then everything comes again.
        assert (await take(consumer, more[-1]))[-10:] == more
        data = new_id().encode() * 10_000
        assert await bus.blobs.get(await bus.blobs.put(data)) == data


async def test_a_server_of_an_authority_we_do_not_trust_is_refused_at_once_and_the_remedy_named(
    server: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority("theirs", tmp_path).file))
    async with asyncio.timeout(30):
        with pytest.raises(BusNotTrusted, match="SSL_CERT_FILE") as caught:
            await Bus.connect(server.url, connect_timeout=60).open()
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    assert server.password not in str(caught.value)


async def test_a_certificate_of_another_host_is_not_trusted(server: TlsServer) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(BusNotTrusted, match="localhost"):
            await Bus.connect(server.url.replace("127.0.0.1", "localhost"), connect_timeout=60).open()


async def test_one_untrusted_server_of_several_does_not_refuse_the_others(
    server: TlsServer, untrusted: TlsServer
) -> None:
    # nats-py tries them in an order of its own: of ten attempts, some begin with the untrusted one.
    async with asyncio.timeout(60):
        for _ in range(10):
            async with Bus.connect(f"{untrusted.url},{server.url}", connect_timeout=30) as bus:
                assert bus.link.server.endswith(f"127.0.0.1:{server.port}")


async def test_servers_none_of_which_is_trusted_are_refused_at_once(untrusted: TlsServer) -> None:
    urls = (untrusted.url, untrusted.url.replace("127.0.0.1", "localhost"))
    async with asyncio.timeout(30):
        with pytest.raises(BusNotTrusted, match="SSL_CERT_FILE"):
            await Bus.connect(",".join(urls), connect_timeout=60).open()


async def test_when_only_an_untrusted_server_answers_the_error_names_its_certificate(untrusted: TlsServer) -> None:
    absent = f"tls://127.0.0.1:{free_port()}"
    with pytest.raises(BusUnreachable, match=r"certificate .* is not trusted .* SSL_CERT_FILE") as caught:
        await Bus.connect(f"{untrusted.url},{absent}", connect_timeout=8).open()
    assert f"at 127.0.0.1:{untrusted.port} is" in str(caught.value)
    assert untrusted.password not in str(caught.value)
