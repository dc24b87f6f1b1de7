"""The process that owns a home's services: ``python -m enchanted.cluster.supervisor --home FOLDER``.

It is two processes, so that nothing outlives either of them. The outer one, the warden, does next to nothing: as
subreaper it becomes the parent of whatever is orphaned below it, and when the inner one ends, for whatever reason,
it ends all of that. The inner one keeps the services and gets SIGTERM from the kernel when the warden dies; the
services get SIGTERM from the kernel when the inner one dies.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from enchanted.cluster import state
from enchanted.cluster.home import Home
from enchanted.cluster.keeper import Keeper
from enchanted.cluster.processes import ProcessId, become_subreaper, descendants, die_with_parent, end, reap
from enchanted.cluster.settings import Settings
from enchanted.cluster.state import Failure

ANOTHER_RUNS = 3
"""Exit code: the home already has a supervisor."""
LOCK_SECONDS = 1.0
GRACE_SECONDS = 5.0

log = logging.getLogger("enchanted.supervisor")


def main() -> int:
    """Take the home's lock, become the warden, fork the keeper."""
    parser = argparse.ArgumentParser(prog="enchanted.cluster.supervisor")
    parser.add_argument("--home", type=Path, required=True)
    home = Home(parser.parse_args().home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if _lock(home) is None:
        return ANOTHER_RUNS
    os.chdir(home.path)
    settings = Settings.model_validate_json(home.settings.read_text())
    warden = ProcessId.of(os.getpid())
    assert warden is not None
    become_subreaper()
    keeper = os.fork()
    if keeper == 0:
        die_with_parent(signal.SIGTERM, warden.pid)
        # The exit code goes through os._exit: the stack below belongs to the warden.
        os._exit(_keep(home, settings, warden))
    return _watch(home, keeper)


def _keep(home: Home, settings: Settings, warden: ProcessId) -> int:
    become_subreaper()
    try:
        return asyncio.run(Keeper(home, settings, warden).run())
    except BaseException:
        log.exception("the supervisor failed")
        return 1
    finally:
        logging.shutdown()


def _watch(home: Home, keeper: int) -> int:
    """Wait for the keeper, end what it left behind, and say so if it did not end by itself."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _forward_to(keeper))
    while (ended := os.wait())[0] != keeper:
        pass
    leftovers = end(lambda: descendants(os.getpid()), grace=GRACE_SECONDS)
    reap()  # in a container nobody else may
    current = state.read(home)
    if current.phase not in ("stopped", "failed"):
        failure = Failure(cause="the supervisor was killed", remedy="start the services again with `enchanted up`")
        try:
            state.write(home, replace(current, phase="failed", failure=failure, services=()))
        except OSError as error:
            log.warning("the state could not be written: %s", error)
    for process in leftovers:
        log.error("process %d does not end", process.pid)
    return os.waitstatus_to_exitcode(ended[1])


def _forward_to(pid: int) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, _: FrameType | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    return forward


def _lock(home: Home) -> int | None:
    """The home's lock; waits a moment, since a process that only looks whether it is free holds it too."""
    until = time.monotonic() + LOCK_SECONDS
    while (descriptor := home.lock()) is None and time.monotonic() < until:
        time.sleep(0.05)
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
