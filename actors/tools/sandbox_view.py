"""What a sandboxed command sees of the machine: the arguments bubblewrap gets."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

WORKSPACE = "/workspace"

# Root is built from nothing: whatever is not named here does not exist inside, no home folder, no /run, no socket.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")
# Files of /etc that programs need; never the whole folder, which a caller who is root could read keys from.
_ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "fonts", "group", "host.conf", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "passwd",
    "protocols", "services", "ssl/certs", "ssl/openssl.cnf", "timezone",
)  # fmt: skip
_FLAGS = (
    "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
    "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv",
)  # fmt: skip
_HIDDEN_PROC = frozenset({"kcore", "keys", "key-users", "kmsg", "timer_list", "sched_debug", "kallsyms", "config.gz"})


def environment(folder: str = WORKSPACE, *, temporary: str = "/tmp") -> dict[str, str]:
    """The variables that every command gets. Tools of the workspace's own .venv come before ours."""
    path = (f"{folder}/.venv/bin", f"{sys.prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
    return {
        "PATH": ":".join(path),
        "HOME": temporary,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "RUFF_NO_CACHE": "true",
    }


def arguments(
    folder: Path,
    *,
    writable: bool,
    temporary_bytes: int,
    readable: Sequence[Path] = (),
    hidden: Sequence[Path] = (),
    variables: Mapping[str, str] | None = None,
) -> list[str]:
    """The view in which ``folder`` is /workspace.

    Args:
        readable: further host folders, at their own paths, read-only.
        hidden: host folders and files that stay empty inside even where they lie in a readable folder.
        variables: given beside those of `environment`, which they never replace.
    """
    tmpfs = ("--size", str(temporary_bytes), "--tmpfs")
    places = [*_interpreter(), *(str(path) for path in readable)]
    view = [
        *_FLAGS,
        *_system(),
        "--proc",
        "/proc",
        *_proc(),
        "--dev",
        "/dev",
        *tmpfs,
        "/dev/shm",
        "--remount-ro",
        "/dev",
    ]
    view += [*tmpfs, "/tmp"]
    for place in places:
        view += ["--ro-bind", place, place]
    for path in _covered(hidden, [*places, *_shown()]):
        if path.is_dir():
            view += ["--perms", "0000", *tmpfs, str(path)]
        else:
            view += ["--ro-bind", "/dev/null", str(path)]
    view += ["--bind" if writable else "--ro-bind", str(folder), WORKSPACE, "--chdir", WORKSPACE, "--remount-ro", "/"]
    for name, value in {**(variables or {}), **environment()}.items():
        view += ["--setenv", name, value]
    return view


def _interpreter() -> list[str]:
    """Where the running Python, its packages and its tools lie."""
    places = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent}
    return [str(place) for place in sorted(places) if place.is_dir() and not place.is_relative_to("/usr")]


def _system() -> list[str]:
    view: list[str] = []
    for place in map(Path, _SYSTEM):
        if place.is_symlink():
            view += ["--symlink", str(place.readlink()), str(place)]
    for shown in _shown():
        view += ["--ro-bind", shown, shown]
    return view


def _shown() -> list[str]:
    """What every command sees of the machine's own files."""
    folders = (place for place in map(Path, _SYSTEM) if place.is_dir() and not place.is_symlink())
    return [*map(str, folders), *(str(file) for name in _ETC if (file := Path("/etc", name)).exists())]


def _covered(hidden: Sequence[Path], places: Sequence[str]) -> list[Path]:
    """Where what is hidden would show, by whatever links it is named; not what lies in another of these."""
    found: dict[Path, None] = {}
    bound = [(Path(place), Path(place).resolve()) for place in dict.fromkeys(places)]
    # Somebody who may not look at a file has a command that may not either.
    with_access = (path.resolve() for path in hidden if os.access(path, os.F_OK))
    for real in with_access:
        found |= dict.fromkeys(place / real.relative_to(at) for place, at in bound if real.is_relative_to(at))
    return [path for path in found if not any(other in found for other in path.parents)]


def _proc() -> list[str]:
    """Cover what a process of root's could write without any capability, such as /proc/sys/kernel/core_pattern."""
    view: list[str] = []
    for entry in sorted(os.scandir("/proc"), key=lambda entry: entry.name):
        if entry.name.isdigit() or entry.is_symlink():
            continue
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            view += ["--ro-bind", entry.path, entry.path]
        elif mode & 0o222 or entry.name in _HIDDEN_PROC:
            view += ["--ro-bind", "/dev/null", entry.path]
    return view
