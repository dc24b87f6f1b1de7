"""A folder with the files of one tree, for one task; git's own data lies elsewhere."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from enchanted.actors.errors import FileTooLarge, UnsupportedFile, disk_as_git
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.schemas.canonical import sha256_hex

MAX_FILE_BYTES = 64 << 20
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Why a file that was there cannot be looked at: its folder may have become a link that leads to itself."""


class Workspace:
    """A checked-out tree; made by `checkout`, its folder is removed by `close`.

    `snapshot` and `reset` wait for each other.
    """

    def __init__(self, repository: ShadowRepository, folder: Path, *, max_file_bytes: int) -> None:
        self.repository = repository
        self.path = folder.absolute()
        self.tree = ""
        """The tree of the last checkout, snapshot or reset."""
        self._max_file_bytes = max_file_bytes
        self._tracked = False
        self._marked: set[bytes] | None = None
        """What may have changed since the last snapshot; None when that could be anything."""
        self._behind: set[bytes] = set()
        """Files that are in the tree as they are now, but not in the index."""
        self._index = repository.folder / "indexes" / sha256_hex(os.fsencode(self.path))[:32]
        self._git = Git(cwd=folder, git_dir=repository.folder, work_tree=folder, index=self._index)
        self._turn = asyncio.Lock()

    @classmethod
    async def checkout(
        cls, repository: ShadowRepository, folder: Path, tree: str, *, max_file_bytes: int = MAX_FILE_BYTES
    ) -> Workspace:
        """Fill a folder with the files of ``tree``; what was in it is removed first."""
        workspace = cls(repository, folder, max_file_bytes=max_file_bytes)
        await asyncio.to_thread(workspace._checkout, tree)
        return workspace

    def track(self) -> None:
        """From now on whoever writes here says so, by `mark` or `mark_unknown`; snapshots look at nothing else."""
        self._tracked, self._marked = True, set()

    def mark(self, path: str) -> None:
        """This file may have changed."""
        if self._marked is not None:
            self._marked.add(os.fsencode(path))

    def mark_unknown(self) -> None:
        """Any file may have changed."""
        self._marked = None

    async def snapshot(self) -> str:
        """The tree of the files as they are now. Ignored files, junk of tools and empty folders are no state.

        A `.git` that appeared is removed.

        Raises:
            FileTooLarge: a changed file is over the limit.
            UnsupportedFile: a pipe, socket or device lies where a file was.
        """
        async with self._turn:
            return await asyncio.to_thread(self._snapshot)

    async def reset(self, tree: str) -> None:
        """Put the files of ``tree`` back and remove what else is there, except ignored files."""
        async with self._turn:
            await asyncio.to_thread(self._reset, tree)

    async def ignores(self, path: str) -> bool:
        """Whether a new file of this name would be no state."""
        return await asyncio.to_thread(self._ignores, path)

    async def remove_nested_git(self) -> list[str]:
        """Remove every `.git` in the folder; gives their paths."""
        return await asyncio.to_thread(self._remove_nested_git)

    async def files(self) -> list[str]:
        """Paths of all files that are or would become state, sorted; those that are not UTF-8 in a readable form."""
        return await asyncio.to_thread(self._files)

    async def close(self) -> None:
        """Remove the folder."""
        await asyncio.to_thread(self._remove)

    def _ignores(self, path: str) -> bool:
        # This command alone refuses literal pathspecs; ./ keeps a leading colon from meaning one.
        command = ("check-ignore", "-q", "--no-index", "--", f"./{path}")
        return self._git.result(*command, ok=(0, 1), environment={"GIT_LITERAL_PATHSPECS": "0"})[0] == 0

    def _files(self) -> list[str]:
        listed, gone = (
            set(self._git.run("ls-files", *kinds, "--exclude-standard", "-z").split(b"\0"))
            for kinds in (["-co"], ["-d"])
        )
        names = (name for name in listed - gone if name and not name.endswith(b"/"))
        return sorted(name.decode("utf-8", "backslashreplace") for name in names)

    @disk_as_git("checkout-index")
    def _checkout(self, tree: str) -> None:
        self._remove()
        self.path.mkdir(parents=True, mode=0o755)
        self._git.run("read-tree", tree)
        self._git.run("checkout-index", "-a", "-f", "-q", "-u")
        self.tree = tree

    @disk_as_git("clean")
    def _remove(self) -> None:
        if self.path.exists():
            make_removable(self.path)
            shutil.rmtree(self.path)
        for leftover in (self._index, self._index.with_name(self._index.name + ".lock")):
            leftover.unlink(missing_ok=True)

    @disk_as_git("write-tree")
    def _snapshot(self) -> str:
        if self._marked is not None and (tree := self._with_marked(self._marked)):
            self._behind |= self._marked
            self.tree = tree
        elif (changed := self._changed()) or self._behind:
            paths = self._reachable(sorted(changed | self._behind_here()))
            for path in paths:
                self._require_storable(path)
            wanted = b"\0".join(paths)
            self._git.run("update-index", "--add", "--remove", "--replace", "-z", "--stdin", stdin=wanted)
            self.tree = self._git.run("write-tree").decode().strip()
            self._behind = set()
        self._marked = set() if self._tracked else None
        return self.tree

    def _behind_here(self) -> set[bytes]:
        """Without files whose place a folder has taken: the index never had them, and git refuses such a name."""
        paths = {path: self.path / os.fsdecode(path) for path in self._behind}
        return {path for path, place in paths.items() if place.is_symlink() or not place.is_dir()}

    def _with_marked(self, paths: Collection[bytes]) -> str | None:
        """The tree with the marked files as they are now; None when only a look at every file can tell."""
        files = {}
        for path in paths:
            self._require_storable(path)
            file = self.path / os.fsdecode(path)
            if file.is_symlink() or not file.is_file():
                return None
            files[path] = "100755" if file.stat().st_mode & 0o100 else "100644", file.read_bytes()
        return self.repository.store.writer.with_files(self.tree, files) if files else self.tree

    def _changed(self) -> set[bytes]:
        _remove_any(self.path / ".git")
        paths = self._list_changed()
        # A folder in this list is a repository within the repository.
        if any(path.endswith(b"/") for path in paths):
            self._remove_nested_git()
            paths = self._list_changed()
        return paths

    def _list_changed(self) -> set[bytes]:
        return set(self._git.run("ls-files", "-mo", "--exclude-standard", "-z").split(b"\0")) - {b""}

    def _require_storable(self, path: bytes) -> None:
        try:
            status = (self.path / os.fsdecode(path)).lstat()
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return
            raise
        if stat.S_ISREG(status.st_mode):
            if status.st_size > self._max_file_bytes:
                raise FileTooLarge(path, status.st_size, self._max_file_bytes)
        elif not stat.S_ISLNK(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise UnsupportedFile(path)

    def _reachable(self, paths: Sequence[bytes]) -> list[bytes]:
        """Without files whose folder has become a link: git replaces them by the link itself."""
        links = {path + b"/" for path in paths if (self.path / os.fsdecode(path)).is_symlink()}
        return [path for path in paths if not any(path.startswith(link) for link in links)]

    @disk_as_git("read-tree")
    def _reset(self, tree: str) -> None:
        make_removable(self.path)
        self._remove_nested_git()
        self._git.run("read-tree", "--reset", "-u", tree)
        self._git.run("clean", "-ffdq")
        self.tree = tree
        self._behind = set()
        self._marked = set() if self._tracked else None

    def _remove_nested_git(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                if name.lower() == ".git":
                    _remove_any(Path(folder, name))
                    found.append(ascii(str(Path(folder, name).relative_to(self.path)))[1:-1])
            folders[:] = [name for name in folders if name.lower() != ".git"]
        return found


def _remove_any(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        make_removable(path)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_removable(folder: Path) -> None:
    """Give folders that a tool made read-only their write permission back."""
    for current, folders, _ in os.walk(folder):
        for path in (Path(current, name) for name in (".", *folders)):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o700 != 0o700:
                path.chmod(stat.S_IMODE(status.st_mode) | 0o700)
