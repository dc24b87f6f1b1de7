"""Who may ask the API, and the form of every refusal."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.serve.app import MAX_BODY, create_app
from enchanted.serve.guard.auth import Access, access_from
from enchanted.serve.openapi import COMMITTED, description
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store

TOKEN = "secret-token"
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The app over backends that are not there."""
    deps = Dependencies(
        store=Store("http://127.0.0.1:9/default", deadline=2),
        bus=BusLink("nats://127.0.0.1:9", deadline=0.5),
        access=Access(token=TOKEN, origins=frozenset({"https://trusted.example"})),
        cache=tmp_path,
    )
    transport = httpx.ASGITransport(create_app(deps))
    async with deps.store, deps.bus, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        yield http


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["code"] == code
    assert document["title"]
    assert document["detail"]
    return document


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer "},
        {"Authorization": b"Bearer \xff\xfe"},
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
    ],
)
async def test_a_missing_or_wrong_token_is_refused(client: httpx.AsyncClient, headers: Any) -> None:
    for path in ("/api/v1/runs", "/openapi.json", "/readyz", "/nothing"):
        response = await client.get(path, headers=headers)
        assert_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_token_in_the_query_opens_nothing(client: httpx.AsyncClient) -> None:
    for name in ("token", "access_token", "authorization"):
        assert_problem(await client.get("/api/v1/runs", params={name: TOKEN}), 401, "unauthorized")


async def test_the_scheme_of_the_token_is_read_in_any_case(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json", headers={"Authorization": f"bearer {TOKEN}"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "127.0.0.2", "[::2]"]
)
async def test_another_host_name_is_refused_even_with_the_token(client: httpx.AsyncClient, host: str) -> None:
    for path in ("/", "/healthz", "/openapi.json"):
        assert_problem(await client.get(path, headers={**ALLOWED, "Host": host}), 421, "host-refused")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8000"])
async def test_a_loopback_name_is_served_at_any_port(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/healthz", headers={"Host": host})).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8000", "http://127.0.0.1:8000/"],
)
async def test_a_page_of_another_origin_is_refused(client: httpx.AsyncClient, origin: str) -> None:
    assert_problem(await client.get("/openapi.json", headers={**ALLOWED, "Origin": origin}), 403, "origin-refused")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "https://127.0.0.1:8000", "https://trusted.example"])
async def test_the_own_page_and_named_origins_are_served(client: httpx.AsyncClient, origin: str) -> None:
    assert (await client.get("/openapi.json", headers={**ALLOWED, "Origin": origin})).status_code == 200


async def test_the_page_is_open_and_runs_only_its_own_script(client: httpx.AsyncClient) -> None:
    for path in ("/", "/runs/run-1", "/traces/00aa", "/compare/run-1/run-2", "/cluster"):
        response = await client.get(path)
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-cache")
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert "http" not in response.text
        assert "<script>" not in response.text


async def test_the_files_of_the_page_are_kept_by_the_browser(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    names = re.findall(r'"(/static/[^"]+)"', page)
    assert len(names) >= 3
    for name in names:
        response = await client.get(name)
        assert response.status_code == 200
        assert ("immutable" in response.headers["cache-control"]) == name.startswith("/static/assets/")
        known = {"If-None-Match": response.headers["etag"]}
        assert (await client.get(name, headers=known)).status_code == 304
    assert_problem(await client.get("/static/../app.py"), 401, "unauthorized")
    assert_problem(await client.get("/static/%2e%2e/app.py"), 404, "not-found")


async def test_unknown_paths_methods_and_parameters_are_problems(client: httpx.AsyncClient) -> None:
    client.headers.update(ALLOWED)
    assert_problem(await client.get("/nothing"), 404, "not-found")
    refused = await client.delete("/api/v1/runs")
    assert_problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"] == "GET, POST"
    document = assert_problem(await client.get("/api/v1/events?limit=5000&colour=red"), 422, "invalid-request")
    assert {error["where"][-1] for error in document["errors"]} == {"limit", "colour"}


async def test_a_lone_surrogate_in_a_body_is_a_problem(client: httpx.AsyncClient) -> None:
    client.headers.update(ALLOWED)
    body = b'{"task": "\\ud800", "repo": "\\ud800", "\\udfff": 1}'
    response = await client.post("/api/v1/runs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "invalid-request")


async def test_a_body_over_a_mebibyte_is_refused_and_not_read_to_its_end(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b" " * (1 << 16)

    headers = {**ALLOWED, "Content-Type": "application/json"}
    for body in (b" " * (MAX_BODY + 1), endless()):
        response = await client.post("/api/v1/runs", content=body, headers=headers)
        assert_problem(response, 413, "body-too-large")
        assert_problem(await client.post("/api/v1/runs", content=body), 401, "unauthorized")
    assert sent <= MAX_BODY + (1 << 16)


@pytest.mark.parametrize("chunks", [1, 3])
async def test_a_body_within_the_limit_arrives_whole(client: httpx.AsyncClient, chunks: int) -> None:
    document = b'{"task": "' + b"x" * 20_000 + b'", "repo": 1}'
    size = -(-len(document) // chunks)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(document), size):
            yield document[start : start + size]

    headers = {**ALLOWED, "Content-Type": "application/json"}
    for body in (document, pieces()):
        response = await client.post("/api/v1/runs", content=body, headers=headers)
        found = assert_problem(response, 422, "invalid-request")
        assert [error["where"] for error in found["errors"]] == [["body", "repo"]]


async def test_an_unknown_field_names_the_known_ones(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/events?fields=decision.colour", headers=ALLOWED)
    assert "rationale" in assert_problem(response, 422, "invalid-request")["detail"]


async def test_backends_that_are_away_are_a_problem_that_says_when_to_retry(client: httpx.AsyncClient) -> None:
    client.headers.update(ALLOWED)
    for path in ("/api/v1/runs", "/api/v1/events", "/api/v1/runs/r/verify", "/api/v1/events/x", "/api/v1/traces/x"):
        response = await client.get(path)
        assert_problem(response, 503, "store-unavailable")
        assert response.headers["retry-after"]
    assert_problem(await client.get("/api/v1/stream"), 503, "bus-unavailable")
    document = assert_problem(await client.get("/readyz"), 503, "not-ready")
    assert document["dependencies"]["store"]["ok"] is False
    assert document["dependencies"]["bus"]["ok"] is False


async def test_runs_cannot_be_started_without_a_starter(client: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    body = {"task": "tidy", "repo": str(tmp_path)}
    assert_problem(await client.post("/api/v1/runs", json=body, headers=ALLOWED), 503, "runs-unavailable")


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="token"):
        access_from(tmp_path / "token", hosts=())


def test_names_and_origins_from_the_settings_are_let_in_whatever_their_case(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    access = access_from(tmp_path / "token", hosts=("Swarm.Example",), origins=("https://Page.Example",))
    assert access.hosts >= {"swarm.example", "localhost"}
    assert access.origins == {"https://page.example"}


def test_every_answer_that_is_an_error_is_described_as_a_problem() -> None:
    document = json.loads(description())
    assert document["security"] == [{"bearer": []}]
    for answer in document["components"]["responses"].values():
        assert answer["content"].keys() == {"application/problem+json"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {"401", "413", "421", "429", "500", "503", "4XX"} <= operation["responses"].keys()
            assert not {"default", "5XX"} & operation["responses"].keys()
            assert operation["responses"]["4XX"] == {"$ref": "#/components/responses/Refused"}
            assert (operation.get("security") == []) == (path in ("/", "/healthz", "/api/v1/sessions"))


def test_the_committed_description_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == description()
