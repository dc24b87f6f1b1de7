"""A disk whose power can be cut, and which can fail or be full. For tests; needs root; see tests/chaos.

A file holds an ext4 file system, mounted by a loop device. What a process wrote and did not flush is in the mounted
file system's page cache and not in the file; so a copy of the file is the disk as a power cut leaves it. The journal is
replayed when the copy is mounted, as at the next boot.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Container, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

BALLAST = "ballast"
_CORRECTED = 1
"""What e2fsck says when it found errors and corrected them."""


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
        self._mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def fail(self) -> None:
        """What the kernel does when the disk reports an error: nothing can be written any more, until `repair`."""
        device = Path(_run("findmnt", "--noheadings", "--output", "SOURCE", str(self.path)).strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def repair(self) -> None:
        """What an operator does then, when no process uses it any more: check the file system, and mount it again."""
        _run("umount", str(self.path))
        _run("e2fsck", "-p", str(self._image), passes=(0, _CORRECTED))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))

    def cut(self, processes: Iterable[int], folder: Path) -> LoopDisk:
        """The disk as it is when the power goes now: ``processes``, which write to it, stand still meanwhile."""
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / "disk.img"
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        shutil.copyfile(self._image, copy)
        return LoopDisk(folder, image=copy)


def fill(folder: Path) -> Path:
    """Take every free byte; returns the file that holds them."""
    ballast = folder / BALLAST
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            block = bytes(size)
            try:
                while True:
                    file.write(block)
            except OSError:
                continue
    return ballast


def _run(*command: str, passes: Container[int] = (0,)) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in passes:
        raise NoLoopDevice(done.stderr or done.stdout)
    return done.stdout
