"""One command under limits: started, watched, and ended with everything it started."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from enchanted.actors.errors import CommandNotRun, SandboxUnavailable

_TICK = 0.02
_DRAIN_SECONDS = 1.0
_START_SECONDS = 60.0
_END_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1
# Looked up here: a child of a process with threads must not load anything.
_libc = ctypes.CDLL(None)
_PAGE = resource.getpagesize()


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one command may use."""

    seconds: float = 60.0
    """Wall time."""
    memory_bytes: int = 2 << 30
    """Of all its processes together."""
    processes: int = 256
    file_bytes: int = 256 << 20
    """Size of any one file it writes."""
    disk_bytes: int = 1 << 30
    """Growth of its folder."""
    disk_files: int = 100_000
    temporary_bytes: int = 256 << 20
    """Size of /tmp and of /dev/shm, each."""
    output_bytes: int = 1 << 20
    """Output kept, half of it from the beginning and half from the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxResult:
    """What came of a command."""

    exit_code: int
    """As a shell reports it: 128 + signal when killed."""
    output: bytes
    """Standard output and error in the order they came."""
    truncated: bool
    """There was more output than is kept."""
    timed_out: bool
    exceeded: str
    """The limit it was ended for: memory, processes or disk; else empty."""
    duration_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _First:
    """The first process of a sandbox; the handle cannot come to mean another process."""

    pid: int
    handle: int


class Confinement:
    """Runs ``argv`` behind ``prefix`` (bubblewrap and its arguments, or nothing)."""

    def __init__(
        self,
        prefix: Sequence[str],
        argv: Sequence[str],
        folder: Path,
        limits: Limits,
        *,
        stdin: bytes = b"",
        variables: Mapping[str, str],
    ) -> None:
        self._prefix, self._argv, self._folder = prefix, argv, folder
        self._limits, self._stdin, self._variables = limits, stdin, variables
        self._cancelled = threading.Event()
        self._output = _Output(limits.output_bytes)
        self._exceeded = ""

    def cancel(self) -> None:
        """End the command now; `run` returns soon after."""
        self._cancelled.set()

    def run(self) -> SandboxResult:
        """Run to the end, or to a limit. Blocks; one call per object.

        Raises:
            SandboxUnavailable: the sandbox did not come up.
            CommandNotRun: the machine starts no process.
        """
        started = time.monotonic()
        try:
            with _stdin_file(self._stdin) as stdin:
                process, init = self._start(stdin)
        except OSError as error:
            raise CommandNotRun(str(error)) from error
        try:
            # The command's time is its own: a machine that starts sandboxes slowly takes nothing of it.
            timed_out = self._watch(process, init, time.monotonic() + self._limits.seconds)
        finally:
            _end(process, init)
            self._drain(process)
        code = process.returncode
        return SandboxResult(
            exit_code=code if code >= 0 else 128 - code,
            output=self._output.kept(),
            truncated=self._output.truncated,
            timed_out=timed_out,
            exceeded=self._exceeded,
            duration_ms=(time.monotonic() - started) * 1000,
        )

    def _start(self, stdin: IO[bytes]) -> tuple[subprocess.Popen[bytes], _First | None]:
        """Start it; gives the sandbox's first process too, whose end is the end of all."""
        if not self._prefix:
            return self._spawn(self._argv, stdin), None
        info, info_in = os.pipe2(os.O_CLOEXEC)
        gate_out, gate = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                control = ["--info-fd", str(info_in), "--block-fd", str(gate_out)]
                program, *view = self._prefix
                process = self._spawn([program, *control, *view, "--", *self._argv], stdin, (info_in, gate_out))
            finally:
                os.close(info_in)
                os.close(gate_out)
            first = self._let_go(process, info, gate)
        finally:
            os.close(info)
            os.close(gate)
        return process, first

    def _let_go(self, process: subprocess.Popen[bytes], info: int, gate: int) -> _First:
        first = None
        try:
            first = _first_process(info, self._cancelled)
            if first is not None:
                self._set_limits(first.pid)
                os.write(gate, b"x")
                return first
        except BrokenPipeError as error:
            raise self._refusal(process, first) from error
        except OSError:
            # The closed gate would let it run, with nobody who watches.
            _end(process, first)
            raise
        raise self._refusal(process)

    def _spawn(self, argv: Sequence[str], stdin: IO[bytes], keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        # Bubblewrap ends with us by itself; the thread that asks for the same here is the one that watches to the end.
        last = None if self._prefix else partial(_die_with_parent, os.getpid())
        # The environment is readable inside as /proc/1/environ, so bubblewrap itself gets none either.
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            env=dict(self._variables),
            pass_fds=keep,
            start_new_session=True,
            preexec_fn=last,
        )

    def _refusal(self, process: subprocess.Popen[bytes], first: _First | None = None) -> SandboxUnavailable:
        self._drain(process)
        _end(process, first)
        return SandboxUnavailable(self._output.kept().decode("utf-8", "replace").strip()[:300] or "it did not start")

    def _set_limits(self, pid: int) -> None:
        limits = {
            resource.RLIMIT_FSIZE: self._limits.file_bytes,
            resource.RLIMIT_DATA: self._limits.memory_bytes,
            resource.RLIMIT_CPU: int(self._limits.seconds) + 1,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NOFILE: 1024,
            resource.RLIMIT_MEMLOCK: 64 << 10,
            # Counted per user namespace; the kernel exempts root, for whom the watcher counts.
            resource.RLIMIT_NPROC: self._limits.processes,
        }
        with suppress(ProcessLookupError):
            for kind, value in limits.items():
                resource.prlimit(pid, kind, (value, value))
            # The thread that watches runs before others where that is allowed; its child must not.
            os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, os.getpid()))

    def _watch(self, process: subprocess.Popen[bytes], first: _First | None, deadline: float) -> bool:
        """Read output until the command ends; True when its time was up."""
        assert process.stdout is not None
        usage = _Usage(first, self._folder, self._limits)
        handle = os.pidfd_open(process.pid)
        waiting = {process.stdout.fileno(), handle}
        looked = time.monotonic()
        try:
            while True:
                ready = select.select(list(waiting), [], [], _TICK)[0]
                if process.stdout.fileno() in ready and not self._output.read(process.stdout.fileno()):
                    waiting.discard(process.stdout.fileno())
                now = time.monotonic()
                if handle in ready or self._cancelled.is_set():
                    return False
                if now >= deadline:
                    return True
                if now - looked >= _TICK:
                    self._exceeded = usage.exceeded(now)
                    looked = now
                if self._exceeded:
                    return False
        finally:
            os.close(handle)

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """What is still in the pipe; a process that escaped its session (only without a sandbox) may hold it open."""
        assert process.stdout is not None
        until = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < until and select.select([process.stdout], [], [], _TICK * 5)[0]:
            if not self._output.read(process.stdout.fileno()):
                break
        process.stdout.close()


class _Output:
    """The beginning and the end of a stream; what lies between is dropped."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head, self._tail, self._dropped = bytearray(), bytearray(), 0

    @property
    def truncated(self) -> bool:
        return self._dropped > 0 or len(self._tail) > self._half

    def read(self, descriptor: int) -> bool:
        """Take what is there; False at the end of the stream."""
        data = os.read(descriptor, 1 << 16)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room else data
        if len(self._tail) > 4 * self._half + (1 << 16):
            self._dropped += len(self._tail) - self._half
            del self._tail[: -self._half or None]
        return bool(data)

    def kept(self) -> bytes:
        tail = bytes(self._tail[-self._half :]) if self._half else b""
        left_out = self._dropped + len(self._tail) - len(tail)
        note = b"\n[... %d bytes left out ...]\n" % left_out if left_out else b""
        return bytes(self._head) + note + tail


class _Usage:
    """What a sandbox uses right now, seen from outside of it."""

    def __init__(self, first: _First | None, folder: Path, limits: Limits) -> None:
        self._proc = f"/proc/{first.pid}/root/proc" if first else ""
        self._mounted = False
        self._folder, self._limits = folder, limits
        self._free = _free(folder)
        # The kernel stamps files with a clock that may lag by a tick.
        self._since = time.time() - 0.1
        self._next_scan = 0.0

    def exceeded(self, now: float) -> str:
        """The limit that is passed, or nothing."""
        if not self._ready():
            return ""
        pids = _pids(self._proc)
        if len(pids) > self._limits.processes:
            return "processes"
        if sum(_private_bytes(Path(self._proc, pid)) for pid in pids) > self._limits.memory_bytes:
            return "memory"
        return "disk" if self._disk_is_full(now) else ""

    def _ready(self) -> bool:
        """Whether the sandbox's own /proc is mounted: until then the path leads to the host's."""
        if self._proc and not self._mounted:
            with suppress(OSError):
                self._mounted = Path(self._proc).stat().st_dev != Path("/proc").stat().st_dev
        return self._mounted

    def _disk_is_full(self, now: float) -> bool:
        free = _free(self._folder)
        used = (self._free[0] - free[0], self._free[1] - free[1])
        # Others write to the same disk: only a real look at the folder decides, and it is not free.
        if (used[0] < self._limits.disk_bytes and used[1] < self._limits.disk_files) or now < self._next_scan:
            return False
        self._next_scan = now + 1.0
        size, count = _written(self._folder, self._since)
        return size >= self._limits.disk_bytes or count >= self._limits.disk_files


def _pids(proc: str) -> list[str]:
    with suppress(OSError), os.scandir(proc) as entries:
        return [entry.name for entry in entries if entry.name.isdigit()]
    return []


def _private_bytes(process: Path) -> int:
    try:
        _, resident, shared = (process / "statm").read_bytes().split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE


def _free(folder: Path) -> tuple[int, int]:
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize, status.f_ffree


def _written(folder: Path, since: float) -> tuple[int, int]:
    """Bytes on disk and number of the files that were written, moved or made since a time."""
    total, count = 0, 0
    for current, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(OSError):
                status = Path(current, name).lstat()
                if status.st_ctime >= since:
                    total += status.st_blocks * 512
                    count += 1
    return total, count


def _stdin_file(data: bytes) -> IO[bytes]:
    if not data:
        return Path(os.devnull).open("rb")
    file = os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b")
    file.write(data)
    file.seek(0)
    return file


def _die_with_parent(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _first_process(info: int, cancelled: threading.Event) -> _First | None:
    """The sandbox's first process, once everything is mounted; None when the sandbox did not come up."""
    text, until = b"", time.monotonic() + _START_SECONDS
    while time.monotonic() < until and not cancelled.is_set():
        if not select.select([info], [], [], _TICK * 5)[0]:
            continue
        chunk = os.read(info, 4096)
        if not chunk:
            break
        text += chunk
        with suppress(ValueError):
            pid = int(json.loads(text)["child-pid"])
            with suppress(ProcessLookupError):
                return _First(pid=pid, handle=os.pidfd_open(pid))
    return None


def _end(process: subprocess.Popen[bytes], first: _First | None) -> None:
    """Kill and reap; the sandbox's first process takes its whole pid namespace with it."""
    if first is not None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(first.handle, signal.SIGKILL)
        select.select([first.handle], [], [], _END_SECONDS)
        os.close(first.handle)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
