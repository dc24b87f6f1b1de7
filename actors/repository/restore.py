"""Put the files of a tree into a folder: previewed first, what is replaced kept, finished later where it was cut off.

An operation is prepared whole (see `restore_journal`) before it counts; from then on each file is exchanged at once, by
a rename, and a new call goes on where an earlier one was killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from itertools import count
from pathlib import Path
from typing import Protocol

from enchanted.actors.errors import (
    NotARepository,
    TargetBlocked,
    TargetChanged,
    TargetStopped,
    TargetUnfinished,
    UnsafePath,
)
from enchanted.actors.repository.folder_files import (
    FileEntry,
    Identity,
    delete,
    entries_of,
    entry_at,
    flush_above,
    flush_folder,
    identity_at,
    is_free,
    keep,
    others,
    replace,
)
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.restore_journal import MARK, Files, Journal, Plan
from enchanted.actors.repository.target_place import require_place
from enchanted.actors.repository.tree_store import TreeStore
from enchanted.actors.repository.user_repository import UserRepository
from enchanted.actors.tools.confined_files import forbidden_name

LISTED = 100
"""Kept paths that a preview names."""
COUNTED = 1_000_000
"""Kept files that a preview counts, and folders that it looks into for them: it may be a whole disk."""


class Act(Protocol):
    """Exchanges or removes the file that ``was`` at its place, or raises TargetChanged."""

    def __call__(self, *, was: Identity | None) -> None: ...


Watch = Callable[[str, str], None]
"""Told of each step (what, path) before it is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a restore would do to a folder."""

    write: tuple[str, ...]
    delete: tuple[str, ...]
    same: int
    """Files that are there already as they should be."""
    kept: int
    """Other files, which stay; not counted are those of other file systems mounted in there, which stay too.

    At `COUNTED` files, or folders, the count ends: it is "at least" then.
    """
    keep: tuple[str, ...]
    """The first of those counted, the topmost before others."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """What leads back to before the last operation."""

    plan: Plan
    saved: Path
    """The files as they were."""
    preview: Preview


class Target:
    """A folder that files are put into."""

    def __init__(self, folder: Path, *, watch: Watch = lambda what, path: None) -> None:
        # Once: a folder that is a link is its target from here on.
        self.folder = Path(os.path.realpath(folder))
        self._journal = Journal(self.folder)
        self._watch = watch

    def preview(self, store: TreeStore, tree: str) -> Preview:
        """What `restore` would do; nothing is written.

        Raises:
            UnsafePath: the tree has a path that must not be written, or the records of restores are behind a link.
            TargetBlocked: those records came with the repository, or are damaged.
            TargetStopped: a folder there cannot be looked into, or the folder not be made or written.
            TargetReserved, TargetNoFolder: see `require_place`.
        """
        self._look()
        return self._compared(_files_of(store, tree), self._owned())

    def preview_back(self) -> Preview:
        """What `put_back` would do; nothing is written.

        Raises:
            TargetBlocked: nothing was restored here, or as in `preview`.
            UnsafePath, TargetStopped, TargetReserved, TargetNoFolder: as in `preview`.
        """
        self._look()
        return self._way_back().preview

    def restore(self, store: TreeStore, tree: str, *, label: str, operation: str, force: bool = False) -> Restored:
        """Make the folder's files those of ``tree``; files that nobody put there stay.

        ``label`` says in words what is restored, ``operation`` is an id nothing else has.

        Raises:
            TargetChanged: files would be lost that only this folder has; ``force`` overwrites them, after the snapshot.
            TargetBlocked: something is in the way that is neither.
            TargetUnfinished: another restore was cut off here.
            TargetStopped: the file system refused a step; the same call goes on from there.
            TargetBusy: another one is at work.
            UnsafePath: the tree has a path that must not be written.
            TargetTooLarge: it has more files than can be kept account of.
            TargetReserved, TargetNoFolder: see `require_place`.
        """
        wanted = _files_of(store, tree)
        require_place(self.folder)
        with self._journal.alone(_git_view(self.folder)[0]):
            resumed = self._finish(label, force=force)
            preview = self._compared(wanted, self._owned())
            self._require(preview, force)
            if not preview.write and not preview.delete:
                self._journal.keep_files(wanted)
                snapshot = str(self._journal.last() or "") if resumed else ""
                return Restored(preview=preview, snapshot=snapshot, resumed=resumed)
            place = self._journal.begin(operation)
            self._checked_out(store, tree, preview.write, place / "new")
            self._commit(place, label, preview, wanted)
            self._finish(label, force=force)
        return Restored(preview=preview, snapshot=str(place), resumed=resumed)

    def put_back(self, *, operation: str, force: bool = False) -> Restored:
        """Undo the last restore of this folder, or the last `put_back`.

        Raises:
            TargetBlocked: nothing was restored here.
            TargetChanged, TargetUnfinished, TargetStopped, TargetBusy, TargetReserved: as in `restore`.
        """
        require_place(self.folder)
        if not self._journal.mark.is_dir():
            raise TargetBlocked(self.folder, ("nothing was ever restored here",))
        with self._journal.alone(_git_view(self.folder)[0]):
            resumed = self._finish(None, force=force)
            last = self._journal.last()
            if resumed and last and self._journal.plan(last).back:
                return Restored(preview=self._compared({}, set()), snapshot=str(last), resumed=True)
            way = self._way_back()
            self._require(way.preview, force)
            place = self._journal.begin(operation)
            for path in way.preview.write:
                keep(way.saved, path, place / "new", copy=True)
            label = f"back to before {way.plan.label}"
            self._commit(place, label, way.preview, way.plan.files_before, back=True)
            self._finish(None, force=force)
        return Restored(preview=way.preview, snapshot=str(place), resumed=resumed)

    def unfinished(self) -> str:
        """What was cut off here, in words; empty when nothing was.

        Raises:
            TargetBlocked, UnsafePath: as in `preview`.
        """
        self._journal.require_own(_git_view(self.folder)[0])
        pending = self._journal.pending()
        return pending[1].label if pending else ""

    def _look(self) -> None:
        """What an act itself would refuse before it does anything."""
        require_place(self.folder)
        self._journal.require_own(_git_view(self.folder)[0])

    def _way_back(self) -> _Way:
        if (last := self._journal.last()) is None:
            raise TargetBlocked(self.folder, ("nothing was ever restored here",))
        plan, saved = self._journal.plan(last), last / "old"
        touched = {*plan.write, *plan.delete}
        wanted = {path: entry for path in touched if (entry := entry_at(saved, path))}
        return _Way(plan=plan, saved=saved, preview=self._compared(wanted, touched))

    def _owned(self) -> set[str]:
        """Files that may be deleted: git, or an earlier restore, put them there."""
        return {*_git_view(self.folder)[0], *self._journal.done().files}

    def _compared(self, wanted: Files, owned: set[str]) -> Preview:
        found = dict(self._entries(sorted({*wanted, *owned})))
        write = [path for path, entry in found.items() if path in wanted and entry != wanted[path]]
        gone = [path for path, entry in found.items() if path not in wanted and entry]
        kept, first = _counted(others(self.folder, {*wanted, *gone}, skip=(MARK, ".git"), bound=COUNTED))
        return Preview(
            write=tuple(write),
            delete=tuple(gone),
            same=len(wanted) - len(write),
            kept=kept,
            keep=tuple(first),
            dirty=tuple(self._unknown({path: found[path] for path in (*write, *gone)})),
            blocked=tuple(_blocked(self.folder, write, {*gone, *wanted})),
        )

    def _entries(self, paths: Iterable[str]) -> Iterator[tuple[str, FileEntry | None]]:
        for path in paths:
            with self._step(path):
                entry = entry_at(self.folder, path)
            yield path, entry

    def _unknown(self, found: Mapping[str, FileEntry | None]) -> list[str]:
        """Of these files the ones that only this folder has."""
        tracked, changed = _git_view(self.folder)
        done = self._journal.done()
        known = {**done.files, **done.after}
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
            with self._step(path):
                keep(self.folder, path, place / "old")
        after = {path: entry for path in preview.write if (entry := entry_at(place / "new", path))}
        plan = Plan(
            label=label,
            back=back,
            write=preview.write,
            delete=preview.delete,
            files=files,
            after=after,
            files_before=dict(self._journal.done().files),
            number=self._journal.next_number(),
        )
        self._watch("plan", str(place))
        self._journal.commit(place, plan)

    def _finish(self, label: str | None, *, force: bool) -> bool:
        """Carry out what is planned and not done yet; whether there was such."""
        pending = self._journal.pending()
        if pending is None:
            return False
        place, plan = pending
        if label is not None and plan.label != label:
            raise TargetUnfinished(self.folder, plan.label)
        for path in plan.delete:
            self._watch("delete", path)
            with self._step(path, place):
                self._exchange(place, path, None, partial(delete, self.folder, path), force=force)
        for path in plan.write:
            self._watch("write", path)
            with self._step(path, place):
                put = partial(replace, place / "new", path, self.folder)
                self._exchange(place, path, plan.after.get(path), put, force=force)
        flush_above(self.folder, (*plan.delete, *plan.write))
        self._watch("done", str(place))
        self._journal.finish(place, plan)
        return True

    def _exchange(self, place: Path, path: str, after: FileEntry | None, act: Act, *, force: bool) -> None:
        was = self._as_planned(place, path, after, force=force)
        try:
            act(was=was)
        except TargetChanged:
            if not force:
                raise
            # A log is written all the time: what came since its last copy goes, as was said.
            self._as_planned(place, path, after, force=True)
            act(was=identity_at(self.folder, path))

    def _as_planned(self, place: Path, path: str, after: FileEntry | None, *, force: bool) -> Identity | None:
        """What may be exchanged: somebody may have written since the plan was made, and nothing has that but this file.

        It may be saved while it is read here or copied, which takes seconds, so its identity is from before: only what
        still has that when it is exchanged is what was looked at.
        """
        was = identity_at(self.folder, path)
        found = entry_at(self.folder, path)
        if found not in (None, after, entry_at(place / "old", path)):
            if not force:
                raise TargetChanged(self.folder, [path])
            self._keep_late(place, path, found)
        return was

    def _keep_late(self, place: Path, path: str, found: FileEntry | None) -> None:
        """Copy what was written since the plan was made, never over an earlier copy: that is the only one of its kind.

        A copy that is there already does, unless it is half of one that was cut off, which has other content.
        """
        for number in count(1):
            name = "late" if number == 1 else f"late-{number}"
            free = is_free(place, f"{name}/{path}")
            if free:
                (place / name).mkdir(exist_ok=True)
                keep(self.folder, path, place / name, copy=True)
            if free or entry_at(place, f"{name}/{path}") == found:
                # What is exchanged next has no other copy: the names of this one survive a power cut too.
                flush_above(place / name, [path])
                flush_folder(place)
                return

    @contextmanager
    def _step(self, path: str, place: Path | None = None) -> Iterator[None]:
        """One look at a file, or with ``place`` one exchange of a file: the file system may refuse it."""
        try:
            yield
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise TargetStopped(self.folder, path, why, snapshot=str(place / "old") if place else "") from error


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
    tracked, changed = (
        {name.removeprefix(prefix) for name in map(os.fsdecode, names) if name.startswith(prefix)}
        for names in (user.tracked(), user.changed_paths(untracked=False, hidden=True))
    )
    return tracked, changed


def _counted(names: Iterator[str]) -> tuple[int, list[str]]:
    """How many there are, and the first of them; no more are held."""
    numbers = count()
    # The names come first: when there are no more, no number is taken.
    numbered = zip(names, numbers, strict=False)
    first = nsmallest(LISTED, (name for name, _ in numbered), key=lambda name: (name.count("/"), name))
    return next(numbers), first


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
