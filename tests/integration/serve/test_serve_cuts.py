"""Live streams that are cut at any moment, also in the middle of a frame, while a thousand events a second come."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from enchanted.bus.connection import Bus
from enchanted.bus.testing import nats_server
from enchanted.serve.auth import Access
from enchanted.serve.buslink import BusLink
from enchanted.serve.dependencies import Dependencies
from enchanted.serve.store import Store
from enchanted.serve.testing import served

TOKEN = "live-token"
RATE = 1_000
BATCH = 20
MOMENT = (0.005, 0.05)
"""Seconds between connecting and the cut."""


@dataclass
class Cuts:
    """What a client saw, and how often it was cut off while events came."""

    wanted: int
    seen: list[int] = field(default_factory=list)
    made: int = 0
    torn: int = 0
    """Cuts that left a part of a frame."""

    @property
    def whole(self) -> bool:
        return self.last >= self.wanted

    @property
    def last(self) -> int:
        return self.seen[-1] if self.seen else 0


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    async with nats_server(tmp_path / "nats") as nats, Bus.connect(nats.url):
        deps = Dependencies(
            store=Store("http://127.0.0.1:9/default", deadline=2),
            bus=BusLink(nats.url),
            access=Access(token=TOKEN),
            cache=tmp_path,
        )
        async with served(deps) as served_at:
            yield served_at, nats.url


async def sse(url: str, cuts: Cuts, chance: random.Random) -> None:
    """Read for a moment, and drop the connection somewhere in what comes then."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Last-Event-ID": str(cuts.last)}
    rest, end = b"", time.monotonic() + chance.uniform(*MOMENT)
    # Reading the certificate authorities takes longer than the connection lives.
    client = httpx.AsyncClient(timeout=20, verify=False)
    async with client as http, http.stream("GET", url + "/api/v1/stream", headers=headers) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            over = time.monotonic() > end
            *frames, rest = (rest + chunk[: chance.randrange(len(chunk)) if over else None]).split(b"\n\n")
            cuts.seen += [seq for seq in map(sequence_of, frames) if seq]
            if over or cuts.whole:
                break
    cuts.torn += bool(rest)


def sequence_of(frame: bytes) -> int:
    """Of the event in a frame; 0 where there is none."""
    lines = dict(line.split(b": ", 1) for line in frame.splitlines() if b": " in line)
    seq = int(lines[b"id"]) if b"data" in lines else 0
    assert not seq or json.loads(lines[b"data"])["seq"] == seq
    return seq


async def websocket(url: str, cuts: Cuts, chance: random.Random) -> None:
    """The same over a WebSocket, which is torn down without a goodbye."""
    end = time.monotonic() + chance.uniform(*MOMENT)
    async with connect(url.replace("http", "ws") + "/api/v1/live", max_size=None) as socket:
        await socket.send(json.dumps({"token": TOKEN, "resume_from": cuts.last}))
        while time.monotonic() < end and not cuts.whole:
            message = await asyncio.wait_for(socket.recv(), 20)
            cuts.seen += [event["seq"] for event in json.loads(message).get("events", [])]
        socket.transport.abort()


PUBLISHER = """
import asyncio, sys, time
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.schemas.events import decision

url, count, rate, batch = sys.argv[1], *map(int, sys.argv[2:])

async def main():
    async with Bus.connect(url) as bus:
        log = AgentLog(bus, run_id="r", role="coder", agent_name="coder-1")
        begun = time.monotonic()
        for start in range(0, count, batch):
            await asyncio.sleep(max(0.0, begun + start / rate - time.monotonic()))
            thoughts = (f"thought {n}" for n in range(start, start + batch))
            await log.emit(*(decision(context_hash="c", trigger="t", rationale=t, action={}) for t in thoughts))
        print(count / (time.monotonic() - begun))

asyncio.run(main())
"""


async def published(nats_url: str, count: int) -> float:
    """Publish at the rate, from a process of its own; the rate that was reached."""
    arguments = [str(one) for one in (count, RATE, BATCH)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUBLISHER, nats_url, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return float(output)


async def cut_again_and_again(
    read: Callable[[str, Cuts, random.Random], Awaitable[None]], url: str, count: int, publishing: asyncio.Task[float]
) -> Cuts:
    cuts, chance = Cuts(wanted=count), random.Random(11)
    while not cuts.whole:
        await read(url, cuts, chance)
        cuts.made += not publishing.done()
    return cuts


@pytest.mark.parametrize("seconds", [20, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
async def test_two_hundred_cuts_at_a_thousand_events_a_second_leave_no_gap_and_no_repeat(
    url: tuple[str, str], seconds: int
) -> None:
    served_at, nats_url = url
    count = seconds * RATE
    publishing = asyncio.create_task(published(nats_url, count))
    over_sse, over_websocket, rate = await asyncio.gather(
        cut_again_and_again(sse, served_at, count, publishing),
        cut_again_and_again(websocket, served_at, count, publishing),
        publishing,
    )
    print(
        f"{rate:.0f} events/s; SSE: {over_sse.made} cuts, {over_sse.torn} in a frame; WebSocket: {over_websocket.made}"
    )
    for cuts in (over_sse, over_websocket):
        assert cuts.seen == list(range(1, count + 1))
        assert cuts.made >= 200
    assert over_sse.torn >= 100
    assert rate > 0.9 * RATE
