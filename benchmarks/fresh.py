"""A benchmark in a process of its own: nothing of the one before is warm, and when stopped it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from enchanted.cluster.processes import die_with_parent

KILLED_AT = 3
"""Signals after which a benchmark that does not end is no longer asked."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM came; the benchmark has ended and left nothing."""


def heed_signals() -> None:
    """SIGTERM is Ctrl-C from now on, also where a shell had Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def run_fresh(name: str, *, smoke: bool) -> dict[str, Any] | None:
    """The result as a JSON object; None where it failed, and has said why.

    Raises:
        Stopped: by a signal; raised when the benchmark has ended.
    """
    command = [sys.executable, "-m", "enchanted.benchmarks", name, "--inside", str(os.getpid())]
    # A session of its own: Ctrl-C reaches it from us, and not the servers under it before it has let go of them.
    child = subprocess.Popen(
        [*command, *(["--smoke"] if smoke else [])], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    printed, stopped = _awaited(child)
    if stopped:
        raise Stopped
    if child.returncode:
        return None
    try:
        result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        print(f"enchanted bench {name}: ended without a result", file=sys.stderr)
        return None
    return result


def be_inside(parent: int) -> None:
    """Be that process: end when the one that made us does, and as it says."""
    heed_signals()
    die_with_parent(signal.SIGTERM, parent)


def _awaited(child: subprocess.Popen[str]) -> tuple[str, bool]:
    """What it printed, and whether we were told to stop, and told it; the third time it is killed."""
    assert child.stdout is not None
    printed, told = "", 0
    while told < KILLED_AT:
        try:
            printed += child.stdout.read()
            child.wait()
        except KeyboardInterrupt:
            told += 1
            child.send_signal(signal.SIGINT if told < KILLED_AT else signal.SIGKILL)
        else:
            break
    return printed, told > 0
