"""How often one client may ask, and who counts as one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.serve.app import create_app
from enchanted.serve.guard.auth import Access
from enchanted.serve.guard.rate import MOST_CLIENTS, Buckets, Rate, RateLimit, client_of
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_at_once_and_then_as_it_is_filled() -> None:
    clock = Clock()
    buckets = Buckets(Rate(per_second=10, burst=3), clock)
    assert [buckets.wait("a") for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]
    clock.now += 0.05
    assert buckets.wait("a") == pytest.approx(0.05), "a refusal costs nothing"
    clock.now += 0.05
    assert (buckets.wait("a"), buckets.wait("a")) == (0, pytest.approx(0.1))
    assert buckets.wait("b") == 0, "another client has a bucket of its own"
    clock.now += 3_600
    assert [bool(buckets.wait("a")) for _ in range(4)] == [False, False, False, True], "it never holds more"


def test_over_a_long_time_a_client_gets_its_rate() -> None:
    clock = Clock()
    buckets = Buckets(Rate(per_second=50, burst=200), clock)
    served = 0
    for _ in range(10_000):
        served += not buckets.wait("a")
        clock.now += 0.001
    assert served == pytest.approx(200 + 10 * 50, abs=1)


def test_a_flood_of_addresses_takes_no_more_memory_than_is_kept_for_them() -> None:
    buckets = Buckets(Rate(), Clock())
    for number in range(MOST_CLIENTS + 500):
        buckets.wait(str(number))
    assert len(buckets) == MOST_CLIENTS


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        (("127.0.0.1", 1), None),
        (("127.9.9.9", 1), None),
        (("::1", 1), None),
        (("::ffff:127.0.0.1", 1), None),
        (("192.0.2.7", 1), "192.0.2.7"),
        (("192.0.2.7", 2), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:0:1::5", 1), "2001:db8:0:1::/64"),
        (("2001:db8:0:1:9::5", 1), "2001:db8:0:1::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (("no address", 1), ""),
        (None, ""),
    ],
)
def test_loopback_is_not_counted_and_an_ipv6_site_is_one_client(client: Any, counted: str | None) -> None:
    assert client_of({"type": "http", "client": client}) == counted


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Any]:
    """Clients by address of an API that lets each ask twice, then once in ten seconds."""
    deps = Dependencies(
        store=Store("http://127.0.0.1:9/default", deadline=2),
        bus=BusLink("nats://127.0.0.1:9", deadline=0.5),
        access=Access(token="t"),
        cache=tmp_path,
        rate=Rate(per_second=0.1, burst=2),
    )
    app = create_app(deps)

    def client(address: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, client=(address, 4_000))
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")

    async with deps.store, deps.bus:
        yield client


async def test_who_asks_too_often_is_told_when_to_come_again(limited: Any) -> None:
    async with limited("192.0.2.1") as http, limited("192.0.2.2") as other:
        # A wrong token costs as much as a right one.
        statuses = [(await http.get("/api/v1/runs")).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        refused = await http.get("/healthz")
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert refused.json()["code"] == "rate-limited"
        assert (await other.get("/healthz")).status_code == 200


async def test_nobody_on_this_machine_is_refused(limited: Any) -> None:
    async with limited("127.0.0.1") as http:
        assert {(await http.get("/healthz")).status_code for _ in range(20)} == {200}


async def test_a_rate_of_zero_is_no_limit() -> None:
    asked = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1

    limit = RateLimit(app, Rate(per_second=0, burst=1), Clock())
    for _ in range(5):
        await limit({"type": "http", "client": ("192.0.2.1", 1)}, None, None)  # type: ignore[arg-type]
    assert asked == 5


async def test_a_socket_that_comes_too_often_is_not_opened() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def send(message: Any) -> None:
        sent.append(message)

    limit = RateLimit(app, Rate(per_second=1, burst=1), Clock())
    for _ in range(2):
        await limit({"type": "websocket", "client": ("192.0.2.1", 1)}, None, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1013}]
