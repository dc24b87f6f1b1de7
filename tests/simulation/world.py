"""Everything of one history: time, network, server, table, processes, what was noted."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import tempfile
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

from enchanted.ingest.reconcile_report import Report
from tests.simulation.ledger import Ledger
from tests.simulation.loop import OUTSIDE, PROCESS, Process, SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.parts import Parts, SimulatedBus
from tests.simulation.server import SimulatedServer
from tests.simulation.stream import Message
from tests.simulation.table import REFUSED, UNDECODABLE, SimulatedTable

Main = Callable[[Process], Coroutine[Any, Any, None]]


class Broken(AssertionError):
    """A promise does not hold."""


class World:
    """One seed."""

    def __init__(self, seed: int, parts: Parts) -> None:
        self.seed = seed
        self.parts = parts
        self.loop = SimulatedLoop(self.random("ties"))
        self.network = Network(self.loop, self.random("network"))
        self.server = SimulatedServer(self.loop, self.network, self.random("server"), parts)
        self.table = SimulatedTable(self.loop, self.random("table"))
        self.ledger = Ledger()
        self.processes: dict[str, Process] = {}
        self.finished: set[str] = set()
        self.arm: Callable[[Process], None] = lambda _: None
        self.lost: set[int] = set()
        """Sequences of rows a fault took out of the table."""
        self.reports: list[tuple[float, Report]] = []
        """With the time each was begun."""
        self.trace: list[tuple[float, str, tuple[Any, ...]]] = []
        self.restart_after = self.random("restarts")
        self.broken: BaseException | None = None
        self._graves: list[Process] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ids = self.random("ids")
        self.table.twice_for_a_while = parts.copies_among_workers
        self.server.note = self.table.note = self.note
        self.server.on_acknowledged = self._acknowledged
        self.loop.on_error = self._break

    def random(self, what: str) -> Random:
        """A source of its own, so that one part's draws do not move another's."""
        return Random(f"{self.seed} {what}")

    def note(self, what: str, *details: Any) -> None:
        """For the trace."""
        self.trace.append((round(self.loop.time() - 1000.0, 6), what, details))

    def digest(self) -> str:
        """Equal for equal histories."""
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()

    def event_id(self, skew: float = 0.0) -> str:
        """A UUIDv7 of the simulated time, by a clock that is ``skew`` seconds ahead."""
        milliseconds = 1_767_225_600_000 + int((self.loop.time() + skew) * 1000)
        bits = milliseconds << 80 | 0x7 << 76 | self._ids.getrandbits(12) << 64 | 0b10 << 62 | self._ids.getrandbits(62)
        return str(uuid.UUID(int=bits))

    def bus(self, name: str, **options: float) -> SimulatedBus:
        """One connection of the process that asks."""
        return SimulatedBus(name, self.parts, self.loop.time, self.random(f"{name} {self.loop.time()}"), **options)

    def start(self, name: str, main: Main) -> None:
        """Start a process; it is started again whenever it is killed, and ends when ``main`` returns."""
        process = Process(name)
        self.processes[name] = process
        self.arm(process)
        process.on_death.append(lambda: self._died(process, main))
        context = contextvars.Context()
        context.run(PROCESS.set, process)
        self.note("start", name)
        task = self.loop.create_task(main(process), context=context)
        task.add_done_callback(lambda done: self._ended(process, done), context=OUTSIDE)

    def folder(self) -> Path:
        """A disk for this history."""
        if self._folder is None:
            memory = Path("/dev/shm")
            self._folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        return Path(self._folder.name)

    def letters(self) -> dict[int, Message]:
        """Dead letters by the sequence of the original; twice the same is a broken promise."""
        found: dict[int, Message] = {}
        for message in self.server.letters.messages[: self.server.letters.visible]:
            seq = int(header_of(message, "Enchanted-Sequence"))
            if seq in found:
                raise Broken(f"message {seq} is twice among the dead letters")
            found[seq] = message
        return found

    def is_poison(self, message: Message) -> bool:
        """Whether it belongs to the dead letters."""
        return message.payload.startswith(UNDECODABLE) or REFUSED in message.payload

    def end(self) -> None:
        """Close everything, without looking at what it does."""
        self.network.over = True
        self.table.over = True
        for process in [*self.processes.values(), *self._graves]:
            process.on_death.clear()
            self.loop.resume(process)
        for _ in range(100):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        self.loop.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _died(self, process: Process, main: Main) -> None:
        self.note("killed", process.name, process.steps)
        self._graves.append(process)
        after = self.restart_after.choice([0.01, 0.2, 1.0, 3.0]) * self.restart_after.random()
        self.loop.call_later(after, self.start, process.name, main, context=OUTSIDE)

    def _ended(self, process: Process, task: asyncio.Task[None]) -> None:
        if task.cancelled() or process.dead:
            return
        error = task.exception()
        if error is not None:
            self._break(error)
        self.note("ended", process.name)
        self.finished.add(process.name)

    def _break(self, error: BaseException) -> None:
        self.broken = self.broken or error

    def _acknowledged(self, seq: int) -> None:
        """Ingest says it is done with a message: then it is a row or a dead letter."""
        if seq in self.table.rows or seq in self.lost:
            return
        message = self.server.events.at(seq)
        assert message is not None
        if not self.is_poison(message):
            self._break(Broken(f"message {seq} is acknowledged and not in the table"))
        elif seq not in self.letters():
            self._break(Broken(f"message {seq} is acknowledged and not among the dead letters"))


def header_of(message: Message, name: str) -> str:
    """One header of a stored message."""
    for line in message.headers.decode().split("\r\n"):
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return ""
