"""New trees out of old ones without an index: a few small objects instead of a walk over every file.

Git's own commands read and write the whole index, which in a repository of 5,000 files costs more than the
rest of recording a change. The format written here is git's, so git reads, checks and diffs it like its own.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from enchanted.actors.errors import GitFailed
from enchanted.actors.repository.git import Git

_FOLDER = b"40000"
_ID = 32
_KEPT = 2_000

T = TypeVar("T")
Entries = dict[bytes, tuple[bytes, bytes]]
"""Name -> mode and binary id."""


class TreeWriter:
    """Writes loose objects into the SHA-256 repository in ``folder``. Remembers the trees it saw last."""

    def __init__(self, folder: Path, git: Git) -> None:
        self._objects = folder / "objects"
        self._git = git
        self._trees: OrderedDict[str, Entries] = OrderedDict()
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def with_files(self, tree: str, files: Mapping[bytes, tuple[str, bytes]]) -> str | None:
        """The tree with these files (mode and content) put in; None where a file stands in the way of a folder."""
        ids = {}
        for path, (mode, content) in files.items():
            blob = self._write(b"blob", content)
            _remember(self._sizes, blob.hex(), len(content))
            ids[tuple(path.split(b"/"))] = mode.encode(), blob
        root = self._with(tree, ids)
        return root.hex() if root else None

    def size(self, blob: str) -> int | None:
        """Bytes of a blob that was written here lately."""
        return self._sizes.get(blob)

    def _with(self, tree: str, files: Mapping[tuple[bytes, ...], tuple[bytes, bytes]]) -> bytes | None:
        entries = dict(self._read(tree)) if tree else {}
        below: dict[bytes, dict[tuple[bytes, ...], tuple[bytes, bytes]]] = {}
        for (name, *rest), entry in files.items():
            mode, old = entries.get(name, (b"", b""))
            if old and (mode == _FOLDER) != bool(rest):
                return None
            if rest:
                below.setdefault(name, {})[tuple(rest)] = entry
            else:
                entries[name] = entry
        for name, inner in below.items():
            subtree = self._with(entries[name][1].hex() if name in entries else "", inner)
            if subtree is None:
                return None
            entries[name] = _FOLDER, subtree
        # Git sorts a folder as if its name ended with a slash.
        order = sorted(entries, key=lambda name: name + b"/" if entries[name][0] == _FOLDER else name)
        written = self._write(b"tree", b"".join(b"%s %s\0%s" % (entries[n][0], n, entries[n][1]) for n in order))
        _remember(self._trees, written.hex(), entries)
        return written

    def _read(self, tree: str) -> Entries:
        if tree not in self._trees:
            entries = _parse(self._git.run("cat-file", "tree", tree))
            _remember(self._trees, tree, entries)
            return entries
        return self._trees[tree]

    def _write(self, kind: bytes, content: bytes) -> bytes:
        data = b"%s %d\0%s" % (kind, len(content), content)
        digest = hashlib.sha256(data)
        name = digest.hexdigest()
        path = self._objects / name[:2] / name[2:]
        if not path.exists():
            try:
                _put(path, zlib.compress(data, 1))
            except OSError as error:
                # As where git itself writes: whoever records a change gives its task up, and the run goes on.
                raise GitFailed(("hash-object", "-w"), str(error)) from error
        return digest.digest()


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="tmp_obj_", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def _remember(kept: OrderedDict[str, T], key: str, value: T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _KEPT:
        kept.popitem(last=False)


def _parse(data: bytes) -> Entries:
    entries, place = Entries(), 0
    while place < len(data):
        end = data.index(b"\0", place)
        mode, name = data[place:end].split(b" ", 1)
        place = end + 1 + _ID
        entries[name] = mode, data[end + 1 : place]
    return entries
