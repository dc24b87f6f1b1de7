"""One-time codes: good once, for a while, and for one token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.serve.app import create_app
from enchanted.serve.guard.auth import Access
from enchanted.serve.guard.codes import AHEAD, LIFETIME, NONCE, Codes, new_code
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store

TOKEN = "secret-token"
STARTED = 1_000_000.0


def code(*, now: float = STARTED + 1, number: int = 0, token: str = TOKEN) -> str:
    return new_code(token, now=now, nonce=number.to_bytes(NONCE))


def codes() -> Codes:
    return Codes(TOKEN, since=STARTED)


def test_a_code_is_good_once() -> None:
    known = codes()
    assert known.redeem(code(), STARTED + 2)
    assert not known.redeem(code(), STARTED + 2)
    assert known.redeem(code(number=1), STARTED + 2)


def test_a_code_is_good_for_ten_minutes() -> None:
    assert codes().redeem(code(), STARTED + LIFETIME)
    assert not codes().redeem(code(), STARTED + 1 + LIFETIME)


def test_a_used_code_stays_used_until_it_is_too_old() -> None:
    known = codes()
    assert known.redeem(code(), STARTED + 1)
    for second in range(2, int(LIFETIME) + 10):
        known.redeem(code(now=STARTED + second, number=second), STARTED + second)
        assert not known.redeem(code(), STARTED + second)


def test_a_code_from_before_the_api_began_or_from_the_future_is_refused() -> None:
    assert not codes().redeem(code(now=STARTED - 1), STARTED + 1)
    assert not codes().redeem(code(now=STARTED + 100), STARTED + 100 - AHEAD - 1)


def test_a_code_of_another_token_is_refused() -> None:
    assert not codes().redeem(code(token="another"), STARTED + 2)


@given(st.text(max_size=100))
def test_no_text_is_a_code_by_chance(text: str) -> None:
    assert not codes().redeem(text, STARTED + 2)


@given(place=st.integers(0, 71), other=st.sampled_from("0123456789abcdefABCDEF g"))
def test_an_altered_code_is_refused(place: int, other: str) -> None:
    altered = code()[:place] + other + code()[place + 1 :]
    assert codes().redeem(altered, STARTED + 2) == (altered.lower() == code())


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    deps = Dependencies(
        store=Store("http://127.0.0.1:9/default", deadline=2),
        bus=BusLink("nats://127.0.0.1:9", deadline=0.5),
        access=Access(token=TOKEN),
        cache=tmp_path,
    )
    app = create_app(deps)
    app.state.codes = Codes(TOKEN, since=0)
    transport = httpx.ASGITransport(app)
    async with deps.store, deps.bus, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        yield http


async def test_the_page_gets_the_token_for_a_code_and_nobody_gets_it_again(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enchanted.serve.sessions.time.time", lambda: STARTED + 2)
    first = await client.post("/api/v1/sessions", json={"code": code()})
    assert (first.status_code, first.json()) == (200, {"token": TOKEN})
    assert first.headers["cache-control"] == "no-store"
    again = await client.post("/api/v1/sessions", json={"code": code()})
    assert (again.status_code, again.json()["code"]) == (403, "code-refused")
    assert "token" not in again.json()


async def test_a_session_is_opened_only_by_a_code(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/sessions")).status_code == 405
    assert (await client.post("/api/v1/sessions", json={})).status_code == 422
    assert (await client.post("/api/v1/sessions", json={"code": "x" * 200})).status_code == 422
    assert (await client.post("/api/v1/sessions", json={"code": "ünlesbar"})).status_code == 403
    refused = await client.post("/api/v1/sessions", json={"code": "x"}, headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert refused.json()["code"] == "origin-refused"
