"""Files of a folder as git would see them, and exchanging them one at a time; no link on the way is followed."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from enchanted.actors.errors import UnsafePath
from enchanted.actors.repository.tree_store import TreeStore

FileEntry = tuple[str, str]
"""Git mode and git blob id (SHA-256)."""
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


def replace(source: Path, path: str, folder: Path) -> None:
    """Move a prepared file to its place, at once; does nothing when it was moved before."""
    name = _name(path)
    with _parent(source, path) as prepared:
        if prepared is None or not _is_file(prepared, name):
            return
        with _parent(folder, path, make=True) as place:
            assert place is not None
            _remove_empty(place, name)
            try:
                os.rename(name, name, src_dir_fd=prepared, dst_dir_fd=place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # A folder in there is another file system: the exchange itself stays a rename.
                partial = f".enchanted-{secrets.token_hex(8)}"
                _copy(prepared, place, name, partial)
                os.rename(partial, name, src_dir_fd=place, dst_dir_fd=place)
                os.unlink(name, dir_fd=prepared)


def delete(folder: Path, path: str) -> None:
    """Remove a file, and the folders that are empty without it."""
    with _parent(folder, path) as parent:
        if parent is None:
            return
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


def others(folder: Path, known: Collection[str], *, skip: Collection[str] = ()) -> Iterator[str]:
    """Paths of files that are not among ``known``; the top-level names in ``skip`` are left out."""
    root = os.fspath(folder)
    for current, folders, files in os.walk(root):
        inside = os.path.relpath(current, root)
        prefix = "" if inside == "." else inside + "/"
        if not prefix:
            folders[:] = [name for name in folders if name not in skip]
        links = [name for name in folders if Path(current, name).is_symlink()]
        for name in sorted([*files, *links]):
            if prefix + name not in known and not (not prefix and name in skip):
                yield prefix + name


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
