"""Trees, the differences between them, and their content, in a bare SHA-256 repository."""

from __future__ import annotations

import base64
import os
import re
import string
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enchanted.actors.errors import GitFailed, GitTooOld, MissingContent, disk_as_git
from enchanted.actors.repository.git import Git, quote_path, require_git
from enchanted.actors.repository.refusals import is_of_bundle
from enchanted.actors.repository.staged import Staged
from enchanted.actors.repository.tree_writer import TreeWriter
from enchanted.schemas.events import FileChange

EMPTY_TREE = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
ABSENT = "000000"
GITLINK = "160000"

# In-tree .gitattributes must not change bytes on the way in or out, nor pick a merge driver.
_ATTRIBUTES = "* -text -eol -ident -filter -working-tree-encoding -crlf !merge\n"
JUNK = ("__pycache__/", "*.pyc", ".ruff_cache/", ".pytest_cache/", ".mypy_cache/")
"""Left behind by tools; never state, whatever the repository's own .gitignore says."""

_CONFIG = {
    "core.autocrlf": "false",
    "core.symlinks": "true",
    "core.fileMode": "true",
    "core.quotePath": "true",
    "core.precomposeUnicode": "false",
    "index.version": "4",
    "core.compression": "1",
    "pack.compression": "1",
    "fastimport.unpackLimit": "1",
    "core.untrackedCache": "false",
    "merge.directoryRenames": "false",
    "receive.denyCurrentBranch": "refuse",
}
_AUTHOR = {
    "GIT_AUTHOR_NAME": "Enchanted",
    "GIT_AUTHOR_EMAIL": "enchanted@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00+0000",
    "GIT_COMMITTER_NAME": "Enchanted",
    "GIT_COMMITTER_EMAIL": "enchanted@localhost",
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00+0000",
}
_ALTERNATES = "GIT_ALTERNATE_OBJECT_DIRECTORIES"
_SECTION = re.compile(rb"^(?=diff --git )", re.MULTILINE)
_LENGTHS = string.ascii_uppercase + string.ascii_lowercase


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """The difference between two trees."""

    text: str
    """Unified diff with binary hunks where needed; `git apply` takes it in both directions."""
    files: tuple[FileChange, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One path that differs between two trees, as git lists it."""

    path: bytes
    old_mode: str
    new_mode: str
    old_blob: str
    new_blob: str


class TreeStore:
    """The bare repository in ``folder``; every method blocks for the length of a git command or two."""

    def __init__(self, folder: Path, *, beside: Path | None = None) -> None:
        """``beside``: another such repository, whose objects can be read here too."""
        self.folder = folder
        more = {} if beside is None else {_ALTERNATES: quote_path(os.fsencode(beside / "objects")).decode()}
        self.git = Git(cwd=folder, git_dir=folder, environment=more)
        self.writer = TreeWriter(folder, self.git)

    @classmethod
    @disk_as_git("init")
    def create(cls, folder: Path) -> TreeStore:
        """Make the repository, or open it where it exists.

        Raises:
            GitTooOld: git is missing, older than 2.38, or built without SHA-256.
            GitFailed: the disk has no room for it.
        """
        require_git()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = cls(folder)
        if not (folder / "HEAD").exists():
            try:
                store.git.run("init", "-q", "--bare", "--object-format=sha256", "--template=", "-b", "unborn")
            except GitFailed as error:
                raise GitTooOld("one that cannot make a SHA-256 repository") from error
            for name, value in _CONFIG.items():
                store.git.run("config", name, value)
        for name, text in (("attributes", _ATTRIBUTES), ("exclude", "\n".join(JUNK) + "\n")):
            (folder / "info").mkdir(exist_ok=True)
            (folder / "info" / name).write_text(text)
        (folder / "indexes").mkdir(exist_ok=True)
        store.git.run("hash-object", "-w", "-t", "tree", "/dev/null")
        return store

    def files(self, tree: str) -> list[FileChange]:
        """Every file of a tree, as additions."""
        output = self.git.run("ls-tree", "-r", "-l", "-z", "--full-tree", self._tree(tree))
        files = []
        for record in output.split(b"\0")[:-1]:
            head, path = record.split(b"\t", 1)
            mode, _, blob, size = head.split()
            change = Change(path=path, old_mode="", new_mode=mode.decode(), old_blob="", new_blob=blob.decode())
            files.append(_file_change(change, int(size)))
        return files

    def changes(self, old: str, new: str) -> list[Change]:
        """The paths that differ."""
        return _parse_raw(self._diff_tree(old, new, "--raw"))[0]

    def diff(self, old: str, new: str) -> Patch:
        """The difference between two trees; an empty tree id stands for no files at all."""
        arguments = (
            "--raw",
            "-p",
            "--binary",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--diff-algorithm=myers",
        )
        changes, text = _parse_raw(self._diff_tree(old, new, *arguments))
        sizes = self.sizes([change.new_blob for change in changes if change.new_blob])
        files = tuple(_file_change(change, sizes.get(change.new_blob, 0)) for change in changes)
        return Patch(text=self._as_text(text), files=files)

    def sections(self, old: str, new: str, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """The difference of each of these paths between two trees, to be read: a binary file is only said to differ."""
        if not paths:
            return {}
        arguments = ("--raw", "-p", "--no-ext-diff", "--no-textconv", "--no-color", "--diff-algorithm=myers")
        changes, text = _parse_raw(self._diff_tree(old, new, *arguments, paths=paths))
        found: dict[bytes, bytes] = {}
        # A file that became a link or back again has two sections, one after the other, with the same first line.
        for section in _SECTION.split(text):
            head = section.partition(b"\n")[0]
            found[head] = found.get(head, b"") + section
        found.pop(b"", None)
        return dict(zip((change.path for change in changes), found.values(), strict=True))

    def has(self, trees: Sequence[str]) -> set[str]:
        """Which of these trees are there; git writes a tree after everything that is in it."""
        names = "\n".join(tree for tree in trees if tree) + "\n"
        output = self.git.run("cat-file", "--batch-check=%(objecttype) %(objectname)", "--buffer", stdin=names.encode())
        return {line.split()[1] for line in output.decode().splitlines() if line.startswith("tree ")}

    def apply(self, tree: str, patch: str, *, reverse: bool = False) -> str:
        """The tree that ``patch`` makes of ``tree``, or backwards; several patches one after the other will do.

        Raises:
            BadPatch: it does not apply exactly.
        """
        if not patch.strip():
            return tree
        with self.scratch_index() as index:
            return Staged(self.folder, index).apply(self._tree(tree), patch, reverse=reverse)

    def content(self, tree: str, path: str | bytes) -> bytes:
        """The bytes of one file; of a symbolic link, its target.

        Raises:
            MissingContent: the tree has no file there.
        """
        raw = os.fsencode(path)
        # `tree:path` would read a leading ./ or a colon in its own way; ls-tree takes the name as it is.
        for record in self.git.run("ls-tree", "-z", "--full-tree", self._tree(tree), "--", raw).split(b"\0"):
            head, _, name = record.partition(b"\t")
            if name == raw and head.split()[1] == b"blob":
                return self.git.run("cat-file", "blob", head.split()[2])
        raise MissingContent(f"file {raw.decode('utf-8', 'backslashreplace')} in tree {tree[:12]}")

    def commit(self, tree: str, parents: Sequence[str] = ()) -> str:
        """A commit of a tree that is the same wherever it is made."""
        arguments = [part for parent in parents for part in ("-p", parent)]
        message = b"enchanted\n"
        return (
            self.git.run("commit-tree", self._tree(tree), *arguments, stdin=message, environment=_AUTHOR)
            .decode()
            .strip()
        )

    def bundle(self, tree: str, into: Path) -> None:
        """Write a self-contained bundle of a tree to a file."""
        reference = f"refs/enchanted/tree-{self._tree(tree)}"
        self.git.run("update-ref", reference, self.commit(tree))
        settings = ("-c", "pack.threads=1", "-c", "pack.window=0")
        self.git.run(*settings, "bundle", "create", "-q", str(into), reference)

    def pack(self) -> None:
        """Put the objects into packs, each of twice as many as the one before it, so that they are few files."""
        self.git.run("repack", "-d", "-n", "-q", "--geometric=2", "--window=0")

    def unbundle(self, bundle: Path) -> str:
        """Take a bundle in; gives its tree.

        Raises:
            MissingContent: the file is no bundle of ours, or damaged.
            GitFailed: git could not take it in.
        """
        try:
            heads = self.git.run("bundle", "unbundle", str(bundle)).split()
            commit, reference = heads[0].decode(), heads[1].decode()
            tree = self.git.run("rev-parse", "--verify", f"{commit}^{{tree}}").decode().strip()
        except (GitFailed, IndexError) as error:
            if isinstance(error, GitFailed) and not is_of_bundle(error.why):
                raise
            raise MissingContent("usable bundle in this content") from error
        self.git.run("update-ref", reference, commit)
        return tree

    @contextmanager
    def scratch_index(self) -> Iterator[Path]:
        """An index file that is gone afterwards."""
        with disk_as_git("read-tree"), tempfile.TemporaryDirectory(dir=self.folder, prefix="scratch-") as folder:
            yield Path(folder) / "index"

    def _tree(self, tree: str) -> str:
        if tree and not re.fullmatch("[0-9a-f]{64}", tree):
            raise MissingContent(f"tree {tree!r}")
        return tree or EMPTY_TREE

    def _diff_tree(self, old: str, new: str, *arguments: str, paths: Sequence[bytes] = ()) -> bytes:
        command = ("diff-tree", "-r", "-z", "--no-renames", "--full-index", "--no-abbrev")
        return self.git.run(*command, *arguments, self._tree(old), self._tree(new), "--", *paths)

    def sizes(self, blobs: Sequence[str]) -> dict[str, int]:
        """Bytes of each blob that is there."""
        known = {blob: self.writer.size(blob) for blob in blobs}
        wanted = [blob for blob, size in known.items() if size is None]
        if wanted:
            output = self.git.run("cat-file", "--batch-check", "--buffer", stdin="\n".join(wanted).encode() + b"\n")
            rows = (line.split() for line in output.splitlines())
            known |= {row[0].decode(): int(row[2]) for row in rows if len(row) == 3}
        return {blob: size or 0 for blob, size in known.items()}

    def _as_text(self, patch: bytes) -> str:
        """The patch with a binary hunk for every file whose text hunks are not UTF-8."""
        sections = []
        for section in map(_quoted, _SECTION.split(patch)):
            try:
                sections.append(section.decode())
            except UnicodeDecodeError:
                head = section[: section.index(b"\n--- ") + 1].decode()
                old, new = re.findall(r"^index (\w+)\.\.(\w+)", head, re.MULTILINE)[0]
                sections.append(f"{head}GIT binary patch\n{self._literal(new)}{self._literal(old)}")
        return "".join(sections)

    def _literal(self, blob: str) -> str:
        """A whole file as `git apply` reads it: deflated, in base 85, each line led by its length."""
        content = self.git.run("cat-file", "blob", blob) if blob.strip("0") else b""
        data, lines = zlib.compress(content), [f"literal {len(content)}"]
        for place in range(0, len(data), 52):
            chunk = data[place : place + 52]
            lines.append(_LENGTHS[len(chunk) - 1] + base64.b85encode(chunk, pad=True).decode())
        return "\n".join(lines) + "\n\n"


def _quoted(section: bytes) -> bytes:
    """A section whose names are in quotes where they have spaces: `git apply` cannot tell them apart otherwise."""
    head, newline, rest = section.partition(b"\n")
    names = head.removeprefix(b"diff --git ")
    half = len(names) // 2
    old, new = names[:half], names[half + 1 :]
    if not old.startswith(b"a/") or old[2:] != new[2:] or b" " not in old:
        return section
    return b'diff --git "%s" "%s"%s%s' % (old, new, newline, rest)


def _parse_raw(output: bytes) -> tuple[list[Change], bytes]:
    changes, place = [], 0
    while output[place : place + 1] == b":":
        middle = output.index(b"\0", place)
        end = output.index(b"\0", middle + 1)
        old_mode, new_mode, old, new, _ = output[place + 1 : middle].decode().split(" ")
        changes.append(
            Change(
                path=output[middle + 1 : end],
                old_mode="" if old_mode == ABSENT else old_mode,
                new_mode="" if new_mode == ABSENT else new_mode,
                old_blob="" if old_mode == ABSENT else old,
                new_blob="" if new_mode == ABSENT else new,
            )
        )
        place = end + 1
    return changes, output[place:].removeprefix(b"\0")


def _file_change(change: Change, size: int) -> FileChange:
    try:
        path, path_hex = change.path.decode(), ""
    except UnicodeDecodeError:
        path, path_hex = change.path.decode("utf-8", "backslashreplace"), change.path.hex()
    return FileChange(
        path=path,
        path_hex=path_hex,
        old_mode=change.old_mode,
        new_mode=change.new_mode,
        old_blob=change.old_blob,
        new_blob=change.new_blob,
        size=size,
    )
