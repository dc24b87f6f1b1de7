"""Checkpoints change how long a seek takes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enchanted.schemas.events import StoredEvent, model_call
from enchanted.schemas.fold import RunState, fold
from enchanted.serve.guard.auth import Access
from enchanted.serve.moments.checkpoints import is_settled, read_slim, slim
from enchanted.serve.moments.seek import Seeker
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, scripted


def seeker(world: World, cache: Path, *, every: int = 3, settled: float = 0.0, believed: float = 0.0) -> Seeker:
    deps = Dependencies(
        store=Store(world.store_url),
        bus=BusLink(world.nats.url),
        access=Access(token="t"),
        cache=cache,
        settled=timedelta(seconds=settled),
    )
    return Seeker(deps, every=every, believed=believed)


def whole(state: RunState) -> RunState:
    """Without the time, which the stream gives in parts of a second that the table rounds."""
    return replace(state, time=None)


async def test_the_state_at_every_sequence_is_the_same_from_any_checkpoint(
    world: World, history: History, tmp_path: Path
) -> None:
    first, end = seeker(world, tmp_path), history.events[-1].seq
    plain = {seq: whole(fold(history.events, at=seq)) for seq in range(end + 2)}
    assert whole((await first.seek(history.run, end)).state) == plain[end]
    for one in (first, seeker(world, tmp_path)):
        begun = set()
        for seq in range(end + 2):
            sought = await one.seek(history.run, seq)
            assert whole(sought.state) == plain[seq], seq
            begun.add(sought.checkpoint)
        assert len(begun) > 3


async def test_a_seek_between_two_checkpoints_needs_no_table(world: World, history: History, tmp_path: Path) -> None:
    await seeker(world, tmp_path).seek(history.run, history.events[-1].seq)
    away = replace(world, store_url="http://127.0.0.1:9/default")
    middle = history.events[len(history.events) // 2].seq
    sought = await seeker(away, tmp_path).seek(history.run, middle)
    assert whole(sought.state) == whole(fold(history.events, at=middle))


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
async def test_a_checkpoint_that_does_not_read_back_is_not_used(
    world: World, history: History, tmp_path: Path, damage: bytes | None
) -> None:
    end = history.events[-1].seq
    await seeker(world, tmp_path).seek(history.run, end)
    files = [path for path in (tmp_path / "states").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    again = seeker(world, tmp_path)
    for stored in history.events:
        assert whole((await again.seek(history.run, stored.seq)).state) == whole(fold(history.events, at=stored.seq))


async def test_a_checkpoint_that_is_gone_from_the_middle_hides_nothing(
    world: World, history: History, tmp_path: Path
) -> None:
    end = history.events[-1].seq
    await seeker(world, tmp_path).seek(history.run, end)
    states = sorted((tmp_path / "states").rglob("*.state"), key=lambda path: int(path.stem))
    assert len(states) > 3
    states[1].unlink()
    again = seeker(world, tmp_path)
    for stored in history.events:
        assert whole((await again.seek(history.run, stored.seq)).state) == whole(fold(history.events, at=stored.seq))


async def test_a_cache_that_takes_nothing_makes_no_seek_fail(world: World, history: History, tmp_path: Path) -> None:
    (tmp_path / "states").write_text("a file where the folder must be")
    sought = await seeker(world, tmp_path).seek(history.run, history.events[-1].seq)
    assert whole(sought.state) == whole(fold(history.events))


async def test_what_may_still_change_is_not_kept(world: World, history: History, tmp_path: Path) -> None:
    await seeker(world, tmp_path, settled=3_600).seek(history.run, history.events[-1].seq)
    assert not (tmp_path / "states").exists()


async def lost(world: World, run: str, seqs: list[int]) -> None:
    """Rows go, beside a copy of all of the run's."""
    given = {"run": run, "seqs": seqs}
    await world.table.command("CREATE TABLE aside AS events")
    await world.table.command("INSERT INTO aside SELECT * FROM events WHERE run = {run:String}", parameters=given)
    await world.table.command(
        "DELETE FROM events WHERE run = {run:String} AND stream_seq IN {seqs:Array(UInt64)}", parameters=given
    )


async def healed(world: World, run: str, seqs: list[int]) -> None:
    await world.table.command(
        "INSERT INTO events SELECT * FROM aside WHERE run = {run:String} AND stream_seq IN {seqs:Array(UInt64)}",
        parameters={"run": run, "seqs": seqs},
    )
    await world.table.command("DROP TABLE aside")


def last_of_the_coder(history: History, count: int) -> list[int]:
    seqs = [stored.seq for stored in history.events if stored.event.agent_name == "coder-1"]
    assert len(seqs) > count
    return seqs[-count:]


async def test_states_that_were_kept_while_an_agents_last_rows_were_away_are_not_used_once_they_are_back(
    world: World, tmp_path: Path
) -> None:
    history = await scripted(world, "run-healed-late")
    gone, end = last_of_the_coder(history, 4), history.events[-1].seq
    await lost(world, history.run, gone)
    first = seeker(world, tmp_path)
    without = [stored for stored in history.events if stored.seq not in gone]
    assert whole((await first.seek(history.run, end)).state) == whole(fold(without))
    assert (await first.seek(history.run, end)).checkpoint >= gone[-1]
    await healed(world, history.run, gone)
    for one in (seeker(world, tmp_path), first):
        for stored in reversed(history.events):
            sought = await one.seek(history.run, stored.seq)
            assert whole(sought.state) == whole(fold(history.events, at=stored.seq)), stored.seq
    assert (await first.seek(history.run, end)).checkpoint >= gone[-1]


async def test_what_was_kept_while_rows_were_away_is_replaced(world: World, tmp_path: Path) -> None:
    history = await scripted(world, "run-healed-and-kept")
    gone, end = last_of_the_coder(history, 3), history.events[-1].seq
    await lost(world, history.run, gone)
    one = seeker(world, tmp_path)
    await one.seek(history.run, end)
    await healed(world, history.run, gone)
    await one.seek(history.run, end)
    # Without the table nobody counts: what reads back is believed.
    away = seeker(replace(world, store_url="http://127.0.0.1:9/default"), tmp_path)
    places = [stored.seq for stored in history.events][2::3]
    for seq in places:
        assert whole((await away.seek(history.run, seq)).state) == whole(fold(history.events, at=seq)), seq
    for stored in history.events:
        assert (await one.seek(history.run, stored.seq)).checkpoint in {0, *places}


async def test_a_run_is_counted_again_after_a_while_and_not_at_every_seek(world: World, tmp_path: Path) -> None:
    history = await scripted(world, "run-counted-once")
    gone, end = last_of_the_coder(history, 2), history.events[-1].seq
    await seeker(world, tmp_path).seek(history.run, end)
    one, anew = seeker(world, tmp_path, believed=600), seeker(world, tmp_path)
    assert (await one.seek(history.run, end)).checkpoint >= gone[-1]
    await lost(world, history.run, gone)
    assert (await one.seek(history.run, end)).checkpoint >= gone[-1]
    assert (await anew.seek(history.run, gone[-1])).checkpoint < gone[0]
    await healed(world, history.run, gone)
    assert (await anew.seek(history.run, end)).checkpoint >= gone[-1]


def test_a_state_with_a_gap_is_not_settled_however_old(history: History) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    state = fold(history.events)
    assert is_settled(state, later, timedelta(0))
    gap = fold([stored for stored in history.events if stored.seq != history.events[3].seq])
    assert not is_settled(gap, later, timedelta(0))
    unnumbered = replace(state, agents={"a": replace(next(iter(state.agents.values())), agent_seq=0)})
    assert not is_settled(unnumbered, history.events[-1].time + timedelta(minutes=5), timedelta(0))


def test_what_is_kept_of_an_event_folds_the_same(history: History) -> None:
    kept = read_slim(b"".join(map(slim, history.events)), history.events[-1].seq)
    assert whole(fold(kept)) == whole(fold(history.events))
    assert sum(map(len, map(slim, history.events))) < sum(len(stored.raw) for stored in history.events)


def test_what_is_kept_of_a_model_call_names_the_context_and_not_its_text() -> None:
    call = model_call(model="m", messages=["long " * 99], parameters={}, completion="", finish_reason="stop")
    call.agent_id, call.event_id = "a", "e"
    whole_one = StoredEvent(seq=7, time=datetime.now(UTC), subject="", raw=b"", event=call)
    kept = slim(whole_one)
    assert whole(fold(read_slim(kept, 7))) == whole(fold([whole_one]))
    assert b"long" not in kept
