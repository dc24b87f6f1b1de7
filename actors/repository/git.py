"""The git command line, run so that no configuration, hook or helper of the machine or a repository takes part."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from enchanted.actors.errors import GitFailed, GitTooOld

OLDEST = (2, 38)
"""`merge-tree --write-tree` came with this one."""

_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "protocol.file.allow=never",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.directory=*",
)
_ENVIRONMENT = {
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
}


class Git:
    """One repository as the git command line sees it.

    Args:
        git_dir: the repository folder itself; None finds it from ``cwd``.
        work_tree: root of the checked-out files.
        index: the index file to use.
        settings: further ``name=value`` settings, given on each command line.
        environment: variables that replace the cleared ones.
        timeout: seconds until a command is killed with its children.
    """

    def __init__(
        self,
        *,
        cwd: Path,
        git_dir: Path | None = None,
        work_tree: Path | None = None,
        index: Path | None = None,
        settings: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout: float = 300.0,
    ) -> None:
        places = {"GIT_DIR": git_dir, "GIT_WORK_TREE": work_tree, "GIT_INDEX_FILE": index}
        self._cwd = cwd
        self._timeout = timeout
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT, **(environment or {})}
        self._environment |= {name: str(path) for name, path in places.items() if path is not None}
        self._prefix = ["git", *(part for setting in (*_SETTINGS, *settings) for part in ("-c", setting))]

    def start(self, *arguments: str | bytes, environment: Mapping[str, str] | None = None, **pipes: Any) -> Git.Process:
        """Start a command in a process group of its own; the caller reads, writes and waits."""
        return subprocess.Popen(
            [*self._prefix, *arguments],
            cwd=self._cwd,
            env={**self._environment, **(environment or {})},
            start_new_session=True,
            **pipes,
        )

    Process = subprocess.Popen[bytes]

    def run(
        self,
        *arguments: str | bytes,
        stdin: bytes | IO[bytes] | None = None,
        ok: Sequence[int] = (0,),
        environment: Mapping[str, str] | None = None,
    ) -> bytes:
        """Standard output of a command.

        Raises:
            GitFailed: its exit status is not in ``ok``, or it ran past its time.
        """
        return self.result(*arguments, stdin=stdin, ok=ok, environment=environment)[1]

    def result(
        self,
        *arguments: str | bytes,
        stdin: bytes | IO[bytes] | None = None,
        ok: Sequence[int] = (0,),
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Exit status and standard output of a command; raises as `run` does."""
        source = subprocess.PIPE if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL
        process = self.start(
            *arguments, environment=environment, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = process.communicate(stdin if isinstance(stdin, bytes) else None, timeout=self._timeout)
        except BaseException as error:
            stop(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise GitFailed(arguments, f"took longer than {self._timeout:.0f} s") from error
            raise
        if process.returncode not in ok:
            raise GitFailed(arguments, errors.decode("utf-8", "replace").strip() or f"status {process.returncode}")
        return process.returncode, output


def stop(process: Git.Process) -> None:
    """Kill a command and its children, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


@cache
def require_git() -> str:
    """The version of the installed git.

    Raises:
        GitTooOld: git is missing or older than 2.38.
    """
    try:
        text = subprocess.run(["git", "version"], capture_output=True, timeout=30, check=True).stdout.decode()
    except (OSError, subprocess.SubprocessError) as error:
        raise GitTooOld("none") from error
    version = re.search(r"\d+\.\d+[.\d]*", text)
    if version is None or tuple(int(part) for part in version[0].split(".")[:2]) < OLDEST:
        raise GitTooOld(text.strip())
    return version[0]


def quote_path(path: bytes) -> bytes:
    """A path in double quotes with C escapes: fast-import and attribute files read any byte this way."""
    return b'"' + b"".join(bytes([byte]) if byte in _PLAIN else b"\\%03o" % byte for byte in path) + b'"'


_PLAIN = frozenset(range(0x20, 0x7F)) - {ord('"'), ord("\\")}
