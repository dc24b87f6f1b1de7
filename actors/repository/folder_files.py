"""Files of a folder as git would see them, and exchanging them one at a time; no link on the way is followed."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path

from enchanted.actors.errors import TargetChanged, UnsafePath
from enchanted.actors.repository.tree_store import TreeStore

FileEntry = tuple[str, str]
"""Git mode and git blob id (SHA-256)."""
Identity = tuple[int, int, int, int, int, int]
"""Which file lies somewhere, and when it was last touched: told without reading it."""
LINK = "120000"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_PIECE = 1 << 20


def entries_of(store: TreeStore, tree: str) -> dict[str, FileEntry]:
    """Every file of a tree, by its path as the file system has it."""
    output = store.git.run("ls-tree", "-r", "-z", "--full-tree", tree)
    files = {}
    for record in output.split(b"\0")[:-1]:
        head, path = record.split(b"\t", 1)
        mode, _, blob = head.decode().split()
        files[os.fsdecode(path)] = (mode, blob)
    return files


def entry_at(folder: Path, path: str) -> FileEntry | None:
    """What lies at a path; None for nothing or a folder, and a mode without a blob for what git cannot hold."""
    with _parent(folder, path) as parent:
        if parent is None:
            return None
        name = _name(path)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(status.st_mode):
            return LINK, _blob_id(os.fsencode(os.readlink(name, dir_fd=parent)))
        if stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            return oct(status.st_mode), ""
        mode = "100755" if status.st_mode & 0o100 else "100644"
        return mode, _hashed(parent, name, status.st_size)


def identity_at(folder: Path, path: str) -> Identity | None:
    """Which file lies at a path; None for nothing or a folder."""
    with _parent(folder, path) as parent:
        return None if parent is None else _identity(parent, _name(path))


def is_free(folder: Path, path: str) -> bool:
    """Whether a file can be put there with nothing in the way; a link is in the way, wherever it leads."""
    place = folder
    for part in path.split("/")[:-1]:
        place /= part
        try:
            if not stat.S_ISDIR(place.lstat().st_mode):
                return False
        except FileNotFoundError:
            return True
    return not os.path.lexists(folder / path)


def keep(folder: Path, path: str, into: Path, *, copy: bool = False) -> None:
    """Give what lies at a path a second name in ``into`` (or a copy there); nothing where nothing lies."""
    with _parent(folder, path) as source:
        name = _name(path)
        if source is None or not _is_file(source, name):
            return
        with _parent(into, path, make=True) as place:
            assert place is not None
            if not copy and _linked(source, place, name):
                return
            _copy(source, place, name, name)


def replace(source: Path, path: str, folder: Path, *, was: Identity | None) -> None:
    """Move a prepared file to its place, at once; does nothing when it was moved before.

    Raises:
        TargetChanged: something else lies there than what ``was`` there.
    """
    name = _name(path)
    with _parent(source, path) as prepared:
        if prepared is None or not _is_file(prepared, name):
            return
        with _parent(folder, path, make=True) as place:
            assert place is not None
            _remove_empty(place, name)
            _require_unchanged(folder, path, place, was)
            try:
                os.rename(name, name, src_dir_fd=prepared, dst_dir_fd=place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # A folder in there is another file system: the exchange itself stays a rename.
                partial = f".enchanted-{secrets.token_hex(8)}"
                try:
                    _copy(prepared, place, name, partial)
                    # Again: a copy takes its time.
                    _require_unchanged(folder, path, place, was)
                    os.rename(partial, name, src_dir_fd=place, dst_dir_fd=place)
                finally:
                    with suppress(OSError):
                        os.unlink(partial, dir_fd=place)
                os.unlink(name, dir_fd=prepared)


def delete(folder: Path, path: str, *, was: Identity | None) -> None:
    """Remove a file, and the folders that are empty without it.

    Raises:
        TargetChanged: as in `replace`.
    """
    with _parent(folder, path) as parent:
        if parent is None:
            return
        _require_unchanged(folder, path, parent, was)
        with suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(_name(path), dir_fd=parent)
    above = _above(path)
    while above:
        with _parent(folder, above) as parent:
            if parent is None:
                return
            try:
                os.rmdir(_name(above), dir_fd=parent)
            except OSError:
                return
        above = _above(above)


def others(
    folder: Path, known: Collection[str], *, skip: Collection[str] = (), bound: int | None = None
) -> Iterator[str]:
    """Paths of files that are not among ``known``, in no order; the top-level names in ``skip`` are left out.

    With ``bound`` it ends after so many, looks into so many folders, and stays on the folder's own file system: of what
    is mounted in there nothing is found.
    """
    enters = _anything if bound is None else _near(folder, bound)
    return islice((path for path in _beneath(folder, skip, enters) if path not in known), bound)


def flush(folder: Path, *, contents: bool = True) -> None:
    """Have the names of all files beneath, and by default what is in them, survive a power cut."""
    for _, _, names, place in os.fwalk(folder, follow_symlinks=False):
        for name in names if contents else ():
            _flush_file(place, name)
        os.fsync(place)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    place = os.open(folder, _FOLDER)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def flush_above(root: Path, paths: Iterable[str]) -> None:
    """The same of the folders that hold these paths, or held them."""
    folders = {above for path in paths for above in _parents(path)}
    for folder in sorted(folders):
        with _parent(root, f"{folder}/x" if folder else "x") as place:
            if place is not None:
                os.fsync(place)


def _parents(path: str) -> Iterator[str]:
    while path:
        path = _above(path)
        yield path


def _beneath(folder: Path, skip: Collection[str], enters: Callable[[os.DirEntry[str]], bool]) -> Iterator[str]:
    """Paths of files and links; not by `os.walk`, which holds every name of a folder at once."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for entry in _listed(folder / prefix):
            path = prefix + entry.name
            if path in skip:
                continue
            if not _is_folder(entry):
                yield path
            elif enters(entry):
                waiting.append(path + "/")


def _listed(folder: Path) -> Iterator[os.DirEntry[str]]:
    # What cannot be looked into, or goes away meanwhile, has nothing to show.
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _anything(entry: os.DirEntry[str]) -> bool:
    return True


def _near(folder: Path, most: int) -> Callable[[os.DirEntry[str]], bool]:
    """Takes so many folders, of one file system."""
    device, number = _device(folder), count(1)
    return lambda entry: _device(entry) == device and next(number) < most


def _device(place: Path | os.DirEntry[str]) -> int | None:
    try:
        return place.stat().st_dev
    except OSError:
        return None


def _identity(parent: int, name: str) -> Identity | None:
    try:
        at = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(at.st_mode):
        return None
    return at.st_dev, at.st_ino, at.st_mode, at.st_size, at.st_mtime_ns, at.st_ctime_ns


def _require_unchanged(folder: Path, path: str, parent: int, was: Identity | None) -> None:
    """The last look before an exchange; with nothing there, nothing can be lost.

    What remains are the microseconds from here to the exchange, since no call compares and renames at once; a write
    within the same tick of the file system's clock that leaves the size as it was; and whoever has the file open or
    mapped, and goes on writing into it once it has no name here.
    """
    found = _identity(parent, _name(path))
    if found is not None and found != was:
        raise TargetChanged(folder, [path])


def _linked(source: int, place: int, name: str) -> bool:
    """Give a file its second name; False where the file system, or its owner, does not allow that."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=place, follow_symlinks=False)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        return False
    return True


def _copy(source: int, place: int, name: str, new: str) -> None:
    """A copy whose content survives a power cut, as a second name would."""
    shutil.copy2(_at(source, name), _at(place, new), follow_symlinks=False)
    _flush_file(place, new)


def _flush_file(parent: int, name: str) -> None:
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _at(folder: int, name: str) -> str:
    return f"/proc/self/fd/{folder}/{name}"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _above(path: str) -> str:
    return path.rpartition("/")[0]


@contextmanager
def _parent(root: Path, path: str, *, make: bool = False) -> Iterator[int | None]:
    """The folder that holds a path, opened step by step; None where it is missing or no folder."""
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise UnsafePath(os.fsencode(path), "it leads out of the folder")
    try:
        folder = os.open(root, _FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        if make:
            raise
        yield None
        return
    try:
        for part in path.split("/")[:-1]:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
            try:
                below = os.open(part, _FOLDER, dir_fd=folder)
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise
                if make:
                    why = f"a file or a link lies where the folder {part} must be"
                    raise NotADirectoryError(errno.ENOTDIR, why, path) from error
                yield None
                return
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def _is_file(parent: int, name: str) -> bool:
    try:
        return not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _remove_empty(parent: int, name: str) -> None:
    """Remove a folder that holds nothing but folders; what else is there stays."""
    try:
        below = os.open(name, _FOLDER, dir_fd=parent)
    except OSError:
        return
    os.close(below)
    for _, folders, _, place in os.fwalk(name, topdown=False, dir_fd=parent, follow_symlinks=False):
        for folder in folders:
            with suppress(OSError):
                os.rmdir(folder, dir_fd=place)
    with suppress(OSError):
        os.rmdir(name, dir_fd=parent)


def _hashed(parent: int, name: str, size: int) -> str:
    digest = hashlib.sha256(b"blob %d\0" % size)
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    with os.fdopen(file, "rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _blob_id(content: bytes) -> str:
    return hashlib.sha256(b"blob %d\0%s" % (len(content), content)).hexdigest()
