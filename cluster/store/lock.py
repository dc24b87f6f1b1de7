"""One owner per data folder: a lock the kernel drops when its holder dies, naming who holds it."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from enchanted.cluster.store.errors import FolderHeld

LOCK_NAME = "store.lock"


class FolderLock:
    """Holds ``<folder>/store.lock``; the file says which process by pid and start time.

    The lock itself is the kernel's, so one left behind by a killed process is free again.

    Raises:
        FolderHeld: on entry, when another live process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / LOCK_NAME
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise FolderHeld(self._folder, describe_holder(path)) from error
        started = psutil.Process().create_time()
        os.truncate(self._file, 0)
        os.pwrite(self._file, json.dumps({"pid": os.getpid(), "started": started}).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def describe_holder(path: Path) -> str:
    """Who wrote the lock file, in words; its start time tells a reused pid from the real holder."""
    try:
        holder = json.loads(path.read_text())
        pid, started = int(holder["pid"]), float(holder["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) < 1.0:
            return f"process {pid} ({' '.join(process.cmdline()[:4])})"
    except psutil.Error:
        pass
    return f"another process (process {pid}, which took it, has ended)"
