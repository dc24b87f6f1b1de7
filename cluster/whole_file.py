"""A file that a command writes for the user: it has its name only once it is whole and on the disk."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from enchanted.cluster.errors import FileNotWritten, TargetIsFolder

_MOST_LINKS = 40
"""As many as Linux follows."""


@contextmanager
def written(path: Path, *, new: bool = False) -> Iterator[IO[bytes]]:
    """The file to write; when an error leaves this, what was at ``path`` is as it was.

    A device or a pipe has no whole: it is written to as it is, and so is what is open already, as ``/dev/stdout`` is. A
    link stays, the file it names is written.
    With ``new``, a file that is there is not replaced.

    Raises:
        TargetIsFolder: no file can have that name.
        FileNotWritten: the system does not let it be written.
    """
    try:
        kind = _kind(path, new=new)
        if stat.S_ISDIR(kind):
            raise TargetIsFolder(path)
        is_open = _is_descriptor(path)
        if kind and (is_open or not stat.S_ISREG(kind)):
            with path.open("ab" if is_open else "wb") as file:
                yield file
            return
        with _replaced(Path(os.path.realpath(path)), kind, new=new) as file:
            yield file
    except OSError as error:
        raise FileNotWritten(path, error.strerror or str(error)) from error


def _is_descriptor(path: Path) -> bool:
    """Whether it leads to an open file of a process."""
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            return False
        if Path(os.path.realpath(path.parent)).is_relative_to("/proc"):
            return True
        path = path.parent / path.readlink()
    return False


def _kind(path: Path, *, new: bool) -> int:
    """The mode of what is there; 0 for nothing."""
    if new and path.is_symlink():
        raise FileExistsError(0, "File exists")
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return 0
    if new and stat.S_ISREG(kind):
        raise FileExistsError(0, "File exists")
    return kind


@contextmanager
def _replaced(path: Path, mode: int, *, new: bool) -> Iterator[IO[bytes]]:
    # The name is random and must be free: no file of the user's is touched, and no link followed.
    part = path.with_name(f".enchanted-{secrets.token_hex(8)}.part")
    with part.open("xb") as file:
        try:
            if mode:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            if new:
                # Whoever took the name in the meantime keeps it.
                path.open("xb").close()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
