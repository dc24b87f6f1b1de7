"""Patches applied one after the other in one index: only a tree that is not there already is read into it."""

from __future__ import annotations

from pathlib import Path

from enchanted.actors.errors import BadPatch, GitFailed
from enchanted.actors.repository.git import Git


class Staged:
    """An index file of the bare repository in ``folder``; methods block for two or three commands."""

    def __init__(self, folder: Path, index: Path) -> None:
        self._git = Git(cwd=folder, git_dir=folder, index=index)
        self._tree = ""

    def apply(self, tree: str, patch: str, *, reverse: bool = False) -> str:
        """The tree that ``patch`` makes of ``tree``, or backwards.

        Raises:
            BadPatch: it does not apply exactly.
        """
        if tree != self._tree:
            self._git.run("read-tree", tree)
        self._tree = ""
        direction = ["--reverse"] if reverse else []
        try:
            self._git.run("apply", "--cached", "--binary", "--whitespace=nowarn", *direction, "-", stdin=patch.encode())
        except GitFailed as error:
            raise BadPatch(error.why) from error
        self._tree = self._git.run("write-tree").decode().strip()
        return self._tree
