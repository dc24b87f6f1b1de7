"""Whether a folder can be restored into at all, told without writing anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from enchanted.actors.errors import TargetNoFolder, TargetReserved, TargetStopped
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.restore_journal import MARK
from enchanted.actors.tools.confined_files import forbidden_name


def require_place(folder: Path) -> None:
    """A folder is there and may be written, or can be made; no link is on the way to it.

    Raises:
        TargetReserved: it is git's own, the kernel's, or holds a restore's records.
        TargetNoFolder: a file lies there, or where a folder above it must be.
        TargetStopped: the file system does not let it be made or written.
    """
    if MARK in folder.parts:
        raise TargetReserved(folder, "the records of restores")
    if any(forbidden_name(part) for part in folder.parts):
        raise TargetReserved(folder, "git")
    place = _nearest(folder)
    if place.stat().st_dev in _of_the_kernel():
        raise TargetReserved(folder, "the kernel")
    # Git runs and reads what lies in there; such a folder may have any name.
    if Git(cwd=place).result("rev-parse", "--is-inside-git-dir", ok=(0, 128))[1].strip() == b"true":
        raise TargetReserved(folder, "git")
    records = place / MARK if place == folder and (place / MARK).is_dir() else place
    if not os.access(records, os.W_OK | os.X_OK, effective_ids=True):
        read_only = os.statvfs(records).f_flag & os.ST_RDONLY
        raise TargetStopped(folder, MARK, "read-only file system" if read_only else "permission denied")


def _nearest(folder: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    for place in (folder, *folder.parents):
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise TargetStopped(folder, MARK, (error.strerror or str(error)).lower()) from error
        if not stat.S_ISDIR(found.st_mode):
            raise TargetNoFolder(folder, place)
        return place
    raise TargetNoFolder(folder, folder.anchor)


def _of_the_kernel() -> Iterator[int]:
    # They look as if root could make files there.
    return (Path(place).stat().st_dev for place in ("/proc", "/sys") if os.path.ismount(place))
