"""The live WebSocket over real sockets: who may, from where, and what happens to odd clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.schemas.events import SwarmEvent, decision
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


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    async with Bus.connect(nats.url) as bus:
        yield bus


@asynccontextmanager
async def serving(nats: NatsServer, folder: Path, **settings: Any) -> AsyncIterator[str]:
    deps = Dependencies(
        store=Store("http://127.0.0.1:9/default", deadline=2),
        bus=BusLink(nats.url),
        access=Access(token=TOKEN),
        cache=folder,
        **settings,
    )
    async with served(deps) as url:
        yield url.replace("http:", "ws:") + "/api/v1/live"


def thought(number: int) -> SwarmEvent:
    return decision(context_hash="c", trigger="t", rationale=f"thought {number}", action={})


async def said(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next so many events."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            message = json.loads(await socket.recv())
            assert message["type"] in ("events", "alive"), message
            events += message.get("events", [])
    return events


async def refusal(socket: ClientConnection) -> dict[str, Any]:
    """What a client is told before it is cut off."""
    found: dict[str, Any] = {}
    async with asyncio.timeout(20):
        with suppress(ConnectionClosed):
            async for message in socket:
                found = json.loads(message).get("problem", found)
    return {**found, "close": socket.close_code}


async def test_events_come_from_a_sequence_on_and_then_live(nats: NatsServer, bus: Bus, tmp_path: Path) -> None:
    log = AgentLog(bus, run_id="r", role="coder", agent_name="coder-1")
    past = await log.emit(*(thought(n) for n in range(20)))
    async with serving(nats, tmp_path) as url, connect(url) as socket:
        await socket.send(json.dumps({"token": TOKEN, "resume_from": past[4].seq, "filter": {"run": "r"}}))
        assert [event["seq"] for event in await said(socket, 15)] == [one.seq for one in past[5:]]
        later = await log.emit(thought(20))
        assert (await said(socket, 1))[0]["event_id"] == later[0].event.event_id


@pytest.mark.parametrize(
    ("first", "word"),
    [
        ("", "not valid"),
        ("{", "not valid"),
        ("[]", "not valid"),
        ('{"token": 5}', "not valid"),
        ('{"resume_from": -1}', "not valid"),
        ('{"more": 1}', "not valid"),
        ('{"filter": {"role": "king"}}', "not valid"),
        ("x" * 100_000, "not valid"),
        (b"\xff\x00\xfe", "not valid"),
        ('{"resume_from": 0}', "bearer token"),
        ('{"token": "wrong"}', "bearer token"),
        ('{"token": "\\ud800"}', "not valid"),
        (json.dumps({"token": TOKEN, "resume_from": 10**9}), "has not reached"),
    ],
)
async def test_a_first_message_that_is_no_good_is_answered_and_the_connection_ends(
    nats: NatsServer, bus: Bus, tmp_path: Path, first: str | bytes, word: str
) -> None:
    async with serving(nats, tmp_path) as url, connect(url) as socket:
        await socket.send(first)
        told = await refusal(socket)
        assert (told["close"], word in told["title"]) == (1008, True), told


async def test_another_origin_another_path_and_another_host_get_no_socket(
    nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    async with serving(nats, tmp_path) as url:
        for target, headers in (
            (url, {"Origin": "https://elsewhere.example"}),
            (url, {"Host": "elsewhere.example"}),
            (url + "/x", {}),
        ):
            with pytest.raises(InvalidHandshake):
                async with connect(target, additional_headers=headers, origin=None):
                    pass


async def test_of_many_sockets_at_once_only_so_many_are_served(nats: NatsServer, bus: Bus, tmp_path: Path) -> None:
    async with serving(nats, tmp_path, max_streams=5) as url, AsyncExitStack() as stack:
        opened = await asyncio.gather(*(connect(url) for _ in range(5)))
        for socket in opened:
            stack.push_async_callback(socket.close)
        # Five are waited for, so nobody else is let in, whoever they are.
        for _ in range(3):
            with pytest.raises(InvalidStatus):
                await connect(url)
        for socket in opened:
            await socket.send(json.dumps({"token": TOKEN, "resume_from": 0}))
        await AgentLog(bus, run_id="r", role="coder", agent_name="coder-1").emit(thought(1))
        assert [len(await said(socket, 1)) for socket in opened] == [1] * 5
        for _ in range(3):
            async with connect(url) as late:
                await late.send(json.dumps({"token": TOKEN}))
                told = await refusal(late)
                assert (told["close"], told["code"]) == (1013, "too-many-streams")


async def test_sockets_that_say_nothing_take_no_place_of_those_who_may_ask(
    nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    async with serving(nats, tmp_path, max_streams=2) as url:
        http = url.replace("ws:", "http:").replace("/live", "/stream")
        async with connect(url), connect(url):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(headers=headers, timeout=30) as client, client.stream("GET", http) as answer:
                assert answer.status_code == 200

        async def free() -> bool:
            try:
                async with connect(url), connect(url):
                    return True
            except InvalidStatus:
                return False

        await until(free)


async def test_a_client_that_never_reads_is_cut_off_and_others_go_on(
    nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    log = AgentLog(bus, run_id="r", role="coder", agent_name="coder-1")
    async with serving(nats, tmp_path, slow_client=0.3, max_streams=2) as url, connect(url) as reader:
        await reader.send(json.dumps({"token": TOKEN, "resume_from": 0}))
        lazy = await connect(url, max_queue=1, compression=None)
        await lazy.send(json.dumps({"token": TOKEN, "resume_from": 0}))
        big = decision(context_hash="c", trigger="t", rationale="x" * 60_000, action={})
        for _ in range(60):
            await log.emit(*(SwarmEvent.FromString(big.SerializeToString()) for _ in range(10)))
        assert len(await said(reader, 600)) == 600

        async def free() -> bool:
            async with connect(url) as third:
                await third.send(json.dumps({"token": TOKEN, "resume_from": 0}))
                return bool(json.loads(await third.recv())["type"] != "error")

        async with asyncio.timeout(20):
            while not await free():  # noqa: ASYNC110 - the other end is in this process, but says nothing
                await asyncio.sleep(0.05)
        lazy.transport.abort()


async def test_whatever_a_client_says_later_ends_its_connection_only(
    nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    async with serving(nats, tmp_path) as url:
        async with connect(url) as socket:
            await socket.send(json.dumps({"token": TOKEN}))
            await socket.send("more")
            await asyncio.wait_for(socket.wait_closed(), 20)
        async with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
            await socket.send("{}")
            log = AgentLog(bus, run_id="r", role="coder", agent_name="coder-1")
            await asyncio.sleep(0)
            stored = await log.emit(thought(1))
            assert stored[0].seq > 0
