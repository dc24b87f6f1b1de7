"""A patch or a bundle that is wrong, and a disk, a limit or a cache that is: only the first is called a bad one."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.errors import BadPatch, GitFailed, MissingContent
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.staged import Staged
from enchanted.actors.repository.tree_store import TreeStore
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.testing import make_repository

HEAD = "diff --git a/a.py b/a.py\n"
NAMES = HEAD + "--- a/a.py\n+++ b/a.py\n"
GOOD = NAMES + "@@ -1 +1 @@\n-hello\n+other\n"
OLD = "2cf8d83d9ee29543b34a87727421fdecb7e3f3a183d337639025de576db9ebb4"
WRONG = [
    NAMES + "@@ -1 +1 @@\n-hallo\n+other\n",
    NAMES + "@@ -1,5 +1 @@\n-hello\n+other\n",
    GOOD.replace("a.py", "b.py"),
    GOOD.replace("a.py", "../a.py"),
    "rubbish\n",
    HEAD + "index 123\n",
    HEAD + "GIT binary patch\nliteral 3\nxx\n\n",
    HEAD + f"index {OLD}..{'1' * 64} 100644\nBinary files a/a.py and b/a.py differ\n",
    HEAD + f"index {OLD}..{'1' * 64} 100644\nGIT binary patch\nliteral 6\nNdmc~V$w)2Y0ssi10xbXl\n\n",
    HEAD + "index 00..11 100644\nBinary files a/a.py and b/a.py differ\n",
    HEAD + "old mode 100x\nnew mode 1\n",
    HEAD + "old mode 100644\nnew mode 120000\n",
    HEAD + "new file mode 100644\n--- /dev/null\n+++ b/a.py\n@@ -0,0 +1 @@\n+x\n",
    HEAD.replace("a.py", "a.py/x") + "new file mode 100644\n--- /dev/null\n+++ b/a.py/x\n@@ -0,0 +1 @@\n+x\n",
    "--- a/a.py\n+++ b/b.py\nrubbish\n@@ -1 +1 @@\n",
]


class Place:
    """A store with one file, `a.py`."""

    def __init__(self, folder: Path) -> None:
        self.store = TreeStore.create(folder / "trees.git")
        self.index = folder / "index"
        self.blob = self.store.git.run("hash-object", "-w", "--stdin", stdin=b"hello\n").decode().strip()
        self.tree = self.store.git.run("mktree", stdin=f"100644 blob {self.blob}\ta.py\n".encode()).decode().strip()

    @property
    def object(self) -> Path:
        return self.store.folder / "objects" / self.blob[:2] / self.blob[2:]

    def apply(self, patch: str) -> str:
        return Staged(self.store.folder, self.index).apply(self.tree, patch)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def emptied(place: Place) -> None:
    place.object.chmod(0o600)
    place.object.write_bytes(b"")


def scrambled(place: Place) -> None:
    place.object.chmod(0o600)
    place.object.write_bytes(b"no zlib stream")


def scrambled_in_a_pack(place: Place) -> None:
    place.store.pack()
    (pack,) = Path(place.store.folder, "objects", "pack").glob("*.pack")
    rows = place.store.git.run("verify-pack", "-v", str(pack)).decode().splitlines()
    _, _, _, size, offset = next(row for row in rows if row.startswith(place.blob)).split()
    content = bytearray(pack.read_bytes())
    content[int(offset) + 1 : int(offset) + int(size)] = bytes(int(size) - 1)
    pack.chmod(0o600)
    pack.write_bytes(content)


def lost(place: Place) -> None:
    place.object.unlink()


def no_room(place: Place) -> None:
    """A write fails, as it does on a full disk."""
    Path(place.store.folder, "objects", "info").rmdir()
    for folder in range(256):
        path = Path(place.store.folder, "objects", f"{folder:02x}")
        if not path.exists():
            path.write_text("")


@pytest.mark.parametrize("patch", WRONG)
def test_a_patch_that_is_corrupt_or_does_not_apply_is_a_bad_one(place: Place, patch: str) -> None:
    with pytest.raises(BadPatch):
        place.apply(patch)


@pytest.mark.parametrize("harm", [emptied, scrambled, scrambled_in_a_pack, lost, no_room])
def test_a_right_patch_on_a_damaged_or_full_disk_is_no_bad_one(place: Place, harm: Callable[[Place], None]) -> None:
    harm(place)
    with pytest.raises(GitFailed):
        place.apply(GOOD)


@pytest.mark.parametrize("ends", ["mkdir", "replace"])
def test_a_change_that_a_full_disk_has_no_room_for_names_git_and_the_disk_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    before = {path for path in place.store.folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(Path, ends, full)
        with pytest.raises(
            GitFailed, match="No space left on device; run `enchanted doctor` to check git and the disk"
        ):
            place.store.writer.with_files(place.tree, {b"b.py": ("100644", b"B = 1\n")})
    assert {path for path in place.store.folder.rglob("*") if path.is_file()} == before
    assert place.store.writer.with_files(place.tree, {b"b.py": ("100644", b"B = 1\n")})


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class Shadow:
    """A user's repository, and a shadow of it."""

    def __init__(self, user: Path, repository: ShadowRepository, bundle: bytes) -> None:
        self.user, self.repository, self.bundle = user, repository, bundle
        self.tree = repository.base_tree

    async def checkout(self, folder: Path) -> None:
        await Workspace.checkout(self.repository, folder, self.tree)

    async def create(self, folder: Path) -> None:
        await ShadowRepository.create(folder, self.user)

    async def rebuild(self, folder: Path) -> None:
        await ShadowRepository.from_bundle(folder, self.bundle)

    async def export(self, *, dry: bool = False) -> None:
        if dry:
            await self.repository.try_branch(self.user, "old", self.tree)
        else:
            await self.repository.export_branch(self.user, "new", self.tree, "message")


FULL: dict[str, tuple[Any, str, Callable[[Shadow, Path], Awaitable[object]]]] = {
    "a folder for a workspace": (Path, "mkdir", lambda shadow, folder: shadow.checkout(folder)),
    "a new repository": (Path, "mkdir", lambda shadow, folder: shadow.create(folder)),
    "the facts of a new repository": (Path, "write_bytes", lambda shadow, folder: shadow.create(folder)),
    "the errors of an import": (tempfile, "TemporaryFile", lambda shadow, folder: shadow.create(folder)),
    "a bundle": (tempfile, "TemporaryDirectory", lambda shadow, folder: shadow.repository.bundle(shadow.tree)),
    "a repository of a bundle": (tempfile, "NamedTemporaryFile", lambda shadow, folder: shadow.rebuild(folder)),
    "an index": (tempfile, "TemporaryDirectory", lambda shadow, folder: shadow.repository.apply(shadow.tree, GOOD)),
    "the objects of a branch": (tempfile, "TemporaryDirectory", lambda shadow, folder: shadow.export()),
    "a branch that is only tried": (tempfile, "TemporaryDirectory", lambda shadow, folder: shadow.export(dry=True)),
}


@pytest.mark.parametrize("what", FULL)
async def test_a_full_disk_is_told_as_where_git_itself_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    make_repository(tmp_path / "user", {"a.py": "hello\n"})
    repository = await ShadowRepository.create(tmp_path / "shadow.git", tmp_path / "user")
    shadow = Shadow(tmp_path / "user", repository, await repository.bundle(repository.base_tree))
    await repository.export_branch(shadow.user, "old", shadow.tree, "message")
    owner, name, attempt = FULL[what]
    with monkeypatch.context() as disk:
        disk.setattr(owner, name, full)
        with pytest.raises(
            GitFailed, match="No space left on device; run `enchanted doctor` to check git and the disk"
        ):
            await attempt(shadow, tmp_path / "new")
    await attempt(shadow, tmp_path / "new")


@pytest.mark.parametrize("body", ["sleep 60", "kill -9 $$"])
def test_a_git_that_is_killed_or_runs_past_its_time_calls_no_patch_bad(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "git"
    script.write_text(f'#!/bin/sh\ncase "$*" in *apply*) {body};; esac\nexec "{_git()}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    staged = Staged(place.store.folder, place.index, timeout=1.0)
    with pytest.raises(GitFailed):
        staged.apply(place.tree, GOOD)


def test_a_bundle_that_is_damaged_is_told_from_a_repository_that_is(place: Place, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    place.store.bundle(place.tree, good)
    for content in (b"", b"rubbish\n", good.read_bytes()[:-30], good.read_bytes()[:-30] + b"\xff" * 30):
        bad.write_bytes(content)
        with pytest.raises(MissingContent):
            TreeStore.create(tmp_path / "other.git").unbundle(bad)
    assert TreeStore.create(tmp_path / "other.git").unbundle(good) == place.tree
    broken = TreeStore.create(tmp_path / "broken.git")
    (broken.folder / "objects" / "pack").rmdir()
    (broken.folder / "objects" / "pack").write_text("")
    with pytest.raises(GitFailed):
        broken.unbundle(good)


def _git() -> str:
    return str(Path(Git(cwd=Path()).run("--exec-path").decode().strip()) / "git")
