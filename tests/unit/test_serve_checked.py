"""What checks of patches keep in the cache, and what gives way there."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from shutil import copytree

import pytest

from enchanted.actors.repository.patch_check import PatchCheck
from enchanted.schemas.events import SwarmEvent
from enchanted.serve.moments import checked
from enchanted.serve.moments.checked import Checked, scratch

OBJECT = Path("objects", "pack", "pack-1.pack")


async def made(cache: Path, run: str, *seqs: int) -> Checked:
    """What checks of a run have made, up to each of the sequences."""
    there = Checked(cache, run)
    for seq in seqs:
        async with scratch(cache) as room:
            folder = room / "trees.git"
            (folder / OBJECT).parent.mkdir(parents=True)
            (folder / OBJECT).write_text("pack")
            (folder / "made").write_text(f"{run} {seq}")
            there.keep(seq, folder)
    return there


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


@pytest.mark.parametrize("cache", ["cache", "objects/cache"])
async def test_a_check_goes_on_in_a_copy_that_shares_nothing_but_gits_objects(tmp_path: Path, cache: str) -> None:
    there, kept = await made(tmp_path / cache, "run", 7), tmp_path / cache / "copy"
    assert there.take(7, kept)
    assert (kept / "made").read_text() == "run 7"
    assert ((kept / "made").stat().st_nlink, (kept / OBJECT).stat().st_nlink) == (1, 2)


async def test_a_sequence_that_nobody_came_to_is_told_from_a_copy_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await made(tmp_path, "run", 7)
    assert not there.take(8, tmp_path / "none")

    def refused(source: object, target: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(OSError, match="Too many links"):
        there.take(7, tmp_path / "copy")


async def test_a_check_goes_on_though_another_puts_its_own_in_the_place_of_what_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await made(tmp_path, "run", 7)
    place, away, link = there._of(7), tmp_path / "away", os.link

    def moved(source: Path, target: Path) -> None:
        if not away.exists():
            place.rename(away)
        link(source, target)

    monkeypatch.setattr(os, "link", moved)
    monkeypatch.setattr(time, "sleep", lambda _: away.exists() and not place.exists() and copytree(away, place))
    assert there.take(7, tmp_path / "copy")
    assert (tmp_path / "copy" / OBJECT).read_text() == "pack"


async def test_the_newest_sequences_of_the_newest_runs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "KEPT", 2)
    monkeypatch.setattr(checked, "RUNS", 2)
    runs = [await made(tmp_path, run, 1, 2, 3) for run in ("first", "second", "third")]
    there = [[seq for seq in (1, 2, 3) if run.take(seq, tmp_path / f"{n}-{seq}")] for n, run in enumerate(runs)]
    assert there == [[], [2, 3], [2, 3]]


async def test_what_killed_checks_and_a_former_version_left_is_removed_and_what_is_in_use_is_not(
    tmp_path: Path,
) -> None:
    left, rerun, former = tmp_path / "deep-killed", tmp_path / "rerun-killed", tmp_path / "0a-deep.git"
    for folder in (left, rerun, former):
        (folder / "objects").mkdir(parents=True)
    for folder in (left, rerun):
        os.utime(folder, (0, 0))
    async with scratch(tmp_path) as other, scratch(tmp_path) as room:
        assert sorted(names(tmp_path)) == sorted([other.name, room.name])
    assert names(tmp_path) == []


async def test_saving_anew_alters_no_file_that_another_name_leads_to(tmp_path: Path) -> None:
    async def nothing(_: object) -> bytes:
        return b""

    async def same(event: SwarmEvent) -> SwarmEvent:
        return event

    (tmp_path / "made").write_text("a")
    (tmp_path / "other").hardlink_to(tmp_path / "made")
    PatchCheck(tmp_path, tmp_path / "index", fetch=nothing, inflate=same).save()
    assert len((tmp_path / "made").read_text().split()) == 2
    assert (tmp_path / "other").read_text() == "a"
