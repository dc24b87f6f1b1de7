"""A home for tests: the command line as a user types it, free ports, and a certain end of every process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from enchanted.cluster.home import Home
from enchanted.cluster.processes import ProcessId, end, with_variable
from enchanted.cluster.ray_head import session_path
from enchanted.cluster.service import MARKER

FREE_PORTS = {
    "ENCHANTED_API_PORT": "0",
    "ENCHANTED_NATS_PORT": "0",
    "ENCHANTED_CLICKHOUSE_PORT": "0",
    "ENCHANTED_RAY_DASHBOARD_PORT": "0",
}
COMMAND_SECONDS = 220.0


class HomeUnderTest:
    """Runs `enchanted` for one home."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.home = Home(folder)
        self.environment = {**_clean(os.environ), **FREE_PORTS, "ENCHANTED_HOME": str(folder), **environment}

    def popen(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "enchanted", *arguments],
            env={**self.environment, **environment},
            cwd=self.home.path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell without job control has its background jobs, and all below them, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        with self.popen(*arguments, **environment) as process:
            output, errors = process.communicate(timeout=COMMAND_SECONDS)
            return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def up(self, **environment: str) -> dict[str, Any]:
        """Start the services; returns the status."""
        done = self.run("up", **environment)
        assert done.returncode == 0, done.stderr
        return self.status()

    def status(self) -> dict[str, Any]:
        """The document of `status --json`."""
        document: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return document

    def state(self) -> dict[str, Any]:
        """The state file as it is; empty while there is none."""
        try:
            table: dict[str, Any] = json.loads(self.home.state.read_text())
        except FileNotFoundError:
            return {}
        return table

    def service(self, name: str) -> dict[str, Any]:
        """One service of the state file; empty while it is not there."""
        return next((service for service in self.state().get("services", ()) if service["name"] == name), {})

    def processes(self) -> list[ProcessId]:
        """Every living process of this home's supervisor, itself included."""
        return with_variable(MARKER, str(self.home.path))

    def replica(self) -> ProcessId:
        """The process in Ray Serve that answers for the API."""
        found = list[ProcessId]()
        for one in self.processes():
            # Any of them may end while we look.
            with suppress(psutil.NoSuchProcess):
                if "ServeReplica" in "".join(psutil.Process(one.pid).cmdline()):
                    found.append(one)
        assert len(found) == 1, found
        return found[0]


@contextmanager
def home_under_test(folder: Path, **environment: str) -> Iterator[HomeUnderTest]:
    """A home whose processes are ended whatever the test did."""
    home = HomeUnderTest(folder, environment)
    try:
        yield home
    finally:
        end(home.processes, grace=1.0)
        shutil.rmtree(session_path(home.home), ignore_errors=True)


def eventually(what: Callable[[], bool], *, seconds: float, about: str) -> float:
    """Wait until ``what`` holds; returns how long it took."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < seconds, f"not within {seconds:g} s: {about}"
        time.sleep(0.05)
    return time.monotonic() - begun


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would change where the home is or which Ray is used."""
    return {name: value for name, value in environment.items() if not name.startswith(("ENCHANTED_", "RAY_", "OTEL_"))}
