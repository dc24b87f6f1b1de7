"""The home folder: all state of the embedded services, private to its owner."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from enchanted.cluster.errors import HomeRefused

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
LEAST_FREE = 256 << 20
"""Bytes on the disk of the home without which nothing is started."""
FULL = 32 << 20
"""Bytes below which the disk counts as full: a write may fail any moment."""
ROOM = 64 << 20
"""Bytes from which a disk that was full is not any more."""
NAME = ".enchanted"
"""A folder of this name is ours, whatever a user keeps in it."""
SIGNS = frozenset({"ray_token", "supervisor.lock", "start.lock"})
"""Any of them shows a folder that was prepared to its end, by this version or an earlier one."""
EARLY = frozenset({
    *("logs", "nats", "store", "secrets", ".gitignore", "token"),  # a preparation that was killed
    "demo",  # the demo's copy, made before the services are started
    *("workspaces", "models", "cache"),  # what actors keep under the home's path on other machines of a cluster
    *("lost+found", ".gitkeep", "enchanted.toml"),  # a new disk, a folder kept in git, settings for a start from there
})  # fmt: skip
"""What may be in a home before it has a sign."""
DRAFT = re.compile(r"\.(.+)\.\d+\.[0-9a-f]{8}")
"""What `_draft` calls a file, which a kill leaves behind."""


class Home:
    """Names and rules of one home folder. Two homes never meet."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.token = self.path / "token"
        self.ray_token = self.path / "ray_token"
        self.state = self.path / "services.json"
        self.ports = self.path / "ports.json"
        self.lock_file = self.path / "supervisor.lock"
        self.start_lock_file = self.path / "start.lock"
        self.settings = self.path / "settings.json"
        self.logs = self.path / "logs"
        self.nats = self.path / "nats"
        self.store = self.path / "store"
        self.secrets = self.path / "secrets"

    def prepare(self) -> None:
        """Make the folder and its secrets; what exists is kept.

        Raises:
            HomeRefused: it is inside a Ray runtime environment, somebody else's folder, not ours to write, or on a
                read-only or full disk.
        """
        refuse_uploaded(self.path)
        refuse_unusable(self.path)
        refuse_foreign(self.path)
        refuse_full(self.path)
        try:
            for folder in (self.path, self.logs, self.nats, self.store, self.secrets):
                folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
                folder.chmod(PRIVATE_FOLDER)
            write_once(self.path / ".gitignore", "*\n")
            write_once(self.token, new_secret())
            write_once(self.ray_token, new_secret())
        except OSError as error:
            raise _unusable(self.path, error.strerror) from error

    def free_bytes(self) -> int:
        """What is free on its disk."""
        return shutil.disk_usage(self.path).free

    def disk_trouble(self, least: int = FULL) -> str:
        """What keeps services from writing, to follow "the disk of the home"; empty while it has ``least`` bytes."""
        # Only a write tells: to statvfs and access, a file system that failed looks writable since Linux 6.12. This one
        # is of the folder's inode alone, and goes with the journal's next commit.
        try:
            os.utime(self.path)
        except OSError as error:
            # Whoever may not touch the folder learns nothing about its disk.
            if error.errno in (errno.EROFS, errno.EIO):
                return "is read-only; `enchanted down`, check its file system and mount it again, `enchanted up`"
        free = self.free_bytes()
        return f"is full, {free >> 20} MiB free" if free < least else ""

    def secret(self, name: str) -> str:
        """The named secret, made when it is first asked for."""
        path = self.secrets / name
        write_once(path, new_secret())
        return path.read_text().strip()

    def lock(self) -> int | None:
        """A descriptor that holds the supervisor's lock until it is closed; None when another process has it."""
        return take_lock(self.lock_file)


def take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock at ``path`` until it is closed; None when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def write_once(path: Path, text: str) -> None:
    """Create ``path`` with mode 0600 unless it exists; a reader never sees half of it, and a power cut leaves no empty
    one, which would be there for good.
    """
    if path.exists():
        return
    draft = _draft(path, text)
    try:
        flush(draft)
        # link() refuses to replace: of two first starts one wins and both read the same secret.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    flush(path.parent)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` (mode 0600) so that a reader sees the old text or the new one."""
    _draft(path, text).replace(path)


def new_secret() -> str:
    """192 random bits that need no escaping in a URL, a shell or a configuration file."""
    return secrets.token_hex(24)


def _draft(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:  # a full disk
        draft.unlink()
        raise
    return draft


def in_ray_job(environment: Mapping[str, str]) -> bool:
    """Whether this process is the driver of a submitted Ray job, or a worker of one."""
    return bool(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


def refuse_full(path: Path) -> None:
    """Raise HomeRefused when the disk of ``path`` has too little room for services."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    total, _, free = shutil.disk_usage(there)
    # A file system without any room (/proc) is not full: whether a home can be made there shows when it is made.
    if total and free < LEAST_FREE:
        raise HomeRefused(
            f"the disk of {path} is full: {free >> 20} MiB are free",
            f"free {LEAST_FREE >> 20} MiB or more there, or set ENCHANTED_HOME to another disk",
        )


def refuse_unusable(path: Path) -> None:
    """Raise HomeRefused when ``path`` is no folder and cannot become one; looks only."""
    for folder in (path, *path.parents):
        try:
            mode = folder.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unusable(path, error.strerror) from error
        if not stat.S_ISDIR(mode):
            raise _unusable(path, os.strerror(errno.ENOTDIR))
        return


def refuse_foreign(path: Path) -> None:
    """Raise HomeRefused when ``path`` holds something and nothing shows that it is a home; looks only.

    What is ours is replaced, closed to others and hidden from git, which must not befall somebody's project.
    """
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        return  # there is none yet, or making it says why it cannot be used
    if path.name == NAME or names & SIGNS:
        return
    drafts = {name for name in names if (draft := DRAFT.fullmatch(name)) and draft[1] in SIGNS | EARLY}
    if names - EARLY - drafts:
        raise HomeRefused(f"{path} holds other files", f"name a new or empty folder, such as {path / NAME}")


def _unusable(path: Path, why: str | None) -> HomeRefused:
    return HomeRefused(f"the home {path} cannot be used: {why}", "set ENCHANTED_HOME to a folder of yours")


def refuse_uploaded(path: Path) -> None:
    """Raise HomeRefused when ``path`` is inside a folder that Ray unpacked for a job and will delete."""
    if any(part.name == "runtime_resources" and part.parent.name.startswith("session_") for part in path.parents):
        raise HomeRefused(
            f"the home {path} is inside a Ray runtime environment, which Ray deletes",
            "set ENCHANTED_HOME to an absolute folder outside it",
        )
