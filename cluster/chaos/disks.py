"""A disk whose power can be cut. For tests; needs root. See tests/chaos/test_power_cut.py.

A file holds an ext4 file system, mounted by a loop device. What a process wrote and did not flush is in the mounted
file system's page cache and not in the file; so a copy of the file is the disk as a power cut leaves it. The journal is
replayed when the copy is mounted, as at the next boot.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self


class NoLoopDevice(RuntimeError):
    """This process may not mount."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no loop device can be mounted: {why.strip()}; run as root, with loop devices")


class LoopDisk:
    """A file system in a file, mounted while the block lasts."""

    def __init__(self, folder: Path, *, mebibytes: int = 256, image: Path | None = None) -> None:
        """``image``: an existing file system; a new one is made without it."""
        self._image = image or folder / "disk.img"
        self._new = image is None
        self._mebibytes = mebibytes
        self.path = folder / "disk"

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        if self._new:
            with self._image.open("wb") as file:
                file.truncate(self._mebibytes << 20)
            _run("mkfs.ext4", "-q", "-F", str(self._image))
        _run("mount", "-o", "loop", str(self._image), str(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def cut(self, processes: Iterable[int], folder: Path) -> LoopDisk:
        """The disk as it is when the power goes now: ``processes``, which write to it, stand still meanwhile."""
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / "disk.img"
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        shutil.copyfile(self._image, copy)
        return LoopDisk(folder, image=copy)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoLoopDevice(done.stderr or done.stdout)
