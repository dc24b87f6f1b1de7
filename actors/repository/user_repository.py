"""The user's repository: read at HEAD, and given one new branch. Nothing else in it is ever touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from enchanted.actors.errors import (
    BadBranchName,
    BaseMissing,
    BranchExists,
    BranchRefused,
    CannotApply,
    EmptyRepository,
    GitFailed,
    NotARepository,
    UnsafePath,
    disk_as_git,
)
from enchanted.actors.repository.fast_import import FastImport, read_marks
from enchanted.actors.repository.git import Git, quote_path, require_git
from enchanted.actors.repository.new_branch import require_new
from enchanted.actors.repository.tree_store import GITLINK, Change
from enchanted.actors.tools.confined_files import forbidden_name

GITMODULES, LINK = b".gitmodules", "120000"
_NEUTRAL = ("core.splitIndex=false", "core.sparseCheckout=false", "index.sparse=false", "i18n.commitEncoding=UTF-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryFacts:
    """What was found where a run starts."""

    folder: str
    """Root of the working tree, or the folder of a bare repository."""
    commit: str
    """HEAD, in the repository's own hash kind."""
    branch: str
    """The current branch; empty when HEAD is detached."""
    bare: bool
    dirty: bool
    """The working tree differs from HEAD; the run starts from HEAD all the same."""
    changed: tuple[str, ...]
    """What differs, untracked files included, at most 1,000 paths."""
    submodules: tuple[str, ...]
    """Left out of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file of a tree."""

    path: bytes
    mode: str
    blob: str


class UserRepository:
    """A git repository that belongs to the user.

    Raises:
        NotARepository: ``path`` is not in one.
        GitTooOld: see `require_git`.
    """

    def __init__(self, path: Path) -> None:
        require_git()
        if not path.is_dir():
            raise NotARepository(path)
        probe = Git(cwd=path)
        try:
            bare, inside = probe.run("rev-parse", "--is-bare-repository", "--is-inside-git-dir").decode().split()
            self.bare = bare == "true"
            if inside == "true" and not self.bare:
                raise NotARepository(path)
            where = "--absolute-git-dir" if self.bare else "--show-toplevel"
            self.folder = Path(os.fsdecode(probe.run("rev-parse", where).rstrip(b"\n")))
        except GitFailed as error:
            raise NotARepository(path) from error
        self.git = Git(cwd=self.folder, settings=_NEUTRAL)

    def head(self) -> str:
        """The commit HEAD names.

        Raises:
            EmptyRepository: there is none yet.
        """
        status, output = self.git.result("rev-parse", "--verify", "-q", "HEAD^{commit}", ok=(0, 1, 128))
        if status != 0:
            raise EmptyRepository(self.folder)
        return output.decode().strip()

    def facts(self) -> RepositoryFacts:
        """What a run should say about the place it starts from."""
        branch = self.git.result("symbolic-ref", "--short", "-q", "HEAD", ok=(0, 1))[1]
        commit = self.head()
        changed = self.changed()
        return RepositoryFacts(
            folder=str(self.folder),
            commit=commit,
            branch=branch.decode("utf-8", "replace").strip(),
            bare=self.bare,
            dirty=bool(changed),
            changed=tuple(changed[:1000]),
            submodules=tuple(_readable(entry.path) for entry in self._entries(commit) if entry.mode == GITLINK),
        )

    def changed(self, *, untracked: bool = True) -> list[str]:
        """Paths where the working tree or the index differs from HEAD, in a readable form."""
        return [_readable(path) for path in self.changed_paths(untracked=untracked)]

    def changed_paths(self, *, untracked: bool = True, hidden: bool = False) -> list[bytes]:
        """The same paths as they are; with ``hidden`` also of files that git was told not to look at."""
        if self.bare:
            return []
        kind = "normal" if untracked else "no"
        command = ("status", "--porcelain=v1", "-z", f"--untracked-files={kind}", "--ignore-submodules=all")
        with self._index(everywhere=hidden) as index:
            output = self.git.run(*command, "--no-renames", environment=self._without_filters() | index)
        return [record[3:] for record in output.split(b"\0")[:-1]]

    @contextmanager
    def _index(self, *, everywhere: bool) -> Iterator[dict[str, str]]:
        """Variables for the index, or for a copy in which no file is assumed unchanged or skipped."""
        tagged = self.git.run("ls-files", "-v", "-z").split(b"\0")[:-1] if everywhere else []
        names = [record[2:] for record in tagged if record[:1].islower() or record[:1] == b"S"]
        if not names:
            yield {}
            return
        where = os.fsdecode(self.git.run("rev-parse", "--git-path", "index").rstrip(b"\n"))
        with tempfile.TemporaryDirectory(prefix="enchanted-") as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            shutil.copyfile(self.folder / where, index["GIT_INDEX_FILE"])
            wanted = b"".join(name + b"\0" for name in names)
            for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
                self.git.run("update-index", flag, "-z", "--stdin", stdin=wanted, environment=index)
            yield index

    def tracked(self) -> list[bytes]:
        """Paths that the index holds, submodules included."""
        return self.git.run("ls-files", "-z").split(b"\0")[:-1]

    def entries(self, commit: str) -> list[Entry]:
        """The files of a commit, submodules left out; their list stays, as a file that no agent may touch.

        Raises:
            UnsafePath: the tree holds a path that git itself would not check out.
        """
        entries = [entry for entry in self._entries(commit) if entry.mode != GITLINK]
        for entry in entries:
            parts = [part for part in entry.path.split(b"/") if not (part == GITMODULES and entry.mode != LINK)]
            if any(forbidden_name(part) for part in parts):
                raise UnsafePath(entry.path, "a path of git's own inside the repository's tree")
        return entries

    def write_branch(
        self,
        branch: str,
        changes: Sequence[Change],
        *,
        source: Git,
        base: str,
        message: str,
        author: str,
        dry_run: bool = False,
    ) -> str:
        """Put ``base`` plus ``changes`` (blobs of ``source``) on a new branch as one commit; gives the commit.

        Writing the same content again changes nothing. A dry run writes nothing, raises the same, and gives the commit
        only if it is there.

        Raises:
            BadBranchName: git does not take the name.
            BranchExists: the branch is there with other content.
            BranchRefused: git cannot make it.
            BaseMissing: the repository has no such commit.
        """
        self._require_commit(base)
        reference = self._reference(branch)
        status, existing = self.git.result("rev-parse", "--verify", "-q", reference, ok=(0, 1))
        if status:
            require_new(self.git, self.folder, branch)
            if dry_run:
                return ""
        with self._scratch_objects() if dry_run else nullcontext():
            tree = self._write_tree(changes, source=source, base=base)
        if status == 0:
            return self._require_same(branch, existing, tree, base)
        commit = self._commit(tree, base, message, author)
        try:
            self.git.run("update-ref", reference, commit, "0" * len(base))
        except GitFailed as error:
            status, existing = self.git.result("rev-parse", "--verify", "-q", reference, ok=(0, 1))
            if status:
                raise BranchRefused(branch, error.why) from error
            return self._require_same(branch, existing, tree, base)  # made meanwhile
        return commit

    def _require_same(self, branch: str, existing: bytes, tree: str, base: str) -> str:
        commit = existing.decode().strip()
        if self.git.run("log", "-1", "--format=%T %P", commit).decode().strip() != f"{tree} {base}":
            raise BranchExists(branch)
        return commit

    def extend_branch(
        self,
        branch: str,
        held: Iterable[Sequence[Change]],
        changes: Sequence[Change],
        *,
        source: Git,
        base: str,
        message: str,
        author: str,
    ) -> str:
        """Add a commit, of ``base`` plus ``changes``, to a branch that holds ``base`` plus one of ``held``.

        Nothing is added to a branch that holds it already.

        Raises:
            CannotApply: the branch is not there, holds something else, or is checked out.
            BaseMissing: the repository has no such commit.
        """
        self._require_commit(base)
        reference = f"refs/heads/{branch}"
        status, tip = self.git.result("rev-parse", "--verify", "-q", reference, ok=(0, 1))
        if status:
            raise CannotApply(f"{self.folder} has no branch {branch}", branch)
        parent = tip.decode().strip()
        now = self.git.run("rev-parse", f"{parent}^{{tree}}").decode().strip()
        new = self._write_tree(changes, source=source, base=base)
        if now == new:
            return parent
        if self.git.run("worktree", "list", "--porcelain").decode(errors="replace").find(f"branch {reference}\n") >= 0:
            raise CannotApply("the branch is checked out", branch)
        if not any(self._write_tree(one, source=source, base=base) == now for one in held):
            raise CannotApply("the branch holds other work", branch)
        commit = self._commit(new, parent, message, author)
        self.git.run("update-ref", reference, commit, parent)
        return commit

    def _commit(self, tree: str, parent: str, message: str, author: str) -> str:
        name, _, mail = author.partition("<")
        person = {"NAME": name.strip(), "EMAIL": mail.strip("> ")}
        names = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in person.items()}
        made = self.git.run("commit-tree", tree, "-p", parent, stdin=message.encode(), environment=names)
        return made.decode().strip()

    def _reference(self, branch: str) -> str:
        status, output = self.git.result("check-ref-format", "--branch", branch, ok=(0, 1, 128))
        # What stands for another name (`@{-1}`) is none.
        if status or output.decode(errors="replace") != f"{branch}\n":
            raise BadBranchName(branch)
        return f"refs/heads/{branch}"

    @contextmanager
    def _scratch_objects(self) -> Iterator[None]:
        """What is written meanwhile goes with the block."""
        kept = self.git
        known = self.folder / os.fsdecode(kept.run("rev-parse", "--git-path", "objects").rstrip(b"\n"))
        with disk_as_git("hash-object"), tempfile.TemporaryDirectory(prefix="enchanted-") as scratch:
            objects = {"GIT_OBJECT_DIRECTORY": scratch, "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(known)}
            self.git = Git(cwd=self.folder, settings=_NEUTRAL, environment=objects)
            try:
                yield
            finally:
                self.git = kept

    def _require_commit(self, commit: str) -> None:
        if not commit or self.git.result("cat-file", "-e", f"{commit}^{{commit}}", ok=(0, 1, 128))[0]:
            raise BaseMissing(self.folder, commit)

    @disk_as_git("write-tree")
    def _write_tree(self, changes: Sequence[Change], *, source: Git, base: str) -> str:
        wanted = list(dict.fromkeys(change.new_blob for change in changes if change.new_blob))
        with tempfile.TemporaryDirectory(prefix="enchanted-") as scratch:
            marks, ids = Path(scratch) / "marks", dict[str, str]()
            if wanted:
                with FastImport(self.git, marks=marks) as stream:
                    numbers = stream.blobs(source, wanted)
                written = read_marks(marks)
                ids = {blob: written[number] for blob, number in numbers.items()}
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.git.run("read-tree", base, environment=index)
            lines = b"".join(_index_line(change, ids, width=len(base)) for change in _removals_first(changes))
            self.git.run("update-index", "-z", "--index-info", stdin=lines, environment=index)
            return self.git.run("write-tree", environment=index).decode().strip()

    def fast_forward(self, branch: str) -> None:
        """Move the current branch and the working tree to ``branch``.

        Raises:
            CannotApply: bare, uncommitted changes, or HEAD is no longer where the branch began.
        """
        if self.bare:
            raise CannotApply(f"{self.folder} has no working tree", branch)
        if self.changed(untracked=False):
            raise CannotApply("the working tree has uncommitted changes", branch)
        base = self.git.run("rev-parse", "--verify", f"refs/heads/{branch}^").decode().strip()
        if self.head() not in (base, self.git.run("rev-parse", f"refs/heads/{branch}").decode().strip()):
            raise CannotApply("HEAD has moved since the run began", branch)
        # Here the user's own settings count: filters such as git-lfs must run as in any merge of theirs.
        own = {name: os.environ[name] for name in ("HOME", "XDG_CONFIG_HOME") if name in os.environ}
        git = Git(
            cwd=self.folder, environment={**own, "GIT_CONFIG_NOSYSTEM": "0", "GIT_CONFIG_GLOBAL": _global_config()}
        )
        try:
            git.run("merge", "--ff-only", "-q", f"refs/heads/{branch}")
        except GitFailed as error:
            raise CannotApply(error.why, branch) from error

    def _entries(self, commit: str) -> list[Entry]:
        entries = []
        for record in self.git.run("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
            head, path = record.split(b"\t", 1)
            mode, _, blob = head.decode().split(" ")
            entries.append(Entry(path=path, mode=_plain_mode(mode), blob=blob))
        return entries

    def _without_filters(self) -> dict[str, str]:
        """Variables that empty the filter commands a repository's own configuration names."""
        names = self.git.result("config", "--name-only", "-z", "--get-regexp", r"^filter\.", ok=(0, 1))[1].split(b"\0")
        found = sorted({os.fsdecode(name) for name in names if name})
        pairs = [(name, "false" if name.endswith(".required") else "") for name in found]
        variables = {"GIT_CONFIG_COUNT": str(len(pairs))}
        for number, (name, value) in enumerate(pairs):
            variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return variables


def _quoted(path: Path) -> str:
    """One folder in a list of them, where a colon would end it."""
    return os.fsdecode(quote_path(os.fsencode(path)))


def _global_config() -> str:
    return os.environ.get("GIT_CONFIG_GLOBAL") or str(Path("~/.gitconfig").expanduser())


def _plain_mode(mode: str) -> str:
    """Old repositories hold modes such as 100664."""
    if not mode.startswith("100"):
        return mode
    return "100755" if int(mode, 8) & 0o100 else "100644"


def _removals_first(changes: Sequence[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: bool(change.new_blob))


def _index_line(change: Change, ids: dict[str, str], *, width: int) -> bytes:
    mode, blob = (change.new_mode, ids[change.new_blob]) if change.new_blob else ("0", "0" * width)
    return f"{mode} {blob}\t".encode() + change.path + b"\0"


def _readable(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
