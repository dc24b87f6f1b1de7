"""One supervised process: how it is started, asked, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from enchanted.cluster.errors import ServiceFailed
from enchanted.cluster.probes import NotReady
from enchanted.cluster.processes import ProcessId, descendants, die_with_parent

LOG_LINES = 12
LOG_LIMIT = 8 * 1024 * 1024
MARKER = "_ENCHANTED_SUPERVISOR"
"""Environment variable that every process below a supervisor carries: the absolute path of its home."""

_log = logging.getLogger("enchanted.supervisor")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to execute."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of the supervisor's own."""
    pipes: bool = False
    """Whether stdin and stdout are pipes to us; stderr always goes to the log."""


def python(module: str) -> list[str]:
    """How to run one of our modules: -P keeps the working folder from shadowing packages."""
    return [sys.executable, "-P", "-m", module]


class Service(Protocol):
    """A process the supervisor owns."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def port(self) -> int:
        """Where it listens."""

    @property
    def start_seconds(self) -> float:
        """How long its start may take."""

    @property
    def grace_seconds(self) -> float:
        """How long it may take to end after SIGTERM."""

    def command(self) -> Command:
        """How to start it; may write its configuration."""

    async def probe(self) -> None:
        """Return when it is healthy; raise NotReady otherwise."""


class Child:
    """A started process that ends with its supervisor, and its log."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.identity = ProcessId.of(process.pid)

    @classmethod
    async def start(cls, name: str, command: Command, log: Path) -> Child:
        """Start ``command``; its output is appended to ``log``, and lost where that cannot be written."""
        parent = os.getpid()
        with _opened(log) as output:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                env={**os.environ, **command.environment},
                stdin=asyncio.subprocess.PIPE if command.pipes else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if command.pipes else output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM, parent),
            )
        return cls(name, process, log)

    async def ready(self, service: Service) -> None:
        """Wait until the service answers as a healthy one.

        Raises:
            ServiceFailed: it ended, or did not answer in time; carries what it last said.
        """
        begun = time.monotonic()
        while True:
            try:
                await service.probe()
            except NotReady as error:
                if self.process.returncode is not None:
                    raise ServiceFailed(self.name, f"ended with {describe_exit(self.process.returncode)}") from error
                if time.monotonic() - begun > service.start_seconds:
                    raise ServiceFailed(self.name, f"not ready after {service.start_seconds:.0f} s: {error}") from error
                await asyncio.sleep(0.05)
            else:
                return

    async def end(self, grace: float) -> None:
        """End it and everything below it: SIGTERM to all at once, SIGKILL to what is left after ``grace`` seconds."""
        tree = self._below()
        for process in (*([self.identity] if self.identity else []), *tree):
            process.send(signal.SIGTERM)
        until = time.monotonic() + grace
        while time.monotonic() < until and (self.process.returncode is None or any(p.alive() for p in tree)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # nothing tells us when a process ends that is not our child
        for process in (*tree, *self._below()):
            process.send(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def _below(self) -> list[ProcessId]:
        """What it has started; nothing when it has ended, since its number may be another's by now."""
        return descendants(self.identity.pid) if self.identity and self.identity.alive() else []

    def last_lines(self, count: int = LOG_LINES) -> tuple[str, ...]:
        """The end of its log."""
        return last_lines(self.log, count)


def last_lines(log: Path, count: int = LOG_LINES) -> tuple[str, ...]:
    """The last ``count`` lines of ``log`` that say something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-count:]


def describe_exit(code: int) -> str:
    """An exit status as people say it."""
    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"signal {names.get(-code, -code)}"


def _opened(log: Path) -> BinaryIO:
    # What ends the others in order must start on a disk that takes no writes any more.
    try:
        rotate(log)
        return log.open("ab")
    except OSError as error:
        _log.warning("%s cannot be written, what would be in it is lost: %s", log, error)
        return Path(os.devnull).open("ab")


def rotate(log: Path) -> None:
    """Put a log aside that has grown past the limit; the one put aside before it goes."""
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
