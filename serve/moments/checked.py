"""What `verify --deep` made of a run up to a sequence, kept for the request that goes on from there."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn

from enchanted.schemas.canonical import sha256_hex

KEPT = 8
"""Sequences of one run that can be gone on from."""
RUNS = 16
"""Runs that have such sequences."""
ABANDONED = 3_600.0
"""Seconds after which a folder that nothing is written to is of a check or a rerun that was killed: no command, and no
rerun, takes as long."""
PAUSES = (0.01, 0.1, 0.0)
"""Seconds after each look for a repository that is not there."""


@asynccontextmanager
async def scratch(cache: Path) -> AsyncIterator[Path]:
    """A folder for one check, which what has to give way is moved to: it is gone at once, whoever looks."""
    room = await asyncio.to_thread(_scratch, cache)
    try:
        yield room
    finally:
        await asyncio.to_thread(shutil.rmtree, room, ignore_errors=True)


def _scratch(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    since = time.time() - ABANDONED
    outdated = [one for kind in ("deep-*", "rerun-*") for one in cache.glob(kind) if _time(one) < since]
    room = Path(tempfile.mkdtemp(dir=cache, prefix="deep-"))
    for one in (*outdated, *cache.glob("*-deep.git")):  # the latter are of a former version
        _give_way(one, room)
    return room


class Checked:
    """Repositories of one run by the sequence they were made to, each as any check of the run makes it.

    A check works in a copy, so that none sees what another made. Methods block; processes may share the cache.
    """

    def __init__(self, cache: Path, run: str) -> None:
        self._cache = cache
        self._folder = cache / f"{sha256_hex(run)[:32]}-deep"

    def take(self, seq: int, into: Path) -> bool:
        """Copy the one of a sequence; whether it was there."""
        for pause in PAUSES:
            try:
                _copy(self._of(seq), into)
            except FileNotFoundError:
                # Another check may be putting its own in the place of what was copied.
                if into.exists():
                    shutil.rmtree(into)
                time.sleep(pause)
            else:
                return True
        return False

    def keep(self, seq: int, made: Path) -> None:
        """Move a repository here from a scratch folder, in the place of older ones."""
        self._folder.mkdir(exist_ok=True, mode=0o700)
        os.utime(made)
        _give_way(self._of(seq), made.parent)
        made.rename(self._of(seq))
        for old in (*_oldest(self._folder.iterdir(), KEPT), *_oldest(self._cache.glob("*-deep"), RUNS)):
            _give_way(old, made.parent)

    def _of(self, seq: int) -> Path:
        return self._folder / f"{seq}.git"


def _copy(repository: Path, into: Path) -> None:
    """By links where git's objects are, which are never altered."""
    for folder, _, files in os.walk(repository, onerror=_raised):
        place = into / Path(folder).relative_to(repository)
        place.mkdir(mode=0o700)
        transfer = os.link if place.is_relative_to(into / "objects") else shutil.copy2
        for file in files:
            transfer(Path(folder, file), place / file)


def _raised(error: OSError) -> NoReturn:
    raise error


def _oldest(paths: Iterable[Path], but: int) -> list[Path]:
    """Without the newest ``but``."""
    return sorted(paths, key=_time)[:-but]


def _time(path: Path) -> float:
    with suppress(FileNotFoundError):  # another process has moved it away
        return path.stat().st_mtime
    return 0.0


def _give_way(path: Path, room: Path) -> None:
    with suppress(FileNotFoundError):  # likewise
        path.rename(room / path.name)
