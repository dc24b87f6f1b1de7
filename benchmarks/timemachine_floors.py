"""What git and SHA-256 alone take for what the time machine does: floors to hold it against."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from enchanted.actors.repository.git import Git


class BareGit:
    """The files that a run begins with, in a plain repository of the same kind; every method blocks."""

    def __init__(self, folder: Path, bundle: bytes) -> None:
        folder.mkdir()
        self._bundle = folder / "base.bundle"
        self._bundle.write_bytes(bundle)
        self._folder = folder / "bare.git"
        self.unpack(self._folder)
        self._commit = Git(cwd=folder).run("bundle", "list-heads", str(self._bundle)).split()[0].decode()

    def unpack(self, into: Path) -> None:
        """A new repository with the bundle in it."""
        Git(cwd=self._bundle.parent).run("init", "-q", "--bare", "--object-format=sha256", "--template=", str(into))
        Git(cwd=into, git_dir=into).run("bundle", "unbundle", str(self._bundle))

    def content(self, path: str) -> bytes:
        """One file."""
        return Git(cwd=self._folder, git_dir=self._folder).run("cat-file", "blob", f"{self._commit}:{path}")

    def checkout(self, into: Path) -> None:
        """Every file, into a new folder."""
        into.mkdir()
        git = Git(cwd=into, git_dir=self._folder, work_tree=into, index=into.with_suffix(".index"))
        git.run("checkout", "-q", self._commit, "--", ".")


def hashing_rate(raws: Sequence[bytes]) -> float:
    """Events a second whose bytes are hashed, and nothing else."""
    begun = time.perf_counter()
    for raw in raws:
        hashlib.sha256(raw).hexdigest()
    return len(raws) / (time.perf_counter() - begun)
