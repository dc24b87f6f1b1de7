"""`verify --deep` of a long run, piece by piece: what a piece costs, waits for, and leaves."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enchanted.actors.repository.patch_check import PatchCheck
from enchanted.cluster.cli import execute
from enchanted.cluster.commands import reading_proof
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import SwarmEvent, kind_of
from enchanted.serve.moments import history as history_routes
from enchanted.serve.moments import patches
from enchanted.serve.moments.checked import Checked
from enchanted.serve.testing import History, World


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece ends where a test says so, not after the seconds that one may take."""
    monkeypatch.setattr(history_routes, "SLICE", 600.0)


def path_of(history: History) -> str:
    return f"runs/{history.run}/verify/patches"


async def pieces(world: World, history: History) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while True:
        found = await world.document(path_of(history), after=after)
        yield found
        if found["whole"] or found["why"] or found["first_bad"]:
            return
        after = found["until"]


def kept(world: World, history: History, seq: int) -> list[Path]:
    """The files of git that a piece after this sequence begins with."""
    folder = Path(world.folder, "cache", f"{sha256_hex(history.run)[:32]}-deep", f"{seq}.git", "objects")
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_many_pieces_come_to_what_one_does_and_a_later_one_begins_with_few_files(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await world.document(path_of(history))
    monkeypatch.setattr(history_routes, "SLICE", 0.0)
    found = [piece async for piece in pieces(world, history)]
    # At the last event a piece does not know yet that it is the last.
    assert [piece["until"] for piece in found] == [*(one.seq for one in history.events), history.events[-1].seq]
    assert sum(piece["changes"] for piece in found) == whole["changes"]
    same = ("intact", "whole", "skipped", "until", "why", "first_bad")
    assert {name: found[-1][name] for name in same} == {name: whole[name] for name in same}
    changes = [one.seq for one in history.events if kind_of(one.event) == "state_change"]
    assert len(changes) == 9
    files = kept(world, history, history.events[-1].seq)
    assert {file.parent.name for file in files} == {"pack"}
    assert sum(file.suffix == ".pack" for file in files) <= 5


async def test_what_it_takes_to_begin_with_a_copy_is_none_of_the_seconds_of_a_piece(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(history_routes, "SLICE", 0.0)
        first = await world.document(path_of(history))
    late, take = 0.0, Checked.take

    def taken(self: Checked, seq: int, into: Path) -> bool:
        nonlocal late
        late += 1_000.0
        return take(self, seq, into)

    monkeypatch.setattr(Checked, "take", taken)
    monkeypatch.setattr(patches, "monotonic", lambda: time.monotonic() + late)
    found = await world.document(path_of(history), after=first["until"])
    assert (found["whole"], found["intact"], found["seconds"] > 1_000) == (True, True, True)


async def test_nothing_is_written_or_removed_on_the_loop_that_answers_other_requests(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str, threading.Thread]] = []

    def seen(name: str, does: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any, **options: Any) -> Any:
            used.append((name, threading.current_thread()))
            return does(*arguments, **options)

        return done

    monkeypatch.setattr(shutil, "rmtree", seen("rmtree", shutil.rmtree))
    monkeypatch.setattr(PatchCheck, "save", seen("save", PatchCheck.save))
    await world.document(path_of(history))
    await world.document(path_of(history), after=2**40)
    assert [name for name, _ in used] == ["save", "rmtree", "rmtree"]
    assert threading.current_thread() not in {thread for _, thread in used}


async def test_a_check_that_cannot_be_kept_has_its_verdict_and_one_that_cannot_be_copied_its_reason(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(PatchCheck, "save", full)
        found = await world.document(path_of(history))
    assert (found["whole"], found["intact"], found["why"]) == (True, True, "")
    last = (await world.document(path_of(history)))["until"]
    with monkeypatch.context() as disk:
        disk.setattr(shutil, "copy2", full)
        found = await world.document(path_of(history), after=last)
    assert (found["intact"], found["until"]) == (None, last)
    assert "No space left on device" in found["why"]


async def test_the_command_waits_for_a_place_as_long_as_it_is_told_and_goes_on(
    world: World, history: History, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    going, free, loop, check = asyncio.Semaphore(0), asyncio.Event(), asyncio.get_running_loop(), PatchCheck.check
    waited: list[float] = []

    async def held(self: PatchCheck, event: SwarmEvent) -> None:
        going.release()
        await free.wait()
        await check(self, event)

    def waits(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            patches.WAIT = 60.0
            loop.call_soon_threadsafe(free.set)

    monkeypatch.setattr(PatchCheck, "check", held)
    monkeypatch.setattr(patches, "WAIT", 0.05)
    monkeypatch.setattr(reading_proof, "time", SimpleNamespace(sleep=waits))
    others = [asyncio.create_task(world.get(path_of(history))) for _ in range(patches.AT_ONCE)]
    for _ in others:
        await going.acquire()
    typed = ["verify", history.run, "--deep", "--url", world.url, "--token-file", str(world.token_file)]
    with monkeypatch.context() as impatient:
        impatient.setattr(reading_proof, "TURNS", 1)
        assert await asyncio.to_thread(execute, typed) == 4
    assert "Too many checks" in capfd.readouterr().err
    assert await asyncio.to_thread(execute, typed) == 0
    assert waited == [10.0] * 3
    assert "other checks are under way; asking again in 10 s" in capfd.readouterr().err
    for answer in await asyncio.gather(*others):
        assert answer.json()["intact"] is True
