"""Reading and writing files beneath one folder, whatever links a hostile process puts in the way.

Each component of a path is opened from the folder before it and never followed when it is a link, so
there is no moment between a check and its use.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from enchanted.actors.errors import FileTooLarge, MissingContent, UnsafePath

_FORBIDDEN = frozenset({".git", "git~1", ".gitmodules", ".gitconfig"})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_PATH = 4000
_MAX_NAME = 255


def forbidden_name(name: str | bytes) -> bool:
    """Whether a file of this name could be git's own on any file system: .GIT, `.git `, `.g\\u200cit`, git~1."""
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    folded = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf").casefold()
    return folded.split(":", 1)[0].rstrip(" .") in _FORBIDDEN


def split_path(path: object) -> list[str]:
    """The components of a relative path.

    Raises:
        UnsafePath: it is absolute, leaves the folder, names git's own files, or is no path at all.
    """
    if not isinstance(path, str) or not path:
        raise UnsafePath(repr(path)[:80], "not a path")
    if "\0" in path or len(os.fsencode(_encodable(path))) > _MAX_PATH:
        raise UnsafePath(path, "a path has no NUL and at most 4,000 bytes")
    if path.startswith(("/", "~")) or ("\\" in path and path[1:2] == ":"):
        raise UnsafePath(path, "absolute paths are outside of the workspace")
    parts = path.removeprefix("./").split("/")
    for part in parts:
        if part in ("", ".", ".."):
            raise UnsafePath(path, f"{part!r} is not allowed in a path")
        if len(os.fsencode(part)) > _MAX_NAME:
            raise UnsafePath(path, "a name has at most 255 bytes")
        if forbidden_name(part):
            raise UnsafePath(path, "git's own files are off limits")
    return parts


class ConfinedFiles:
    """The files beneath ``root``, none larger than ``max_bytes``; nothing here follows a link."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    def read(self, path: str) -> bytes:
        """The bytes of a regular file.

        Raises:
            UnsafePath: the path is refused, or leads over a link.
            MissingContent: no such file.
            FileTooLarge: over the limit.
        """
        parts = split_path(path)
        with self._parent(parts, path) as folder, _open(folder, parts[-1], path) as (file, status):
            if status.st_size > self._max_bytes:
                raise FileTooLarge(path, status.st_size, self._max_bytes)
            with os.fdopen(os.dup(file), "rb") as stream:
                data = stream.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise FileTooLarge(path, len(data), self._max_bytes)
        return data

    def write(self, path: str, data: bytes, *, create: bool = True) -> None:
        """Put ``data`` in place of a file at once, its mode kept; folders are made where they are missing.

        Raises:
            UnsafePath, MissingContent, FileTooLarge: as in `read`.
        """
        if len(data) > self._max_bytes:
            raise FileTooLarge(path, len(data), self._max_bytes)
        parts = split_path(path)
        with self._parent(parts, path, make=create) as folder:
            mode = _mode(folder, parts[-1], path)
            if mode is None and not create:
                raise MissingContent(f"file {path}")
            temporary = f".enchanted-{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fchmod(stream.fileno(), 0o755 if mode and mode & 0o100 else 0o644)
                os.rename(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                if isinstance(error, IsADirectoryError):
                    raise UnsafePath(path, "this is a folder") from error
                raise

    @contextmanager
    def _parent(self, parts: list[str], path: str, *, make: bool = False) -> Iterator[int]:
        folder = os.open(self._root, _FOLDER)
        try:
            for part in parts[:-1]:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=folder)
                try:
                    below = os.open(part, _FOLDER, dir_fd=folder)
                except OSError as error:
                    raise _refusal(error, path) from error
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


@contextmanager
def _open(folder: int, name: str, path: str) -> Iterator[tuple[int, os.stat_result]]:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise _refusal(error, path) from error
    try:
        status = os.fstat(file)
        _require_plain(status, path)
        yield file, status
    finally:
        os.close(file)


def _mode(folder: int, name: str, path: str) -> int | None:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _require_plain(status, path)
    return status.st_mode


def _require_plain(status: os.stat_result, path: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UnsafePath(path, "symbolic links are not followed")
    if stat.S_ISDIR(status.st_mode):
        raise UnsafePath(path, "this is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePath(path, "only regular files can be read or written")
    if status.st_nlink > 1:
        raise UnsafePath(path, "this file has other names (hard links), which may lie outside of the workspace")


def _refusal(error: OSError, path: str) -> UnsafePath | MissingContent:
    if error.errno == errno.ENOENT:
        return MissingContent(f"file {path}")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return UnsafePath(path, "symbolic links are not followed, and a file is no folder")
    return UnsafePath(path, error.strerror or "cannot be opened")


def _encodable(path: str) -> str:
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UnsafePath(ascii(path), "not a path") from error
    return path
