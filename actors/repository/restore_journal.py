"""What restores keep in the folder they work in: what is planned, what was done, and the files as they were.

All of it lies in `.enchanted-restore`, a folder for each operation: `plan.json`, `new` with what comes (gone once the
plan is carried out), `old` with what went. `state.json` says what they came to; lost, it is made of their plans.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from enchanted.actors.errors import TargetBlocked, TargetBusy, TargetStopped, TargetTooLarge, UnsafePath
from enchanted.actors.repository.folder_files import FileEntry, flush, flush_folder

MARK = ".enchanted-restore"
MAX_RECORD = 1 << 27
"""Bytes of a record; a plan names each file up to three times, with some 130 bytes."""
Files = dict[str, FileEntry]
"""Path as the file system gives it -> mode and blob."""
MOMENT = 1.0
"""Seconds that a lock is waited for: the git that a restore was starting when it was killed has it for a moment."""
_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An operation that counts, whether it is carried out or not."""

    label: str
    """What is restored, in words."""
    back: bool
    """It undoes another one."""
    write: tuple[str, ...]
    delete: tuple[str, ...]
    files: Files
    """Every file that is there afterwards because of restores."""
    after: Files
    """What is written."""
    files_before: Files
    number: int
    """Orders the operations of a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What the operations so far have come to."""

    files: Mapping[str, FileEntry]
    """Files that are there because of restores."""
    after: Mapping[str, FileEntry]
    """What the last operation wrote."""
    operation: str
    """The last one; empty when there was none."""
    done: tuple[str, ...]


class Journal:
    """The records of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = folder / MARK

    @contextmanager
    def alone(self, tracked: Iterable[str]) -> Iterator[None]:
        """Nobody else works in the folder meanwhile; ``tracked`` is what git has of it.

        Raises:
            TargetBusy: somebody does.
            TargetBlocked: the repository brought records of its own.
            TargetStopped: the folder cannot be made or written.
            UnsafePath: the records are behind a link.
        """
        self.require_own(tracked)
        try:
            file = self._opened()
        except OSError as error:
            raise TargetStopped(self.folder, MARK, (error.strerror or str(error)).lower()) from error
        with os.fdopen(file, "w") as lock:
            if not _locked(lock):
                raise TargetBusy(self.folder)
            yield

    def require_own(self, tracked: Iterable[str]) -> None:
        """The records are those of restores, as far as can be told.

        Raises:
            TargetBlocked, UnsafePath: as in `alone`.
        """
        if self.mark.is_symlink():
            raise UnsafePath(MARK, "is a link")
        if any(path.startswith(MARK + "/") for path in tracked):
            raise TargetBlocked(self.folder, (f"{MARK} came with the repository and is not a restore's",))

    def _opened(self) -> int:
        """The lock; the folder and its records are made where they are missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mark.mkdir(exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            os.close(os.open(self.mark / ".gitignore", os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            (self.mark / ".gitignore").write_text("*\n")
        return os.open(self.mark / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def begin(self, operation: str) -> Path:
        """A place to prepare an operation in, while none is pending; what was never planned is removed."""
        for place in self._places():
            # Killed while it was prepared, so nothing was touched, or when all was done. Git may be writing there yet.
            leftover = place / "new" if (place / "plan.json").exists() else place
            shutil.rmtree(leftover, ignore_errors=True)
        place = self.mark / operation
        (place / "new").mkdir(parents=True)
        (place / "old").mkdir()
        return place

    def commit(self, place: Path, plan: Plan) -> None:
        """From here on the operation counts: it survives a power cut with all it needs."""
        flush(place / "new")
        flush(place / "old", contents=False)
        _write(place / "plan.json", asdict(plan))
        flush_folder(self.mark)

    def finish(self, place: Path, plan: Plan) -> None:
        """The plan is carried out."""
        known = self.done()
        self._save(
            Done(files=plan.files, after=plan.after, operation=place.name, done=(*known.done, place.name)),
        )
        spent = place / "spent"
        (place / "new").rename(spent)
        shutil.rmtree(spent, ignore_errors=True)

    def keep_files(self, files: Files) -> None:
        """These are there because of restores, though nothing had to be done for it."""
        known = self.done()
        self._save(Done(files=files, after=known.after, operation=known.operation, done=known.done))

    def next_number(self) -> int:
        """For the plan of a new operation."""
        return len(self.done().done) + 1

    def pending(self) -> tuple[Path, Plan] | None:
        """What is planned and not carried out."""
        done = self.done().done
        for place in self._places():
            if place.name not in done and (place / "new").is_dir() and (place / "plan.json").exists():
                return place, self.plan(place)
        return None

    def plan(self, place: Path) -> Plan:
        """The plan of an operation.

        Raises:
            TargetBlocked: it does not read back.
        """
        return _read(place / "plan.json", _plan)

    def last(self) -> Path | None:
        """Where the last operation lies that was carried out."""
        operation = self.done().operation
        return self.mark / operation if operation else None

    def done(self) -> Done:
        """What the operations so far have come to.

        Raises:
            TargetBlocked: the record does not read back.
        """
        path = self.mark / "state.json"
        if not path.exists():
            return self._done_by_plans()
        return _read(path, _done)

    def _done_by_plans(self) -> Done:
        finished = [
            (place, self.plan(place))
            for place in self._places()
            if (place / "plan.json").exists() and not (place / "new").exists()
        ]
        finished.sort(key=lambda one: (one[1].number, one[0].name))
        if not finished:
            return Done(files={}, after={}, operation="", done=())
        place, plan = finished[-1]
        names = tuple(one.name for one, _ in finished)
        return Done(files=plan.files, after=plan.after, operation=place.name, done=names)

    def _places(self) -> list[Path]:
        if not self.mark.is_dir():
            return []
        return sorted(place for place in self.mark.iterdir() if place.is_dir() and not place.is_symlink())

    def _save(self, done: Done) -> None:
        _write(self.mark / "state.json", asdict(done))


def _locked(lock: IO[str]) -> bool:
    until = time.monotonic() + MOMENT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        else:
            return True


def _done(found: dict[str, object]) -> Done:
    return Done(
        files=_files(found.get("files", {})),
        after=_files(found.get("after", {})),
        operation=_name(found.get("operation", "")),
        done=tuple(_name(one) for one in _list(found.get("done", []))),
    )


def _plan(found: dict[str, object]) -> Plan:
    return Plan(
        label=_label(found["label"]),
        back=found.get("back") is True,
        write=tuple(_path(one) for one in _list(found["write"])),
        delete=tuple(_path(one) for one in _list(found["delete"])),
        files=_files(found["files"]),
        after=_files(found["after"]),
        files_before=_files(found["files_before"]),
        number=_number(found.get("number", 0)),
    )


def _files(saved: object) -> Files:
    if not isinstance(saved, dict):
        raise TypeError("no object of files")
    return {_path(path): _entry(entry) for path, entry in saved.items()}


def _entry(saved: object) -> FileEntry:
    mode, blob = _list(saved)
    return _text(mode), _text(blob)


def _list(saved: object) -> list[object]:
    if not isinstance(saved, list):
        raise TypeError("no list")
    return saved


def _text(saved: object) -> str:
    if not isinstance(saved, str):
        raise TypeError("no text")
    return saved


def _number(saved: object) -> int:
    if not isinstance(saved, int):
        raise TypeError("no number")
    return saved


def _label(saved: object) -> str:
    # It is shown: lone surrogates are for paths only.
    return _text(saved).encode().decode()


def _path(saved: object) -> str:
    if b"\0" in os.fsencode(_text(saved)):
        raise ValueError("no path")
    return _text(saved)


def _name(saved: object) -> str:
    """Of a folder beside the record, or none."""
    if (name := _path(saved)) in (".", "..") or "/" in name:
        raise ValueError("no name")
    return name


def _read(path: Path, shape: Callable[[dict[str, object]], _Record]) -> _Record:
    """A record, from a file that somebody else may have put there.

    Raises:
        TargetBlocked: it is no regular file, too large, or damaged.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("no regular file")
            content = file.read(MAX_RECORD + 1)
        if len(content) > MAX_RECORD:
            raise ValueError("too large")
        found = json.loads(content.decode("ascii"))
        if not isinstance(found, dict):
            raise TypeError("no object")
        return shape(found)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise TargetBlocked(path.parent, (f"{path.name} cannot be read ({why})",)) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TargetBlocked(path.parent, (f"{path.name} is damaged",)) from error


def _opener(path: str, flags: int) -> int:
    # A pipe would be waited for, and a link leads anywhere.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _write(path: Path, value: dict[str, Any]) -> None:
    # ASCII: names that are not UTF-8 are lone surrogates here, which JSON can hold as escapes only.
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with partial.open("x", encoding="ascii") as file:
        json.dump(value, file)
        file.flush()
        if os.fstat(file.fileno()).st_size > MAX_RECORD:
            raise TargetTooLarge(path.parent, MAX_RECORD)
        os.fsync(file.fileno())
    partial.replace(path)
    flush_folder(path.parent)
