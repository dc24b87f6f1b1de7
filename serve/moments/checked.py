"""What `verify --deep` made of a run up to a sequence, kept for the request that goes on from there."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from enchanted.schemas.canonical import sha256_hex

KEPT = 8
"""Sequences of one run that can be gone on from."""


class Checked:
    """Repositories of one run by the sequence they were made to, each as any check of the run makes it.

    A check works in a copy, so that none sees what another made. All methods block, and come one at a time.
    """

    def __init__(self, cache: Path, run: str) -> None:
        self._folder = cache / f"{sha256_hex(run)[:32]}-deep"

    def take(self, seq: int, into: Path) -> bool:
        """Copy the one of a sequence; whether it was there."""
        try:
            shutil.copytree(self._of(seq), into, copy_function=_copy)
        except (FileNotFoundError, shutil.Error):
            return False
        return True

    def keep(self, seq: int, made: Path) -> None:
        """Move a repository here, in the place of an older one; one that cannot be kept has to be made again."""
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True, mode=0o700)
            os.utime(made)
            shutil.rmtree(self._of(seq), ignore_errors=True)
            made.rename(self._of(seq))
            by_age = sorted(self._folder.iterdir(), key=lambda one: one.stat().st_mtime_ns)
            for old in by_age[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)

    def _of(self, seq: int) -> Path:
        return self._folder / f"{seq}.git"


def _copy(source: str, target: str) -> None:
    """A link for git's objects, which are never altered."""
    if f"{os.sep}objects{os.sep}" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
