"""Put the files of a tree into a folder: previewed first, what is replaced kept, finished later where it was cut off.

Everything about it lies in `.enchanted-restore` in that folder. An operation is prepared there whole (`new` holds what
comes, `old` is a second name of what goes) before `plan.json` makes it count; from then on each file is exchanged at
once, by a rename, and a new call goes on where an earlier one was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enchanted.actors.errors import (
    NotARepository,
    TargetBlocked,
    TargetBusy,
    TargetChanged,
    TargetUnfinished,
    UnsafePath,
)
from enchanted.actors.repository.folder_files import FileEntry, delete, entries_of, entry_at, keep, others, replace
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.tree_store import TreeStore
from enchanted.actors.repository.user_repository import UserRepository
from enchanted.actors.tools.confined_files import forbidden_name

MARK = ".enchanted-restore"
LISTED = 100
"""Kept paths that a preview names."""
Watch = Callable[[str, str], None]
"""Told of each step (what, path) before it is taken."""
Files = dict[str, FileEntry]
"""Path as the file system gives it -> mode and blob."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a restore would do to a folder."""

    write: tuple[str, ...]
    delete: tuple[str, ...]
    same: int
    """Files that are there already as they should be."""
    kept: int
    """Other files, which stay."""
    keep: tuple[str, ...]
    """The first of them."""
    dirty: tuple[str, ...]
    """Of what would be written or deleted: files that neither git nor an earlier restore knows as they are now."""
    blocked: tuple[str, ...]
    """Folders with files to keep, or links, where a file or folder must be; they have to be moved by hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What a restore did."""

    preview: Preview
    snapshot: str
    """Folder with the files as they were; empty when nothing had to change."""
    resumed: bool
    """An earlier call had been cut off, and this one finished it."""


class Target:
    """A folder that files are put into."""

    def __init__(self, folder: Path, *, watch: Watch = lambda what, path: None) -> None:
        # Once: a folder that is a link is its target from here on.
        self.folder = Path(os.path.realpath(folder))
        self._mark = self.folder / MARK
        self._watch = watch

    def preview(self, store: TreeStore, tree: str) -> Preview:
        """What `restore` would do; nothing is written.

        Raises:
            UnsafePath: the tree has a path that must not be written.
        """
        return self._compared(_files_of(store, tree), self._owned())

    def restore(self, store: TreeStore, tree: str, *, label: str, operation: str, force: bool = False) -> Restored:
        """Make the folder's files those of ``tree``; files that nobody put there stay.

        ``label`` says in words what is restored, ``operation`` is an id nothing else has.

        Raises:
            TargetChanged: files would be lost that only this folder has; ``force`` overwrites them, after the snapshot.
            TargetBlocked: something is in the way that is neither.
            TargetUnfinished: another restore was cut off here.
            TargetBusy: another one is at work.
            UnsafePath: the tree has a path that must not be written.
        """
        wanted = _files_of(store, tree)
        with self._alone():
            resumed = self._finish(label, force=force)
            preview = self._compared(wanted, self._owned())
            self._require(preview, force)
            if not preview.write and not preview.delete:
                self._save_state(wanted)
                return Restored(preview=preview, snapshot=self._last() if resumed else "", resumed=resumed)
            place = self._begin(operation)
            self._checked_out(store, tree, preview.write, place / "new")
            self._commit(place, label, preview, wanted)
            self._finish(label, force=force)
        return Restored(preview=preview, snapshot=str(place), resumed=resumed)

    def put_back(self, *, operation: str, force: bool = False) -> Restored:
        """Undo the last restore of this folder, or the last `put_back`.

        Raises:
            TargetBlocked: nothing was restored here.
            TargetChanged, TargetUnfinished, TargetBusy: as in `restore`.
        """
        if not self._mark.is_dir():
            raise TargetBlocked(self.folder, ("nothing was ever restored here",))
        with self._alone():
            resumed = self._finish(None, force=force)
            if resumed and _read(Path(self._last()) / "plan.json").get("back"):
                return Restored(preview=self._compared({}, set()), snapshot=self._last(), resumed=True)
            if not (last := self._last()):
                raise TargetBlocked(self.folder, ("nothing was ever restored here",))
            plan, saved = _read(Path(last) / "plan.json"), Path(last) / "old"
            touched = {*plan["write"], *plan["delete"]}
            wanted = {path: entry for path in touched if (entry := entry_at(saved, path))}
            preview = self._compared(wanted, touched)
            self._require(preview, force)
            place = self._begin(operation)
            for path in preview.write:
                keep(saved, path, place / "new", copy=True)
            self._commit(place, f"back to before {plan['label']}", preview, _files(plan["files_before"]), back=True)
            self._finish(None, force=force)
        return Restored(preview=preview, snapshot=str(place), resumed=resumed)

    def unfinished(self) -> str:
        """What was cut off here, in words; empty when nothing was."""
        pending = self._pending()
        return str(pending[1]["label"]) if pending else ""

    def _owned(self) -> set[str]:
        """Files that may be deleted: git, or an earlier restore, put them there."""
        return {*_git_view(self.folder)[0], *self._state().get("files", {})}

    def _compared(self, wanted: Files, owned: set[str]) -> Preview:
        found = {path: entry_at(self.folder, path) for path in sorted({*wanted, *owned})}
        write = [path for path, entry in found.items() if path in wanted and entry != wanted[path]]
        gone = [path for path, entry in found.items() if path not in wanted and entry]
        names = list(others(self.folder, {*wanted, *gone}, skip=(MARK, ".git")))
        return Preview(
            write=tuple(write),
            delete=tuple(gone),
            same=len(wanted) - len(write),
            kept=len(names),
            keep=tuple(names[:LISTED]),
            dirty=tuple(self._unknown({path: found[path] for path in (*write, *gone)})),
            blocked=tuple(_blocked(self.folder, write, {*gone, *wanted})),
        )

    def _unknown(self, found: Mapping[str, FileEntry | None]) -> list[str]:
        """Of these files the ones that only this folder has."""
        tracked, changed = _git_view(self.folder)
        state = self._state()
        known = _files(state.get("files", {})) | _files(state.get("after", {}))
        return [
            path
            for path, entry in found.items()
            if entry and known.get(path) != entry and not (path in tracked and path not in changed)
        ]

    def _require(self, preview: Preview, force: bool) -> None:
        if preview.blocked:
            raise TargetBlocked(self.folder, preview.blocked)
        if preview.dirty and not force:
            raise TargetChanged(self.folder, preview.dirty)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._mark.is_symlink():
            raise UnsafePath(MARK, "is a link")
        if any(path.startswith(MARK + "/") for path in _git_view(self.folder)[0]):
            raise TargetBlocked(self.folder, (f"{MARK} came with the repository and is not a restore's",))
        self._mark.mkdir(exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            os.close(os.open(self._mark / ".gitignore", os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            (self._mark / ".gitignore").write_text("*\n")
        file = os.open(self._mark / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TargetBusy(self.folder) from None
            yield

    def _begin(self, operation: str) -> Path:
        for place in self._mark.iterdir():
            if place.is_dir() and not (place / "plan.json").exists():
                shutil.rmtree(place)  # killed while it was prepared: nothing was touched
        place = self._mark / operation
        (place / "new").mkdir(parents=True)
        (place / "old").mkdir()
        return place

    def _checked_out(self, store: TreeStore, tree: str, paths: tuple[str, ...], into: Path) -> None:
        names = b"".join(os.fsencode(path) + b"\0" for path in paths)
        with store.scratch_index() as index:
            git = Git(cwd=into, git_dir=store.folder, work_tree=into, index=index)
            git.run("read-tree", tree)
            git.run("checkout-index", "-f", "-q", "-z", "--stdin", stdin=names)

    def _commit(self, place: Path, label: str, preview: Preview, files: Files, *, back: bool = False) -> None:
        """Keep what goes, then write the plan: from here on the operation counts."""
        for path in (*preview.write, *preview.delete):
            self._watch("keep", path)
            keep(self.folder, path, place / "old")
        plan = {
            "label": label,
            "back": back,
            "write": list(preview.write),
            "delete": list(preview.delete),
            "files": files,
            "after": {path: entry_at(place / "new", path) for path in preview.write},
            "files_before": self._state().get("files", {}),
        }
        self._watch("plan", str(place))
        _write(place / "plan.json", plan)

    def _finish(self, label: str | None, *, force: bool) -> bool:
        """Carry out what is planned and not done yet; whether there was such."""
        pending = self._pending()
        if pending is None:
            return False
        place, plan = pending
        if label is not None and plan["label"] != label:
            raise TargetUnfinished(self.folder, plan["label"])
        for path in plan["delete"]:
            self._watch("delete", path)
            self._require_as_planned(place, path, None, force=force)
            delete(self.folder, path)
        for path in plan["write"]:
            self._watch("write", path)
            self._require_as_planned(place, path, plan["after"][path], force=force)
            replace(place / "new", path, self.folder)
        self._watch("done", str(place))
        self._save_state(_files(plan["files"]), place.name, plan["after"])
        shutil.rmtree(place / "new", ignore_errors=True)
        return True

    def _require_as_planned(self, place: Path, path: str, after: list[str] | None, *, force: bool) -> None:
        """Somebody may have written since the plan was made: nothing has that but this file."""
        found = entry_at(self.folder, path)
        if found in (None, entry_at(place / "old", path)) or (after is not None and found == tuple(after)):
            return
        if not force:
            raise TargetChanged(self.folder, [path])
        (place / "late").mkdir(exist_ok=True)
        keep(self.folder, path, place / "late", copy=True)

    def _pending(self) -> tuple[Path, dict[str, Any]] | None:
        done = self._state().get("done", [])
        for place in sorted(self._mark.iterdir()) if self._mark.is_dir() else ():
            if place.name not in done and (place / "plan.json").exists():
                return place, _read(place / "plan.json")
        return None

    def _state(self) -> dict[str, Any]:
        path = self._mark / "state.json"
        return _read(path) if path.exists() else {}

    def _last(self) -> str:
        """Folder of the last finished operation."""
        operation = self._state().get("operation", "")
        return str(self._mark / operation) if operation else ""

    def _save_state(self, files: Files, operation: str = "", after: Mapping[str, Any] | None = None) -> None:
        before = self._state()
        state = {
            "files": files,
            "after": before.get("after", {}) if after is None else after,
            "operation": operation or before.get("operation", ""),
            "done": [*before.get("done", []), *([operation] if operation else [])],
        }
        _write(self._mark / "state.json", state)


def _files_of(store: TreeStore, tree: str) -> Files:
    files = entries_of(store, tree)
    for path in files:
        parts = path.split("/")
        if any(part in ("", ".", "..") or forbidden_name(os.fsencode(part)) for part in parts) or parts[0] == MARK:
            raise UnsafePath(os.fsencode(path), "the tree has a path that is not written anywhere")
    return files


def _git_view(folder: Path) -> tuple[set[str], set[str]]:
    """What git tracks in the folder, and of that what differs from HEAD; nothing where there is no git."""
    try:
        user = UserRepository(folder)
    except NotARepository:
        return set(), set()
    if user.bare:
        return set(), set()
    inside = os.path.relpath(folder.resolve(), user.folder.resolve())
    prefix = "" if inside == "." else inside + "/"
    return tuple(  # type: ignore[return-value]
        {name.removeprefix(prefix) for name in map(os.fsdecode, names) if name.startswith(prefix)}
        for names in (user.tracked(), user.changed_paths(untracked=False))
    )


def _blocked(folder: Path, write: list[str], free: set[str]) -> Iterator[str]:
    """Folders where a file must be, and files or links where a folder must be, that nothing of ours takes away."""
    seen: set[str] = set()
    for path in write:
        above = _no_folder_above(folder, path)
        if above and above not in free and above not in seen:
            seen.add(above)
            yield above
        # What lies behind a link is not looked at.
        if not above and _holds_others(folder / path, path, free):
            yield path


def _no_folder_above(folder: Path, path: str) -> str:
    """The topmost file or link where a path needs a folder; empty when there is none."""
    for parent in reversed([str(one) for one in Path(path).parents][:-1]):
        above = folder / parent
        if above.is_symlink() or (above.exists() and not above.is_dir()):
            return parent
    return ""


def _holds_others(place: Path, path: str, free: set[str]) -> bool:
    if place.is_symlink() or not place.is_dir():
        return False
    return any(others(place, {name.removeprefix(path + "/") for name in free if name.startswith(path + "/")}))


def _files(saved: dict[str, Any]) -> Files:
    return {path: (mode, blob) for path, (mode, blob) in saved.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="ascii") as file:
            found: dict[str, Any] = json.load(file)
    except ValueError as error:
        raise TargetBlocked(path.parent, (f"{path.name} is damaged",)) from error
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    # ASCII: names that are not UTF-8 are lone surrogates here, which JSON can hold as escapes only.
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with partial.open("x", encoding="ascii") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
