"""What is asked just after the stream took something in, which the table gets about a second later."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.cluster.cli import execute
from enchanted.ingest.worker import DURABLE
from enchanted.schemas.events import run_transition, system_signal
from enchanted.serve.errors import TableBehind
from enchanted.serve.queries import runs
from enchanted.serve.sources import arrival
from enchanted.serve.sources.arrival import EVERYTHING, arrived
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.parameters import MAX_SEQ
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, scripted


async def test_what_was_undone_is_not_restored_by_who_asks_at_once(world: World, tmp_path: Path) -> None:
    history = await scripted(world, "run-undone-at-once")
    change = next(one for one in history.events if [file.path for file in one.event.state_change.files] == ["data.bin"])
    for name in ("first", "again"):
        undo = await world.http.post(
            f"/api/v1/runs/{history.run}/undos", json={"event_id": change.event.event_id, "dry_run": False}
        )
        assert undo.status_code == 200, undo.text
        restore = await world.http.post(
            f"/api/v1/runs/{history.run}/restores", json={"into": str(tmp_path / name), "dry_run": False}
        )
        assert (restore.status_code, restore.json()["at"]) == (200, undo.json()["seq"])
        assert (tmp_path / name / "data.bin").exists() is (name == "again")
        change = (await world.bus.read_run(history.run))[-1]


async def test_a_run_is_waited_for_until_the_table_has_what_the_stream_took_in(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-arrives", role="coder", agent_name="coder-1")
    async with BusLink(world.nats.url) as bus, Store(world.store_url) as store:
        assert await arrived(bus, "nobody", MAX_SEQ) == EVERYTHING
        for _ in range(3):
            first, last = await log.emit(system_signal(status="HEALTHY"), system_signal(status="HEALTHY"))
            horizon = await arrived(bus, "run-arrives", MAX_SEQ)
            assert horizon.seq >= last.seq
            rows = [row async for row in store.run_events("run-arrives", after=first.seq - 1)]
            assert [row.seq for row in rows] == [first.seq, last.seq]


async def test_a_table_that_stays_behind_is_named_and_nothing_is_restored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = await scripted(world, "run-behind")
    last = history.events[-1].seq
    monkeypatch.setattr(arrival, "GRACE", 0.3)

    async def stuck(bus: BusLink, durable: str) -> int:
        assert durable == DURABLE
        return last - 1

    monkeypatch.setattr(BusLink, "acknowledged", stuck)
    async with BusLink(world.nats.url) as bus:
        with pytest.raises(TableBehind, match=f"goes to sequence {last}, and ingest is at {last - 1}"):
            await arrived(bus, history.run, MAX_SEQ)
        assert (await arrived(bus, history.run, last - 1)).seq == last - 1


async def test_without_the_bus_the_table_is_taken_as_it_is() -> None:
    async with BusLink("nats://127.0.0.1:1", deadline=0.3) as bus:
        assert await arrived(bus, "any", MAX_SEQ) == EVERYTHING


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


async def test_a_receipt_holds_what_was_verified_and_no_more(world: World, tmp_path: Path) -> None:
    log = AgentLog(world.bus, run_id="run-grows", role="coder", agent_name="coder-1")
    last = (await log.emit(*(system_signal(status="HEALTHY") for _ in range(3))))[-1]
    verdict = await world.document("runs/run-grows/verify")
    assert (verdict["checked"], verdict["last_seq"]) == (3, last.seq)
    command = ["verify", "run-grows", "--url", world.url, "--token-file", str(world.token_file)]
    file = str(tmp_path / "receipt.json")
    assert await asyncio.to_thread(execute, [*command, "--export", file]) == 0
    await log.emit(system_signal(status="STOPPING"))
    assert await asyncio.to_thread(execute, [*command, "--against", file]) == 0
