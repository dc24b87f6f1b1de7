"""Processes as /proc shows them: identity, descent, and a certain end."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid that cannot be mistaken for a later process with the same number."""

    pid: int
    started: int
    """Clock ticks from boot to its start."""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The living process ``pid``; None when there is none, or only its unreaped remains."""
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def wait(self, timeout: float) -> bool:
        """Block until it has ended, for at most ``timeout`` seconds; returns whether it has."""
        until = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it still runs."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name."""
    try:
        # The name in it has 15 bytes, and may end within a character.
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def descendants(root: int) -> list[ProcessId]:
    """Every living process below ``root``, nearest first."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], list(children.get(root, ()))
    while queue:
        pid = queue.pop(0)
        queue.extend(children.get(pid, ()))
        if process := ProcessId.of(pid):
            found.append(process)
    return found


def with_variable(name: str, value: str) -> list[ProcessId]:
    """Every living process of ours that was started with ``name=value`` in its environment, this one left out."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in _pids():
        try:
            variables = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        process = ProcessId.of(pid)
        if process and pid != os.getpid() and wanted in variables:
            found.append(process)
    return found


def end(find: Callable[[], Iterable[ProcessId]], *, grace: float, deadline: float = 10.0) -> list[ProcessId]:
    """SIGTERM what ``find`` finds, SIGKILL what is left after ``grace`` seconds; blocks, returns what still lives.

    ``find`` is asked again each time, so processes that appear meanwhile end too.
    """
    begun = time.monotonic()
    asked: set[ProcessId] = set()
    while remaining := list(find()):
        elapsed = time.monotonic() - begun
        if elapsed > grace + deadline:
            return remaining
        for process in remaining:
            if elapsed >= grace:
                process.send(signal.SIGKILL)
            elif process not in asked:
                process.send(signal.SIGTERM)
                asked.add(process)
        reap()
        time.sleep(0.02)
    return []


def reap() -> None:
    """Collect the remains of children that ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def reap_orphans(parent: int, spare: set[int]) -> None:
    """Collect the remains of children of ``parent``, which must be us, except those that somebody waits for."""
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None and fields[0] == "Z" and int(fields[1]) == parent and pid not in spare:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Ask the kernel to send us ``number`` when the thread that made us ends."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def become_subreaper() -> None:
    """Orphans among our descendants become our children instead of init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
