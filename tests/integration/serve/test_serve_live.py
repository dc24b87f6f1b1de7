"""The live stream over real sockets: cut, resumed, filtered; nothing missing, nothing twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, free_port, nats_server
from enchanted.schemas.events import SwarmEvent, decision
from enchanted.serve.client import ApiClient
from enchanted.serve.client_errors import ApiUnreachable, NothingFound, RequestRefused
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import served, until

TOKEN = "live-token"


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as server:
        yield server


@asynccontextmanager
async def serving(nats: NatsServer, tmp_path: Path, port: int, **settings: Any) -> AsyncIterator[str]:
    """The API on a real socket; its table store is away."""
    deps = Dependencies(
        store=Store("http://127.0.0.1:9/default", deadline=2),
        bus=BusLink(nats.url),
        access=Access(token=TOKEN),
        cache=tmp_path,
        **settings,
    )
    async with served(deps, port) as url:
        yield url


def _thought(number: int) -> SwarmEvent:
    return decision(context_hash="c", trigger="t", rationale=f"thought {number}", action={})


class Follower:
    """`ApiClient.follow` in a thread, as the command line uses it."""

    def __init__(self, url: str, **filters: object) -> None:
        self.seen: list[dict[str, Any]] = []
        self._filters = filters
        self._url = url
        self._wanted = 0
        self._there = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self, wanted: int) -> Follower:
        self._wanted = wanted
        self._thread.start()
        return self

    def _follow(self) -> None:
        with ApiClient(self._url, TOKEN) as client:
            for document in client.follow(**self._filters):  # type: ignore[arg-type]
                self.seen.append(document)
                if len(self.seen) >= self._wanted:
                    self._there.set()
                    return

    async def until(self, count: int) -> None:
        async def there() -> bool:
            return len(self.seen) >= count

        await until(there)


async def test_a_stream_that_is_cut_goes_on_without_gap_or_repeat(nats: NatsServer, tmp_path: Path) -> None:
    port = free_port()
    async with Bus.connect(nats.url) as bus:
        log = AgentLog(bus, run_id="run-1", role="coder", agent_name="coder-1")
        await log.emit(*(_thought(number) for number in range(200)))
        async with serving(nats, tmp_path, port) as url:
            follower = Follower(url, after=0).start(600)
            await follower.until(200)
            await log.emit(*(_thought(number) for number in range(100)))
            await follower.until(250)
        await log.emit(*(_thought(number) for number in range(100)))
        async with serving(nats, tmp_path, port):
            await log.emit(*(_thought(number) for number in range(200)))
            await follower.until(600)
    assert [document["seq"] for document in follower.seen] == list(range(1, 601))


async def test_a_stream_outlives_the_bus(nats: NatsServer, tmp_path: Path) -> None:
    async with Bus.connect(nats.url) as bus, serving(nats, tmp_path, free_port(), heartbeat=0.2) as url:
        log = AgentLog(bus, run_id="run-1", role="coder", agent_name="coder-1")
        await log.emit(_thought(1))
        follower = Follower(url, after=0).start(3)
        await follower.until(1)
        await nats.kill()
        await nats.start()
        await log.emit(_thought(2), _thought(3))
        await follower.until(3)
    assert [document["seq"] for document in follower.seen] == [1, 2, 3]


async def test_filters_let_through_what_they_name_and_move_the_position_on(nats: NatsServer, tmp_path: Path) -> None:
    async with Bus.connect(nats.url) as bus, serving(nats, tmp_path, free_port(), heartbeat=0.3) as url:
        mine = AgentLog(bus, run_id="run-1", role="coder", agent_name="coder-1")
        other = AgentLog(bus, run_id="run-2", role="reviewer", agent_name="reviewer")
        for number in range(5):
            await mine.emit(_thought(number))
            await other.emit(_thought(number))
        for filters in ({"run": "run-1"}, {"agent": "coder-1"}, {"agent": mine.agent_id}, {"role": "coder"}):
            follower = Follower(url, after=0, **filters).start(5)
            await follower.until(5)
            assert {document["run_id"] for document in follower.seen} == {"run-1"}
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as http:
            lines = await _lines(http, f"{url}/api/v1/stream?after=0&kind=tool_call", until="id: 10")
            now = await _lines(http, f"{url}/api/v1/stream", until=": alive")
    assert "id: 10" in lines
    assert "id: 10" in now, "who is cut off before the first event comes back to here"
    assert not [line for line in lines if line.startswith("data")]


async def test_who_is_cut_off_before_the_first_event_of_all_misses_nothing(nats: NatsServer, tmp_path: Path) -> None:
    async with (
        Bus.connect(nats.url) as bus,
        serving(nats, tmp_path, free_port()) as url,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as http,
    ):
        assert "id: 0" in await _lines(http, f"{url}/api/v1/stream", until="id: 0")
        await AgentLog(bus, run_id="run-1", role="coder", agent_name="coder-1").emit(_thought(1))
        http.headers["Last-Event-ID"] = "0"
        assert "id: 1" in await _lines(http, f"{url}/api/v1/stream", until="id: 1")


async def _lines(http: httpx.AsyncClient, url: str, *, until: str) -> list[str]:
    found: list[str] = []
    async with asyncio.timeout(30), http.stream("GET", url) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "content-length" not in response.headers
        async for line in response.aiter_lines():
            found.append(line)
            if line == until:
                return found
    return found


async def test_a_foreign_producers_event_has_its_trace_as_its_run(nats: NatsServer, tmp_path: Path) -> None:
    async with Bus.connect(nats.url) as bus, serving(nats, tmp_path, free_port()) as url:
        event = SwarmEvent(event_id="e-1", trace_id="ab" * 16, agent_id="go-tool", decision={"rationale": "why"})
        await bus.publisher.publish(
            Outgoing(subject="swarm.events.architect.decision", payload=event.SerializeToString(), event_id="e-1")
        )
        follower = Follower(url, after=0, run="ab" * 16).start(1)
        await follower.until(1)
    assert follower.seen[0]["decision"] == {"rationale": "why"}


async def test_a_position_the_stream_never_had_is_refused(nats: NatsServer, tmp_path: Path) -> None:
    async with (
        serving(nats, tmp_path, free_port()) as url,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as http,
    ):
        ahead = await http.get(f"{url}/api/v1/stream", headers={"Last-Event-ID": "7"})
        assert (ahead.status_code, ahead.json()["code"]) == (409, "sequence-ahead")
        for bad in ("x", "-1", "1e3", "²", "9" * 30, "9" * 300):
            response = await http.get(f"{url}/api/v1/stream", headers=[(b"Last-Event-ID", bad.encode())])
            assert response.status_code in (400, 422)
            assert response.headers["content-type"] == "application/problem+json"


async def test_only_so_many_streams_are_open_at_once(nats: NatsServer, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        serving(nats, tmp_path, free_port(), max_streams=1) as url,
        httpx.AsyncClient(headers=headers, timeout=30) as http,
    ):
        async with http.stream("GET", f"{url}/api/v1/stream") as first:
            lines = first.aiter_lines()
            assert await anext(lines) == "retry: 1000"
            refused = await http.get(f"{url}/api/v1/stream")
            assert refused.status_code == 429
            assert refused.headers["retry-after"]
        async with asyncio.timeout(30):
            while True:
                async with http.stream("GET", f"{url}/api/v1/stream") as again:
                    if again.status_code == 200:
                        break
                await asyncio.sleep(0.02)


async def test_of_many_that_come_at_once_only_so_many_get_a_stream(nats: NatsServer, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    limits = httpx.Limits(max_connections=None)
    async with (
        serving(nats, tmp_path, free_port(), max_streams=5) as url,
        httpx.AsyncClient(headers=headers, limits=limits, timeout=20) as http,
    ):
        for _ in range(3):
            async with AsyncExitStack() as stack:
                opened = stack.enter_async_context
                answers = await asyncio.gather(*(opened(http.stream("GET", f"{url}/api/v1/stream")) for _ in range(40)))
                assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 35
            await _until_free(http, url, 5)


async def _until_free(http: httpx.AsyncClient, url: str, count: int) -> None:
    """Wait until so many streams can be opened again."""

    async def free() -> bool:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                answer = await stack.enter_async_context(http.stream("GET", f"{url}/api/v1/stream"))
                if answer.status_code != 200:
                    return False
        return True

    await until(free)


async def test_a_stream_that_is_refused_gives_its_place_back(nats: NatsServer, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        serving(nats, tmp_path, free_port(), max_streams=1) as url,
        httpx.AsyncClient(headers=headers, timeout=30) as http,
    ):
        for _ in range(3):
            assert (await http.get(f"{url}/api/v1/stream", params={"after": 10**9})).status_code == 409
            assert (await http.get(f"{url}/api/v1/stream", params={"role": "king"})).status_code == 422
            assert (await http.get(f"{url}/api/v1/stream", headers={"Last-Event-ID": "x"})).status_code == 400
        async with http.stream("GET", f"{url}/api/v1/stream") as answer:
            assert answer.status_code == 200


async def test_a_client_that_takes_nothing_is_cut_off(
    nats: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Bus.connect(nats.url) as bus, serving(nats, tmp_path, free_port(), slow_client=0.3) as url:
        log = AgentLog(bus, run_id="run-1", role="coder", agent_name="coder-1")
        filler = "x" * 100_000
        for _ in range(8):
            await log.emit(*(decision(context_hash="", trigger="", rationale=filler, action={}) for _ in range(10)))
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        request = f"GET /api/v1/stream?after=0 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()

        async def cut_off() -> bool:
            return "took nothing for 0.3 s and was cut off" in caplog.text

        await until(cut_off)
        received = 0
        async with asyncio.timeout(30):
            while piece := await reader.read(65536):
                received += len(piece)
        writer.close()
        assert received < 8_000_000


async def test_the_client_names_what_went_wrong(nats: NatsServer, tmp_path: Path) -> None:
    port = free_port()
    async with serving(nats, tmp_path, port) as url:

        def ask() -> None:
            with ApiClient(url, "wrong") as client, pytest.raises(RequestRefused, match="token"):
                client.runs()
            with ApiClient(url, TOKEN) as client:
                with pytest.raises(ApiUnreachable, match="table store"):
                    client.runs()
                with pytest.raises(RequestRefused):
                    client.events(limit=0)
                with pytest.raises(NothingFound):
                    client._json("nothing")
                assert client.ready()["dependencies"]["bus"]["ok"] is True

        await asyncio.to_thread(ask)

    def ask_nobody() -> None:
        with (
            ApiClient(f"http://127.0.0.1:{port}", TOKEN) as client,
            pytest.raises(ApiUnreachable, match="enchanted up"),
        ):
            client.runs()

    await asyncio.to_thread(ask_nobody)
