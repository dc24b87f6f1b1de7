"""A benchmark that is stopped leaves no process and no file, and what was measured before it is not lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enchanted.cluster.processes import with_variable


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a process has no event for it
            await asyncio.sleep(0.05)


def servers(place: str) -> list[str]:
    """The command lines of what the benchmark started."""
    lines = []
    for process in with_variable("TMPDIR", place):
        try:
            lines.append(Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " "))
        except FileNotFoundError:
            continue
    return lines


def left(place: Path) -> list[str]:
    """Processes and files that are there after all."""
    return [*servers(str(place)), *(path.name for path in place.iterdir())]


async def begun(place: Path, *command: str) -> asyncio.subprocess.Process:
    """`bench publish` when its server runs."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "TMPDIR": str(place)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: any("nats-server" in line for line in servers(str(place))))
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_benchmark_that_is_told_to_stop_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    process = await begun(tmp_path, sys.executable, "-m", "enchanted", "bench", "publish", "ingest", "--json")

    process.send_signal(how)
    printed, said = await asyncio.wait_for(process.communicate(), 60)

    assert (process.returncode, printed) == (130, b"[]\n"), said.decode()
    assert b"enchanted bench: stopped" in said
    assert b"Traceback" not in said
    assert left(tmp_path) == []


async def test_a_benchmark_whose_caller_is_killed_leaves_nothing(tmp_path: Path) -> None:
    process = await begun(tmp_path, sys.executable, "-m", "enchanted", "bench", "publish")

    process.kill()
    await process.communicate()

    await until(lambda: servers(str(tmp_path)) == [])
    assert left(tmp_path) == []
