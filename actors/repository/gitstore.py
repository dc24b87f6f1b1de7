"""The shadow repository of a run: what it starts from, every tree on the way, and the way back to the user's branch."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from enchanted.actors.errors import disk_as_git
from enchanted.actors.repository.fast_import import FastImport
from enchanted.actors.repository.git import quote_path
from enchanted.actors.repository.tree_store import EMPTY_TREE, Patch, TreeStore
from enchanted.actors.repository.user_repository import Entry, RepositoryFacts, UserRepository
from enchanted.schemas.events import FileChange

AUTHOR = "Enchanted <enchanted@localhost>"
_BASE_REF = "refs/enchanted/base"
_FACTS = "base.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What a run starts from."""

    tree: str
    commit: str
    source: RepositoryFacts | None


class ShadowRepository:
    """A bare SHA-256 repository outside of the user's; made by `create`, `from_bundle` or `open`.

    Several processes may have one open. Every object is written by git and never removed.
    """

    def __init__(self, store: TreeStore, base: Base) -> None:
        self.store = store
        self._base = base

    @classmethod
    async def create(cls, folder: Path, user_repository: Path) -> ShadowRepository:
        """Copy what the user's HEAD holds; a folder that is complete already is opened as it is.

        Raises:
            NotARepository, EmptyRepository, GitTooOld, UnsafePath, MissingContent: see there.
        """
        return await asyncio.to_thread(cls._create, folder, user_repository)

    @classmethod
    async def from_bundle(cls, folder: Path, bundle: bytes, *, base_commit: str = "") -> ShadowRepository:
        """Build a repository whose base is the tree that `bundle` wrote.

        Raises:
            MissingContent: the bytes are no bundle, or damaged.
        """
        return await asyncio.to_thread(cls._from_bundle, folder, bundle, base_commit)

    @classmethod
    def open(cls, folder: Path) -> ShadowRepository:
        """Open one that was made earlier.

        Raises:
            FileNotFoundError: it is not there, or was never completed.
        """
        saved = orjson.loads((folder / _FACTS).read_bytes())
        source = saved["source"]
        if source is not None:
            lists = {name: tuple(source[name]) for name in ("changed", "submodules")}
            source = RepositoryFacts(**{**source, **lists})
        return cls(TreeStore(folder), Base(tree=saved["tree"], commit=saved["commit"], source=source))

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.store.folder

    @property
    def base_tree(self) -> str:
        """The tree the run started from."""
        return self._base.tree

    @property
    def base_commit(self) -> str:
        """The user's commit that holds that tree, in the user's hash kind; empty when it is not known."""
        return self._base.commit

    @property
    def empty_tree(self) -> str:
        """The tree without files."""
        return EMPTY_TREE

    @property
    def source(self) -> RepositoryFacts | None:
        """How the user's repository stood; None when built from a bundle."""
        return self._base.source

    async def list(self, tree: str) -> tuple[FileChange, ...]:
        """Every file of a tree, as additions."""
        return tuple(await asyncio.to_thread(self.store.files, tree))

    async def diff(self, old: str, new: str) -> Patch:
        """The difference between two trees."""
        return await asyncio.to_thread(self.store.diff, old, new)

    async def apply(self, tree: str, patch: str, *, reverse: bool = False) -> str:
        """The tree a patch makes of ``tree``; raises BadPatch."""
        return await asyncio.to_thread(self.store.apply, tree, patch, reverse=reverse)

    async def content(self, tree: str, path: str | bytes) -> bytes:
        """The bytes of one file; raises MissingContent."""
        return await asyncio.to_thread(self.store.content, tree, path)

    async def bundle(self, tree: str) -> bytes:
        """A self-contained git bundle that rebuilds exactly this tree."""
        return await asyncio.to_thread(self._bundle, tree)

    async def export_branch(
        self, user_repository: Path | str, branch: str, tree: str, message: str, *, base_commit: str = ""
    ) -> str:
        """Write a tree as one commit on top of the base commit, onto a branch of the user's; gives the commit.

        ``base_commit``: where this repository does not know it, having been made from a bundle.

        Raises:
            BranchExists: the branch is there with other content.
            BadBranchName, BaseMissing, NotARepository: see there.
        """
        base = base_commit or self.base_commit
        return await asyncio.to_thread(self._export, Path(user_repository), branch, tree, message, base)

    async def try_branch(self, user_repository: Path | str, branch: str, tree: str, *, base_commit: str = "") -> str:
        """Whether `export_branch` could: writes nothing, raises the same, gives the commit if it is there already."""
        base, user = base_commit or self.base_commit, Path(user_repository)
        return await asyncio.to_thread(self._export, user, branch, tree, "", base, dry_run=True)

    async def extend_branch(
        self,
        user_repository: Path | str,
        branch: str,
        held: Sequence[str],
        tree: str,
        message: str,
        *,
        base_commit: str = "",
    ) -> str:
        """Add a commit that leads to ``tree`` to a branch that holds one of the trees ``held``.

        Raises:
            CannotApply: the branch holds something else, or is checked out.
            BaseMissing, NotARepository: see there.
        """
        base = base_commit or self.base_commit
        return await asyncio.to_thread(self._extend, Path(user_repository), branch, held, tree, message, base)

    async def apply_to_working_tree(self, user_repository: Path | str, branch: str) -> None:
        """Fast-forward the user's current branch and files to ``branch``.

        Raises:
            CannotApply: that would lose or mix something; nothing was changed.
        """
        await asyncio.to_thread(lambda: UserRepository(Path(user_repository)).fast_forward(branch))

    @classmethod
    def _create(cls, folder: Path, path: Path) -> ShadowRepository:
        if (folder / _FACTS).exists():
            return cls.open(folder)
        user = UserRepository(path)
        facts = user.facts()
        entries = user.entries(facts.commit)
        store = TreeStore.create(folder)
        with FastImport(store.git) as stream:
            marks = stream.blobs(user.git, list(dict.fromkeys(entry.blob for entry in entries)))
            stream.write(_commit_lines(entries, marks))
        tree = store.git.run("rev-parse", f"{_BASE_REF}^{{tree}}").decode().strip()
        return cls._save(store, Base(tree=tree, commit=facts.commit, source=facts))

    @classmethod
    @disk_as_git("bundle", "unbundle")
    def _from_bundle(cls, folder: Path, bundle: bytes, base_commit: str) -> ShadowRepository:
        store = TreeStore.create(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="scratch-") as file:
            file.write(bundle)
            file.flush()
            tree = store.unbundle(Path(file.name))
        return cls._save(store, Base(tree=tree, commit=base_commit, source=None))

    @classmethod
    @disk_as_git("init")
    def _save(cls, store: TreeStore, base: Base) -> ShadowRepository:
        partial = store.folder / f"{_FACTS}.partial"
        partial.write_bytes(orjson.dumps(asdict(base)))
        partial.replace(store.folder / _FACTS)
        return cls(store, base)

    @disk_as_git("bundle", "create")
    def _bundle(self, tree: str) -> bytes:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="scratch-") as scratch:
            path = Path(scratch) / "tree.bundle"
            self.store.bundle(tree, path)
            return path.read_bytes()

    def _export(self, path: Path, branch: str, tree: str, message: str, base: str, *, dry_run: bool = False) -> str:
        changes = self.store.changes(self.base_tree, tree)
        return UserRepository(path).write_branch(
            branch, changes, source=self.store.git, base=base, message=message, author=AUTHOR, dry_run=dry_run
        )

    def _extend(self, path: Path, branch: str, held: Sequence[str], tree: str, message: str, base: str) -> str:
        return UserRepository(path).extend_branch(
            branch,
            (self.store.changes(self.base_tree, one) for one in held),
            self.store.changes(self.base_tree, tree),
            source=self.store.git,
            base=base,
            message=message,
            author=AUTHOR,
        )


def _commit_lines(entries: Sequence[Entry], marks: dict[str, int]) -> list[bytes]:
    who = b"Enchanted <enchanted@localhost> 946684800 +0000"
    head = b"commit %s\nauthor %s\ncommitter %s\ndata 5\nbase\n\n" % (_BASE_REF.encode(), who, who)
    return [head, *(b"M %s :%d %s\n" % (e.mode.encode(), marks[e.blob], quote_path(e.path)) for e in entries), b"\n"]
