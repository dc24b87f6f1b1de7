"""What is asked just after the stream took something in, which the table gets about a second later."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import chain, islice, repeat
from pathlib import Path

import httpx
import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.streams import StreamInfo
from enchanted.bus.testing import nats_server
from enchanted.cluster.cli import execute
from enchanted.cluster.commands.reading import _going_on
from enchanted.cluster.testing_world import TOKEN
from enchanted.ingest.worker import DURABLE
from enchanted.schemas.events import run_transition, system_signal
from enchanted.schemas.receipt import parse_receipt
from enchanted.serve.acts import undo
from enchanted.serve.client import ApiClient
from enchanted.serve.errors import BusUnavailable, TableBehind
from enchanted.serve.guard.auth import Access
from enchanted.serve.queries import runs
from enchanted.serve.sources import arrival
from enchanted.serve.sources.arrival import arrived
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.parameters import MAX_SEQ
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, scripted, served


def binary_change(history: History) -> str:
    """The event that made the file `data.bin`."""
    paths = ((one.event.event_id, [file.path for file in one.event.state_change.files]) for one in history.events)
    return next(event_id for event_id, found in paths if found == ["data.bin"])


async def act(world: World, resource: str, **body: object) -> httpx.Response:
    return await world.http.post(f"/api/v1/runs/{resource}", json={"dry_run": False, **body})


async def test_what_was_undone_is_told_of_by_whoever_is_asked_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "GRACE", 60)
    history = await scripted(world, "run-undone-and-asked")
    done = await act(world, f"{history.run}/undos", event_id=binary_change(history))
    assert (await world.document(f"runs/{history.run}/state"))["at"] == done.json()["seq"]


async def test_a_restore_waits_for_what_the_stream_took_in_just_now(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await scripted(world, "run-undone-at-once")
    monkeypatch.setattr(arrival, "GRACE", 60)

    async def at_once(deps: Dependencies, run: str, until: int) -> None:
        pass

    monkeypatch.setattr(undo, "arrived", at_once)
    undone = await act(world, f"{history.run}/undos", event_id=binary_change(history))
    restored = await act(world, f"{history.run}/restores", into=str(tmp_path / "into"))
    assert (restored.status_code, restored.json()["at"]) == (200, undone.json()["seq"])
    assert not (tmp_path / "into" / "data.bin").exists()


async def nothing_acknowledged(bus: BusLink, durable: str) -> int:
    assert durable == DURABLE
    return 0


async def test_a_table_that_stays_behind_is_named_and_nothing_is_restored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await scripted(world, "run-behind")
    last = history.events[-1].seq
    monkeypatch.setattr(arrival, "GRACE", 0.3)
    # Somebody else's event, that ingest cannot be rid of, holds the acknowledgements back.
    monkeypatch.setattr(BusLink, "acknowledged", nothing_acknowledged)
    whole = await act(world, f"{history.run}/restores", into=str(tmp_path / "whole"))
    assert whole.status_code == 200, "all of this run is there"
    await world.table.command(
        "DELETE FROM events WHERE run = {run:String} AND stream_seq = {seq:UInt64}",
        parameters={"run": history.run, "seq": last},
    )
    behind = await act(world, f"{history.run}/restores", into=str(tmp_path / "behind"))
    assert (behind.status_code, behind.json()["code"], behind.headers["retry-after"]) == (503, "table-behind", "5")
    assert (
        f"goes to sequence {last}, and the table lacks 1 of its events up to there, the first at {last}"
        in behind.json()["detail"]
    )
    assert not (tmp_path / "behind").exists()
    earlier = await act(world, f"{history.run}/restores", into=str(tmp_path / "earlier"), at=last - 1)
    assert earlier.status_code == 200, earlier.text


async def test_without_the_bus_the_table_is_taken_as_it_is_and_a_bus_that_goes_meanwhile_is_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Store(world.store_url)
    access = Access(token=TOKEN)
    async with BusLink("nats://127.0.0.1:1", deadline=0.3) as bus:
        await arrived(Dependencies(store=store, bus=bus, access=access, cache=tmp_path), "any", MAX_SEQ)
    answers = iter([0])

    async def once(bus: BusLink, durable: str) -> int:
        for answer in answers:
            return answer
        raise BusUnavailable("gone")

    monkeypatch.setattr(BusLink, "acknowledged", once)
    log = AgentLog(world.bus, run_id="run-cut-off", role="coder", agent_name="coder-1")
    await log.emit(system_signal(status="HEALTHY"))
    async with BusLink(world.nats.url) as bus:
        deps = Dependencies(store=store, bus=bus, access=access, cache=tmp_path)
        await arrived(deps, "nobody", MAX_SEQ)
        with pytest.raises(TableBehind, match="gone"):
            await arrived(deps, "run-cut-off", MAX_SEQ)


async def test_a_run_that_closes_between_two_questions_is_closed_by_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AgentLog(world.bus, run_id="run-closes", role="operator", agent_name="orchestrator")
    await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="begin"))
    await world.stored("run-closes", 1)
    async with Store(world.store_url) as store:
        ask = store.rows

        async def slowly(name: str, /, **parameters: object) -> list[dict[str, object]]:
            if name == "run_transitions":
                monkeypatch.setattr(store, "rows", ask)
                await log.emit(run_transition(subject="run", from_state="created", to_state="merged", reason="end"))
                await world.stored("run-closes", 2)
            return await ask(name, **parameters)

        monkeypatch.setattr(store, "rows", slowly)
        (between,) = await runs.read_runs(store, run="run-closes")
        assert (between["closed"], between["events"], between["last_seq"]) == (False, 1, between["first_seq"])
        (then,) = await runs.read_runs(store, run="run-closes")
        assert (then["closed"], then["events"]) == (True, 2)


async def test_a_verdict_and_its_receipt_are_of_the_moment_they_were_asked_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AgentLog(world.bus, run_id="run-grows", role="coder", agent_name="coder-1")
    stored = await log.emit(*(system_signal(status="HEALTHY") for _ in range(4)))
    await world.stored("run-grows", 4)
    then = replace(await world.bus.stream_info(), last_seq=stored[1].seq)

    async def stream_info(bus: BusLink) -> StreamInfo:
        return then

    now = BusLink.stream_info
    # Asked for by `prove`, by `read_run`, and about what came later; then once more by the command.
    answers = chain([stream_info, stream_info, now] * 2, repeat(now))

    monkeypatch.setattr(BusLink, "stream_info", lambda bus: next(answers)(bus))
    # As with several workers: the last is there, and the one before it is not yet.
    await world.table.command(
        "DELETE FROM events WHERE run = 'run-grows' AND stream_seq = {seq:UInt64}", parameters={"seq": stored[2].seq}
    )
    verdict = await world.document("runs/run-grows/verify")
    assert (verdict["intact"], verdict["complete"], verdict["checked"]) == (True, True, 2)
    assert verdict["last_seq"] == stored[1].seq
    command = ["verify", "run-grows", "--url", world.url, "--token-file", str(world.token_file)]
    file = tmp_path / "receipt.json"
    assert await asyncio.to_thread(execute, [*command, "--export", str(file)]) == 0
    assert parse_receipt(file.read_bytes()).last_seq == stored[1].seq


async def test_rows_of_a_former_stream_are_not_held_against_the_one_that_took_its_name(
    world: World, tmp_path: Path
) -> None:
    log = AgentLog(world.bus, run_id="run-former", role="coder", agent_name="coder-1")
    await log.emit(*(system_signal(status="HEALTHY") for _ in range(3)))
    await world.stored("run-former", 3)
    count = (await world.bus.stream_info()).last_seq
    async with nats_server(tmp_path / "nats") as server, Bus.connect(server.url) as bus:
        other = AgentLog(bus, run_id="run-of-now", role="coder", agent_name="coder-1")
        for _ in range(0, count, 100):
            await other.emit(*(system_signal(status="HEALTHY") for _ in range(100)))
        deps = Dependencies(
            store=Store(world.store_url), bus=BusLink(server.url), access=Access(token=TOKEN), cache=tmp_path / "cache"
        )
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with served(deps) as url, httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
            verdict = (await http.get("/api/v1/runs/run-former/verify")).json()
    assert (verdict["intact"], verdict["complete"], verdict["checked"]) == (True, True, 3)
    assert (verdict["stream"]["checked"], verdict["stream"]["why"]) == (False, "the run is older than the stream")


async def test_a_tail_begins_with_what_was_on_its_way_between_stream_and_table(world: World) -> None:
    with ApiClient(world.url, TOKEN) as client:
        whole = (await asyncio.to_thread(client.pipeline))["ingest"]["acknowledged_seq"]
        log = AgentLog(world.bus, run_id="run-tailed", role="coder", agent_name="coder-1")
        seqs = [one.seq for one in await log.emit(*(system_signal(status="HEALTHY") for _ in range(4)))]

        def begun(past: list[int], whole: int, count: int) -> list[int]:
            shown = [{"seq": seq} for seq in past]
            return [one["seq"] for one in islice(_going_on(client, shown, whole, {"run": "run-tailed"}), count)]

        assert await asyncio.to_thread(begun, [], whole, 4) == seqs
        assert await asyncio.to_thread(begun, seqs[:3], seqs[3], 1) == seqs[3:]
        # Several workers: the table had a later one first.
        assert await asyncio.to_thread(begun, [seqs[0], seqs[2]], whole, 2) == [seqs[1], seqs[3]]
