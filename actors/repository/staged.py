"""Patches applied one after the other in one index: only a tree that is not there already is read into it."""

from __future__ import annotations

from pathlib import Path

from enchanted.actors.errors import BadPatch, GitFailed
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.refusals import is_of_patch


class Staged:
    """An index file of the bare repository in ``folder``; methods block for two or three commands."""

    def __init__(self, folder: Path, index: Path, *, timeout: float = 300.0) -> None:
        """``timeout``: seconds that one command may take."""
        self._folder = folder
        self._index = index
        self._tree = ""
        self.within(timeout)

    def within(self, seconds: float) -> None:
        """Give each command from now on so long."""
        self._git = Git(cwd=self._folder, git_dir=self._folder, index=self._index, timeout=seconds)

    def apply(self, tree: str, patch: str, *, reverse: bool = False) -> str:
        """The tree that ``patch`` makes of ``tree``, or backwards.

        Raises:
            BadPatch: it does not apply exactly.
            GitFailed: git could not try.
        """
        if tree != self._tree:
            self._git.run("read-tree", tree)
        self._tree = ""
        direction = ["--reverse"] if reverse else []
        try:
            self._git.run("apply", "--cached", "--binary", "--whitespace=nowarn", *direction, "-", stdin=patch.encode())
        except GitFailed as error:
            if not is_of_patch(error.why):
                raise
            raise BadPatch(error.why) from error
        self._tree = self._git.run("write-tree").decode().strip()
        return self._tree
