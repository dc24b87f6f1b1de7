"""That a kill struck a process that ran, and that another one is in its place. For tests."""

from __future__ import annotations

import asyncio
import signal

from enchanted.cluster.processes import ProcessId


class Victim:
    """A process that is about to be killed."""

    def __init__(self, pid: int) -> None:
        """Raises AssertionError when no such process runs: a kill of it would prove nothing."""
        process = ProcessId.of(pid)
        assert process is not None, f"there is no process {pid} to kill"
        self._process = process

    def assert_gone(self) -> None:
        """Raises AssertionError when it still runs."""
        assert not self._process.alive(), f"process {self._process.pid} was to be killed and runs"

    def assert_replaced_by(self, pid: int) -> None:
        """Raises AssertionError unless it is gone and ``pid`` is another process, which runs."""
        self.assert_gone()
        back = ProcessId.of(pid)
        assert back is not None, f"{self._process.pid} was killed, and {pid} does not run in its place"
        assert back != self._process
        print(f"killed {self._process.pid}, back as {pid}")


async def kill(process: asyncio.subprocess.Process) -> int:
    """SIGKILL; returns the process id.

    Raises:
        AssertionError: it had ended before that, or ends otherwise.
    """
    victim = Victim(process.pid)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    victim.assert_gone()
    return process.pid
