"""A run that is played over a real socket: paced, resumed, ended; and nothing is executed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.schemas.events import SwarmEvent, decision
from enchanted.serve.client import ApiClient
from enchanted.serve.client_errors import NothingFound
from enchanted.serve.guard.auth import Access
from enchanted.serve.live import play
from enchanted.serve.live.shared import Piece
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import EventRow, Store
from enchanted.serve.testing import History, World, served, until

FAST = 100_000
HEADERS = {"Authorization": "Bearer play-token"}


@dataclass
class Played:
    """What one connection brought."""

    seqs: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    """Seconds since the connection's first event."""
    signs: int = 0
    end: dict[str, Any] | None = None
    end_id: int = 0
    whole: bool = False
    """The server ended the body itself."""


async def played(http: httpx.AsyncClient, run: str, most: int = 10_000, after: int | None = None, **how: Any) -> Played:
    """A play to its end, or to the event number ``most``."""
    found, seq, kind = Played(), 0, ""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    async with asyncio.timeout(30), http.stream("GET", f"/api/v1/runs/{run}/play", params=how, headers=headers) as sent:
        assert sent.status_code == 200
        assert sent.headers["content-type"] == "text/event-stream; charset=utf-8"
        async for line in sent.aiter_lines():
            name, _, rest = line.partition(": ")
            seq, kind = (int(rest) if name == "id" else seq), (rest if name == "event" else kind)
            found.signs += line == ": alive"
            if name == "data" and kind == "end":
                found.end, found.end_id = json.loads(rest), seq
            elif name == "data":
                found.seqs.append(seq)
                found.events.append(json.loads(rest))
                found.came.append(time.monotonic())
                if len(found.seqs) == most:
                    return found
        found.whole = True
    return found


async def timed_run(world: World, run: str, *seconds: float) -> None:
    """A foreign run whose events say they were at these seconds."""
    assert (await world.get(f"runs/{run}")).status_code == 404, "another file of this world has a run of this name"
    for number, second in enumerate(seconds):
        event = SwarmEvent(event_id=f"{run}-{number}", trace_id=run, run_id=run, agent_id="tool")
        event.timestamp.FromMilliseconds(1_767_225_600_000 + int(second * 1_000))
        event.decision.rationale = f"thought {number}"
        await world.bus.publisher.publish(
            Outgoing(
                subject=f"swarm.events.coder.decision.{run}",
                payload=event.SerializeToString(),
                event_id=event.event_id,
            )
        )
    await world.stored(run, len(seconds))


def serving(world: World, tmp_path: Path, **settings: Any) -> Any:
    deps = Dependencies(
        store=Store(world.store_url, deadline=20),
        bus=BusLink(world.nats.url),
        access=Access(token="play-token"),
        cache=tmp_path,
        **settings,
    )
    return served(deps)


async def test_a_closed_run_is_played_in_its_order_as_it_is_stored_and_then_ends(
    world: World, history: History
) -> None:
    seqs = [stored.seq for stored in history.events]
    found = await played(world.http, history.run, speed=FAST)
    listed = (await world.document("events", run=history.run, limit=1_000))["data"]
    assert found.seqs == seqs
    assert found.events == listed
    assert found.end == {"run_id": history.run, "closed": True, "last_seq": seqs[-1]}
    assert found.end_id == seqs[-1]
    assert found.whole


async def test_nothing_is_executed_or_written_by_a_play(world: World, history: History) -> None:
    before, asked = await world.bus.stream_info(), len(world.starter.requests)
    await played(world.http, history.run, speed=FAST)
    after = await world.bus.stream_info()
    assert (after.last_seq, len(world.starter.requests)) == (before.last_seq, asked)


async def test_pauses_are_as_they_were_and_idle_gaps_are_cut(world: World) -> None:
    await timed_run(world, "run-paced", 0.0, 0.4, 3_600.0, 3_600.0)
    found = await played(world.http, "run-paced", speed=1, max_gap=0.8)
    first, second, third, _ = (one - found.came[0] for one in found.came)
    assert first == 0.0
    # The end of a pause that was late takes from the next; the first event may have been late too.
    assert second > 0.2
    assert third > 0.9, "`played` gives up after half a minute: an hour is not waited for"


async def test_a_play_at_another_speed_rests_by_the_pace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    async def noted(seconds: float, heartbeat: float) -> AsyncIterator[Piece]:
        rests.append(seconds)
        yield Piece()

    monkeypatch.setattr(play, "_rested", noted)
    await timed_run(world, "run-speed", 0.0, 2.0, 50.0)
    for speed in (1, 4):
        await played(world.http, "run-speed", speed=speed, max_gap=10)
    assert rests == pytest.approx([2.0, 10.0, 0.5, 2.5])


async def test_a_play_that_was_cut_goes_on_after_the_last_event_seen(world: World, history: History) -> None:
    seqs = [stored.seq for stored in history.events]
    begun = await played(world.http, history.run, most=5, speed=FAST)
    rest = await played(world.http, history.run, after=begun.seqs[-1], speed=FAST)
    assert begun.seqs + rest.seqs == seqs
    ended = await played(world.http, history.run, after=rest.end_id, speed=FAST)
    assert (ended.seqs, ended.end) == ([], rest.end)


async def test_a_play_begins_where_it_is_told_to_and_a_resume_goes_before_that(world: World, history: History) -> None:
    seqs = [stored.seq for stored in history.events]
    assert (await played(world.http, history.run, speed=FAST, **{"from": seqs[3]})).seqs == seqs[3:]
    assert (await played(world.http, history.run, speed=FAST, after=seqs[5], **{"from": seqs[3]})).seqs == seqs[6:]


async def test_of_an_open_run_what_there_is_is_played_and_the_end_says_that_it_goes_on(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-open-play", role="coder", agent_name="coder-1")
    told = await log.emit(*(decision(context_hash="", trigger="", rationale=str(n), action={}) for n in range(3)))
    await world.stored("run-open-play", 3)
    found = await played(world.http, "run-open-play", speed=FAST)
    assert found.seqs == [stored.seq for stored in told]
    assert found.end == {"run_id": "run-open-play", "closed": False, "last_seq": told[-1].seq}


async def test_what_is_not_in_the_table_yet_is_not_waited_for_and_comes_by_the_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def behind(self: BusLink, durable: str) -> int:
        return 0

    await timed_run(world, "run-played-behind", 0.0, 1.0)
    monkeypatch.setattr(BusLink, "acknowledged", behind)
    monkeypatch.setattr(BusLink, "read_run", None)
    found = await played(world.http, "run-played-behind", speed=FAST)
    assert (len(found.seqs), found.end) == (
        2,
        {"run_id": "run-played-behind", "closed": False, "last_seq": found.seqs[-1]},
    )


async def test_a_play_from_beyond_the_run_ends_with_a_sequence_that_the_run_has(world: World, history: History) -> None:
    last = history.events[-1].seq
    found = await played(world.http, history.run, speed=FAST, **{"from": 10**9})
    assert (found.seqs, found.end) == ([], {"run_id": history.run, "closed": True, "last_seq": last})
    assert (await played(world.http, history.run, after=found.end_id)).end == found.end


async def test_large_events_are_read_few_at_a_time_and_not_again_and_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AgentLog(world.bus, run_id="run-large-play", role="coder", agent_name="coder-1")
    filler, count = "x" * 100_000, 60
    told = await log.emit(
        *(decision(context_hash="", trigger="", rationale=f"{n} {filler}", action={}) for n in range(count))
    )
    await world.stored("run-large-play", count)
    read, fitting = list[int](), Store.fitting_events

    async def counted(self: Store, name: str, limit: int, **parameters: Any) -> tuple[list[EventRow], bool]:
        rows, more = await fitting(self, name, limit, **parameters)
        read.append(len(rows))
        return rows, more

    monkeypatch.setattr(Store, "fitting_events", counted)
    found = await played(world.http, "run-large-play", speed=FAST)
    assert found.seqs == [stored.seq for stored in told]
    assert sum(read) < 2 * count, read


async def test_a_run_of_more_than_a_page_is_played_whole(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-long-play", role="coder", agent_name="coder-1")
    filler = "x" * 3_000
    thoughts = (decision(context_hash="", trigger="", rationale=f"{n} {filler}", action={}) for n in range(1_100))
    told = await log.emit(*thoughts)
    await world.stored("run-long-play", len(told))
    found = await played(world.http, "run-long-play", speed=FAST)
    assert found.seqs == [stored.seq for stored in told]


@pytest.mark.parametrize(
    "how",
    [{"speed": 0}, {"speed": -1}, {"speed": "nan"}, {"speed": 1e9}, {"max_gap": 1e9}, {"max_gap": -1}, {"gap": 1}],
)
async def test_a_speed_or_gap_beyond_its_limits_is_refused(world: World, history: History, how: dict[str, Any]) -> None:
    answer = await world.get(f"runs/{history.run}/play", **how)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
    assert next(iter(how)) in answer.json()["detail"]


async def test_an_unknown_run_and_a_position_it_never_had_are_refused(world: World, history: History) -> None:
    unknown = await world.get("runs/run-nobody/play")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "run-not-found")
    url = f"/api/v1/runs/{history.run}/play"
    ahead = await world.http.get(url, headers={"Last-Event-ID": str(10**9)})
    assert (ahead.status_code, ahead.json()["code"]) == (409, "sequence-ahead")
    odd = await world.http.get(url, headers={"Last-Event-ID": "x"})
    assert (odd.status_code, odd.json()["code"]) == (400, "bad-request")


async def test_a_play_has_a_place_that_no_stream_lacks_and_a_client_that_goes_gives_it_back(
    world: World, tmp_path: Path
) -> None:
    await timed_run(world, "run-place", 0.0, 3_000.0)
    async with (
        asyncio.timeout(60),
        serving(world, tmp_path, max_plays=1, heartbeat=0.1) as url,
        httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=20) as http,
    ):
        path = "/api/v1/runs/run-place/play?speed=1&max_gap=3000"
        async with http.stream("GET", path) as first:
            lines = first.aiter_lines()  # held: when it is collected the connection is closed
            signs = [line async for line in _up_to(lines, ": alive")]
            assert sum(line.startswith("data: ") for line in signs) == 1, "the second is fifty minutes away"
            async with http.stream("GET", "/api/v1/stream") as live:
                assert live.status_code == 200
            assert (await http.get(path)).status_code == 429

        async def free() -> bool:
            async with http.stream("GET", path) as again:
                return again.status_code == 200

        await until(free)
        for _ in range(2):
            assert (await http.get("/api/v1/runs/run-nobody/play")).status_code == 404


async def _up_to(lines: AsyncIterator[str], last: str) -> Any:
    async for line in lines:
        yield line
        if line == last:
            return


async def test_the_client_plays_a_run_to_its_end(world: World, history: History) -> None:
    def ask() -> list[int]:
        with ApiClient(world.url, world.token_file.read_text().strip()) as client:
            with pytest.raises(NothingFound):
                next(client.play("run-nobody"))
            return [event["seq"] for event in client.play(history.run, speed=FAST, start=history.events[2].seq)]

    assert await asyncio.to_thread(ask) == [stored.seq for stored in history.events[2:]]
