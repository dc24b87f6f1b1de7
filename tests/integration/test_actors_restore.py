"""Restoring a tree into a folder, on the real git and the real file system."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enchanted.actors.errors import (
    TargetBlocked,
    TargetBusy,
    TargetChanged,
    TargetNoFolder,
    TargetReserved,
    TargetStopped,
    TargetTooLarge,
    TargetUnfinished,
    UnsafePath,
)
from enchanted.actors.repository import folder_files, restore_journal
from enchanted.actors.repository import restore as restoring
from enchanted.actors.repository.restore import MARK, Restored, Target
from enchanted.actors.repository.tree_store import EMPTY_TREE, TreeStore
from enchanted.actors.testing import make_repository

Tree = dict[str, tuple[str, bytes]]
"""Path -> git mode and content."""
NAMES = st.sampled_from(["a", "b", "ü", "-rf", " x ", "line\nbreak", os.fsdecode(b"\xff\xfe"), "d", "e"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.tuples(st.sampled_from(["100644", "100755"]), st.binary(max_size=40)) | st.tuples(
    st.just("120000"), st.sampled_from([b"a", b"../outside", b"/nowhere/at/all"])
)
NUMBERS = count()


def without_clashes(files: Tree) -> Tree:
    """A file is no folder: of `a` and `a/b` the first stays."""
    return {path: entry for path, entry in files.items() if not any(path.startswith(other + "/") for other in files)}


TREES = st.dictionaries(PATHS, ENTRIES, max_size=8).map(without_clashes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TreeStore:
    return TreeStore.create(tmp_path_factory.mktemp("store") / "repo.git")


def tree_of(store: TreeStore, files: Tree) -> str:
    """Write a tree."""
    if not files:
        return EMPTY_TREE
    made = store.writer.with_files("", {os.fsencode(path): entry for path, entry in files.items()})
    assert made is not None
    return made


def on_disk(folder: Path) -> Tree:
    """What lies in a folder, without the mark of restores."""
    found: Tree = {}
    for current, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (MARK, ".git")]
        for name in [*names, *(name for name in folders if Path(current, name).is_symlink())]:
            path = Path(current, name)
            key = os.path.relpath(path, folder)
            if path.is_symlink():
                found[key] = "120000", os.fsencode(path.readlink())
            else:
                found[key] = "100755" if path.stat().st_mode & 0o100 else "100644", path.read_bytes()
    return found


def put(folder: Path, files: Tree) -> None:
    """Write files into a folder."""
    for name, (mode, content) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "120000":
            path.symlink_to(os.fsdecode(content))
        else:
            path.write_bytes(content)
            path.chmod(int(mode[3:], 8))


def restore(store: TreeStore, folder: Path, files: Tree, *, label: str = "a state", force: bool = False) -> Restored:
    """Restore, with an operation id of its own."""
    return Target(folder).restore(
        store, tree_of(store, files), label=label, operation=f"{next(NUMBERS):06}", force=force
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=TREES, second=TREES)
@example(
    first={"a": ("120000", b"a"), "b/b": ("120000", b"a")},
    second={"a/a": ("120000", b"a"), "b": ("120000", b"a"), "a/b/a": ("120000", b"../outside")},
)
def test_any_tree_after_any_other_is_there_byte_for_byte_and_goes_back(
    store: TreeStore, first: Tree, second: Tree
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "into"
        restore(store, folder, first)
        assert on_disk(folder) == first
        before = Target(folder).preview(store, tree_of(store, second))
        done = restore(store, folder, second)
        assert on_disk(folder) == second
        assert done.preview == before
        assert not before.dirty
        if done.snapshot:
            Target(folder).put_back(operation=f"{next(NUMBERS):06}")
            assert on_disk(folder) == first
            Target(folder).put_back(operation=f"{next(NUMBERS):06}")
            assert on_disk(folder) == second


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=TREES, second=TREES, after=st.integers(min_value=0, max_value=30))
@example(
    first={"a": ("120000", b"a"), "b/a/a": ("120000", b"a")},
    second={"b": ("120000", b"a"), "a/a": ("120000", b"../outside")},
    after=0,
)
def test_a_restore_that_is_cut_off_anywhere_leaves_old_or_new_files_and_is_finished_by_the_next_call(
    store: TreeStore, first: Tree, second: Tree, after: int
) -> None:
    class CutOff(Exception):
        pass

    steps = count()

    def watch(what: str, path: str) -> None:
        if next(steps) == after:
            raise CutOff

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "into"
        restore(store, folder, first)
        try:
            Target(folder, watch=watch).restore(store, tree_of(store, second), label="second", operation="x")
        except CutOff:
            for path, entry in on_disk(folder).items():
                assert entry in (first.get(path), second.get(path))
        restore(store, folder, second, label="second")
        assert on_disk(folder) == second
        if first != second:
            Target(folder).put_back(operation=f"{next(NUMBERS):06}")
            assert on_disk(folder) == first


def killed(store: TreeStore, folder: Path, tree: str, step: int, after: float) -> bool:
    """Restore in a process of its own that is killed at a step, or after some seconds; whether it was."""
    child = os.fork()
    if not child:
        steps = count()

        def watch(what: str, path: str) -> None:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            Target(folder, watch=watch).restore(store, tree, label="second", operation="killed")
        finally:
            os._exit(0)
    if after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_kill(store: TreeStore, first: Tree, second: Tree, step: int, after: float) -> None:
    """Whenever it was killed: old or new files, no file without a second name, and the next call finishes it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "into"
        restore(store, folder, first)
        killed(store, folder, tree_of(store, second), step, after)
        half, saved = on_disk(folder), on_disk(folder / MARK / "killed" / "old")
        assert all(entry in (first.get(path), second.get(path)) for path, entry in half.items())
        assert all(half.get(path) == entry or saved.get(path) == entry for path, entry in first.items())
        restore(store, folder, second, label="second")
        assert on_disk(folder) == second
        if first != second:
            Target(folder).put_back(operation="zzz")
            assert on_disk(folder) == first


KILLS = {
    "first": TREES,
    "second": TREES,
    "step": st.integers(0, 30),
    "after": st.one_of(st.just(0.0), st.floats(0.0001, 0.05)),
}
CHECKED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=40, **CHECKED)
@given(**KILLS)
def test_kill_9_at_a_random_point_of_a_restore_leaves_old_or_new_files_and_the_snapshot(
    store: TreeStore, first: Tree, second: Tree, step: int, after: float
) -> None:
    check_kill(store, first, second, step, after)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3_600)
@settings(max_examples=20_000, derandomize=False, **CHECKED)
@given(**KILLS)
def test_kill_9_at_a_random_point_of_a_restore_in_the_long_run(
    store: TreeStore, first: Tree, second: Tree, step: int, after: float
) -> None:
    check_kill(store, first, second, step, after)


@pytest.mark.parametrize("after", [0, 7, 21, 30, 39, 45])
def test_kill_9_in_the_middle_of_a_restore_loses_no_file(store: TreeStore, tmp_path: Path, after: int) -> None:
    old: Tree = {f"f{n}": ("100644", b"old %d" % n) for n in range(20)}
    new: Tree = {f"f{n}": ("100755", b"new %d" % n) for n in range(5, 25)}
    restore(store, tmp_path / "probe", old)
    assert killed(store, tmp_path / "probe", tree_of(store, new), after, 0.0), "the step is on the way"
    check_kill(store, old, new, after, 0.0)


def test_files_that_nobody_put_there_stay(store: TreeStore, tmp_path: Path) -> None:
    git = make_repository(tmp_path, {"a.py": "old", "gone.py": "tracked", ".gitignore": "ignored/\n"})
    put(tmp_path, {"notes.txt": ("100644", b"mine"), "ignored/cache": ("100644", b"c")})
    done = restore(store, tmp_path, {"a.py": ("100644", b"new"), "sub/b.py": ("100644", b"b")})
    assert done.preview.write == ("a.py", "sub/b.py")
    assert done.preview.delete == (".gitignore", "gone.py")
    assert set(done.preview.keep) == {"notes.txt", "ignored/cache"}
    assert on_disk(tmp_path).keys() == {"a.py", "sub/b.py", "notes.txt", "ignored/cache"}
    assert (tmp_path / ".git").is_dir()
    assert MARK.encode() not in git.run("status", "--porcelain")


@pytest.mark.parametrize("tracked", [True, False])
def test_work_that_only_this_folder_has_is_overwritten_only_when_told_and_kept_then(
    store: TreeStore, tmp_path: Path, tracked: bool
) -> None:
    if tracked:
        make_repository(tmp_path, {"a.py": "committed"})
    (tmp_path / "a.py").write_text("work of a day")
    with pytest.raises(TargetChanged, match=r"a\.py"):
        restore(store, tmp_path, {"a.py": ("100644", b"new")})
    assert (tmp_path / "a.py").read_text() == "work of a day"
    done = restore(store, tmp_path, {"a.py": ("100644", b"new")}, force=True)
    assert (tmp_path / "a.py").read_bytes() == b"new"
    assert Path(done.snapshot, "old", "a.py").read_text() == "work of a day"
    Target(tmp_path).put_back(operation="back")
    assert (tmp_path / "a.py").read_text() == "work of a day"


def test_work_done_after_a_restore_is_not_lost_by_the_next(store: TreeStore, tmp_path: Path) -> None:
    restore(store, tmp_path, {"a.py": ("100644", b"one")})
    (tmp_path / "a.py").write_text("edited since")
    for attempt in ({"a.py": ("100644", b"two")}, {}):
        with pytest.raises(TargetChanged, match=r"a\.py"):
            restore(store, tmp_path, attempt)
    with pytest.raises(TargetChanged, match=r"a\.py"):
        Target(tmp_path).put_back(operation="back")


def test_nothing_is_written_through_a_link_and_what_is_in_the_way_is_named(store: TreeStore, tmp_path: Path) -> None:
    outside, into = tmp_path / "outside", tmp_path / "into"
    outside.mkdir()
    into.mkdir()
    (outside / "x").write_text("canary")
    (into / "link").symlink_to(outside)
    (into / "folder").mkdir()
    (into / "folder" / "mine").write_text("mine")
    (into / "file").write_text("mine")
    for tree, named in (
        ({"link/x": ("100644", b"bad")}, "link"),
        ({"folder": ("100644", b"bad")}, "folder"),
        ({"file/x": ("100644", b"bad")}, "file"),
    ):
        with pytest.raises(TargetBlocked, match=named):
            restore(store, into, tree, force=True)
    assert (outside / "x").read_text() == "canary"
    assert (into / "folder" / "mine").read_text() == (into / "file").read_text() == "mine"


@pytest.mark.parametrize("path", ["../x", ".git/hooks/post-checkout", "a/.GIT/config", f"{MARK}/state.json"])
def test_a_hostile_path_is_refused_before_anything_is_written(store: TreeStore, tmp_path: Path, path: str) -> None:
    (tmp_path / "into").mkdir()
    with pytest.raises(UnsafePath):
        restore(store, tmp_path / "into", {path: ("100644", b"x"), "fine": ("100644", b"x")})
    assert on_disk(tmp_path) == {}


def test_two_restores_into_one_folder_do_not_mix(store: TreeStore, tmp_path: Path) -> None:
    restore(store, tmp_path, {"a": ("100644", b"1")})
    with (tmp_path / MARK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TargetBusy):
            restore(store, tmp_path, {"a": ("100644", b"2")})
    assert on_disk(tmp_path) == {"a": ("100644", b"1")}


def test_a_lock_that_a_killed_restore_leaves_for_a_moment_is_waited_for(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_journal, "MOMENT", 30.0)
    restore(store, tmp_path, {"a": ("100644", b"1")})
    lock = (tmp_path / MARK / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    freed = threading.Timer(0.2, lock.close)
    freed.start()
    restore(store, tmp_path, {"a": ("100644", b"2")})
    freed.join()
    assert on_disk(tmp_path) == {"a": ("100644", b"2")}


def test_another_restore_waits_for_the_one_that_was_cut_off(store: TreeStore, tmp_path: Path) -> None:
    def watch(what: str, path: str) -> None:
        if what == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Target(tmp_path, watch=watch).restore(
            store, tree_of(store, {"a": ("100644", b"1")}), label="first", operation="x"
        )
    assert Target(tmp_path).unfinished() == "first"
    with pytest.raises(TargetUnfinished, match="first"):
        restore(store, tmp_path, {"a": ("100644", b"2")}, label="other")
    done = restore(store, tmp_path, {"a": ("100644", b"1")}, label="first")
    assert done.resumed
    assert Path(done.snapshot).is_dir()
    assert on_disk(tmp_path) == {"a": ("100644", b"1")}


def test_a_folder_that_was_never_restored_into_cannot_be_put_back(tmp_path: Path) -> None:
    with pytest.raises(TargetBlocked, match="nothing was ever restored"):
        Target(tmp_path).put_back(operation="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_folder_in_there_may_be_another_file_system(store: TreeStore, tmp_path: Path) -> None:
    first: Tree = {"a": ("100644", b"1"), "mounted/b": ("100644", b"1"), "mounted/c": ("100644", b"1")}
    second: Tree = {"a": ("100644", b"2"), "mounted/b": ("100755", b"2"), "mounted/d": ("120000", b"b")}
    (tmp_path / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "mounted")], check=True)
    try:
        restore(store, tmp_path, first)
        restore(store, tmp_path, second)
        assert on_disk(tmp_path) == second
        Target(tmp_path).put_back(operation="back")
        assert on_disk(tmp_path) == first
    finally:
        subprocess.run(["umount", str(tmp_path / "mounted")], check=True)


def test_an_empty_folder_gives_way_to_a_file(store: TreeStore, tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    restore(store, tmp_path, {"a": ("100644", b"file")})
    assert (tmp_path / "a").read_bytes() == b"file"
    shutil.rmtree(tmp_path / MARK)


def cut_off_at(what: str) -> Callable[[str, str], None]:
    """Watches until a step of this kind, and ends there as a kill does."""

    def watch(step: str, path: str) -> None:
        if step == what:
            raise KeyboardInterrupt

    return watch


def test_what_somebody_wrote_after_a_kill_is_not_lost_when_the_restore_is_finished(
    store: TreeStore, tmp_path: Path
) -> None:
    old: Tree = {"a": ("100644", b"1"), "gone": ("100644", b"1")}
    new: Tree = {"a": ("100644", b"2")}
    restore(store, tmp_path, old)
    with pytest.raises(KeyboardInterrupt):
        Target(tmp_path, watch=cut_off_at("write")).restore(store, tree_of(store, new), label="new", operation="x")
    (tmp_path / "a").unlink()
    (tmp_path / "a").write_text("written meanwhile")
    (tmp_path / "gone").write_text("written meanwhile")
    with pytest.raises(TargetChanged):
        restore(store, tmp_path, new, label="new")
    assert (tmp_path / "a").read_text() == (tmp_path / "gone").read_text() == "written meanwhile"
    restore(store, tmp_path, new, label="new", force=True)
    assert on_disk(tmp_path) == new
    assert on_disk(tmp_path / MARK / "x" / "late").keys() == {"a", "gone"}


def save_by_rename(path: Path, content: bytes) -> None:
    """As editors do."""
    partial = path.with_name(path.name + "~")
    partial.write_bytes(content)
    partial.rename(path)


def save_in_place(path: Path, content: bytes) -> None:
    """As editors do that keep a file's inode."""
    path.write_bytes(content)


@pytest.mark.parametrize("save", [save_by_rename, save_in_place])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("step", "path"), [("write", "a"), ("delete", "gone")])
def test_a_file_that_is_saved_after_it_was_looked_at_is_not_lost(
    store: TreeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[[Path, bytes], None],
    force: bool,
    step: str,
    path: str,
) -> None:
    new: Tree = {"a": ("100644", b"2")}
    steps, real = list[tuple[str, str]](), folder_files.entry_at

    def saved_when_looked_at(folder: Path, name: str) -> Any:
        found = real(folder, name)
        if steps[-1:] == [(step, path)] and folder == tmp_path:
            steps.clear()
            save(tmp_path / path, b"saved meanwhile")
        return found

    # As on a file system without second names: what is kept is a copy, and the content saved is in one place only.
    monkeypatch.setattr(folder_files, "_linked", lambda *_: False)
    restore(store, tmp_path, {"a": ("100644", b"1"), "gone": ("100644", b"1")})
    target = Target(tmp_path, watch=lambda what, name: steps.append((what, name)))
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "entry_at", saved_when_looked_at)
        with nullcontext() if force else pytest.raises(TargetChanged, match=f"{path} in"):
            target.restore(store, tree_of(store, new), label="new", operation="x", force=force)
    if not force:
        assert (tmp_path / path).read_bytes() == b"saved meanwhile"
        with pytest.raises(TargetChanged):
            restore(store, tmp_path, new, label="new")
        assert restore(store, tmp_path, new, label="new", force=True).resumed
    assert on_disk(tmp_path) == new
    assert on_disk(tmp_path / MARK / "x" / "late") == {path: ("100644", b"saved meanwhile")}


def test_a_file_that_is_saved_after_its_late_copy_was_made_is_not_lost(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new: Tree = {"a": ("100644", b"2")}
    restore(store, tmp_path, {"a": ("100644", b"1")})
    with pytest.raises(KeyboardInterrupt):
        Target(tmp_path, watch=cut_off_at("write")).restore(store, tree_of(store, new), label="new", operation="x")
    save_by_rename(tmp_path / "a", b"saved")
    real = folder_files.keep

    def saved_when_copied(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        save_by_rename(tmp_path / "a", b"saved again")

    with monkeypatch.context() as patched:
        patched.setattr(restoring, "keep", saved_when_copied)
        restore(store, tmp_path, new, label="new", force=True)
    assert on_disk(tmp_path) == new
    assert on_disk(tmp_path / MARK / "x" / "late") == {"a": ("100644", b"saved")}
    assert on_disk(tmp_path / MARK / "x" / "late-2") == {"a": ("100644", b"saved again")}


def test_a_file_that_is_saved_while_another_file_system_is_copied_to_is_not_lost(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new: Tree = {"a": ("100644", b"2")}
    rename, copy = os.rename, folder_files._copy

    def not_across(source: str, to: str, **folders: Any) -> None:
        if source == to == "a":
            raise OSError(errno.EXDEV, "another file system")
        rename(source, to, **folders)

    def saved_when_copied(source: int, place: int, name: str, to: str) -> None:
        copy(source, place, name, to)
        if to != name:
            save_by_rename(tmp_path / name, b"saved meanwhile")

    restore(store, tmp_path, {"a": ("100644", b"1")})
    monkeypatch.setattr(os, "rename", not_across)
    with monkeypatch.context() as patched:
        patched.setattr(folder_files, "_copy", saved_when_copied)
        with pytest.raises(TargetChanged):
            restore(store, tmp_path, new, label="new")
    assert on_disk(tmp_path) == {"a": ("100644", b"saved meanwhile")}, "and nothing half-way is left beside it"
    restore(store, tmp_path, new, label="new", force=True)
    assert on_disk(tmp_path) == new


LATE: list[tuple[Tree, Tree]] = [
    ({"gone": ("100644", b"first")}, {"gone": ("100644", b"second")}),
    ({"gone": ("120000", b"outside")}, {"gone": ("120000", b"elsewhere")}),
    ({"gone": ("120000", b"../../../outside")}, {"gone": ("100644", b"second")}),
    ({"gone": ("100644", b"first")}, {"gone": ("120000", b"outside")}),
    ({"gone": ("100644", b"same")}, {"gone": ("100755", b"same")}),
    ({"sub": ("100644", b"first")}, {"sub/gone": ("100644", b"second")}),
    ({"sub/gone": ("100644", b"first")}, {"sub": ("100644", b"second")}),
]


@pytest.mark.parametrize(("first", "second"), LATE)
def test_what_was_written_between_two_forced_resumes_is_kept_beside_what_was_written_before_the_first(
    store: TreeStore, tmp_path: Path, first: Tree, second: Tree
) -> None:
    folder, outside = tmp_path / "into", tmp_path / "outside"
    # A file becomes a folder: both names are in the plan, and either may be written late.
    tree = tree_of(store, {"a": ("100644", b"2"), "sub/gone": ("100644", b"2")})
    restore(store, folder, {"a": ("100644", b"1"), "gone": ("100644", b"1"), "sub": ("100644", b"1")})
    outside.write_text("canary")
    for until, written in (("write", first), ("done", second), ("done", first), ("done", second), ("done", {})):
        with pytest.raises(KeyboardInterrupt):
            Target(folder, watch=cut_off_at(until)).restore(store, tree, label="new", operation="x", force=True)
        shutil.rmtree(folder / "sub", ignore_errors=True)
        put(folder, written)
    assert on_disk(folder / MARK / "x" / "late") == first
    assert on_disk(folder / MARK / "x" / "late-2") == second
    assert not (folder / MARK / "x" / "late-3").exists(), "what is kept already is not kept again"
    assert outside.read_text() == "canary"


@pytest.mark.parametrize("kind", ["link", "file", "read-only file"])
def test_what_lies_where_a_late_copy_would_go_stops_no_resume(open_place: Path, kind: str) -> None:
    store, folder = TreeStore.create(open_place / "repo.git"), open_place / "into"
    new: Tree = {"a": ("100644", b"2")}
    with as_nobody(open_place):
        restore(store, folder, {"a": ("100644", b"1")})
        with pytest.raises(KeyboardInterrupt):
            Target(folder, watch=cut_off_at("write")).restore(store, tree_of(store, new), label="new", operation="x")
        place = folder / MARK / "x"
        save_by_rename(folder / "a", b"written meanwhile")
        if kind == "link":
            (place / "late").symlink_to(open_place)
        elif kind == "file":
            (place / "late").write_text("mine")
        else:
            put(place / "late", {"a": ("100444", b"mine")})
        restore(store, folder, new, label="new", force=True)
        assert on_disk(place / "late-2") == {"a": ("100644", b"written meanwhile")}
        assert not (open_place / "a").exists()
        assert kind != "read-only file" or (place / "late" / "a").read_text() == "mine"


def test_going_back_that_was_cut_off_is_finished_and_not_undone(store: TreeStore, tmp_path: Path) -> None:
    first: Tree = {"a": ("100644", b"1"), "b": ("100644", b"1")}
    restore(store, tmp_path, first)
    restore(store, tmp_path, {"a": ("100644", b"2")})
    with pytest.raises(KeyboardInterrupt):
        Target(tmp_path, watch=cut_off_at("write")).put_back(operation="x")
    assert Target(tmp_path).put_back(operation="y").resumed
    assert on_disk(tmp_path) == first


def test_a_folder_that_is_a_link_is_the_folder_it_leads_to(store: TreeStore, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("work of a day")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(TargetChanged):
        restore(store, tmp_path / "link", {"a": ("100644", b"new")})
    assert (tmp_path / "real" / "a").read_text() == "work of a day"


def test_what_a_repository_brings_of_ours_is_not_believed(store: TreeStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("canary")
    planted = {"../../outside": ["100644", ""]}
    make_repository(tmp_path / "into", {f"{MARK}/state.json": json.dumps({"files": planted}), "a": "1"})
    with pytest.raises(TargetBlocked, match="came with the repository"):
        restore(store, tmp_path / "into", {"a": ("100644", b"2")}, force=True)
    assert outside.read_text() == "canary"


def test_a_planted_plan_cannot_lead_out_of_the_folder(store: TreeStore, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("canary")
    place = tmp_path / "into" / MARK / "planted"
    (place / "new").mkdir(parents=True)
    plan = {"label": "x", "write": [], "delete": ["../outside"], "files": {}, "files_before": {}, "after": {}}
    (place / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UnsafePath):
        Target(tmp_path / "into").put_back(operation="y", force=True)
    assert (tmp_path / "outside").read_text() == "canary"


@pytest.mark.parametrize("name", ["state.json", "lock", ".gitignore"])
def test_nothing_of_ours_is_written_through_a_link(store: TreeStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("{}")
    (tmp_path / "into" / MARK).mkdir(parents=True)
    (tmp_path / "into" / MARK / name).symlink_to(tmp_path / "outside")
    with suppress(TargetStopped, TargetBlocked):
        restore(store, tmp_path / "into", {"a": ("100644", b"2")})
    assert (tmp_path / "outside").read_text() == "{}"


def test_a_damaged_record_of_restores_is_named(store: TreeStore, tmp_path: Path) -> None:
    restore(store, tmp_path, {"a": ("100644", b"1")})
    (tmp_path / MARK / "state.json").write_text("{")
    with pytest.raises(TargetBlocked, match=r"state\.json is damaged"):
        restore(store, tmp_path, {"a": ("100644", b"2")})


DAMAGED = {
    "state.json": [
        "[]", "5", '"x"', "null", "[" * 100_000, '{"files": []}', '{"files": {"a": 5}}', '{"files": {"a": ["1", 2]}}',
        '{"files": {"a\\u0000": ["1", "2"]}}', '{"files": {"\\ud800": ["1", "2"]}}', '{"done": 5}', '{"done": [[]]}',
        '{"operation": "../x"}', '{"operation": "/etc"}', '{"after": [1]}',
    ],
    "plan.json": [
        "[]", "{}", "[" * 100_000,
        *(
            json.dumps({"label": "x", "write": [], "delete": [], "files": {}, "after": {}, "files_before": {}} | wrong)
            for wrong in ({"files": []}, {"write": [5]}, {"delete": "a"}, {"number": "1"}, {"label": "\ud800"})
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGED.items() for text in texts])
def test_a_record_of_any_other_shape_is_named_and_not_believed(
    store: TreeStore, tmp_path: Path, name: str, text: str
) -> None:
    place = tmp_path / MARK if name == "state.json" else tmp_path / MARK / "x"
    (place / "new").mkdir(parents=True)
    (place / name).write_text(text)
    for act in (
        Target(tmp_path).unfinished,
        lambda: restore(store, tmp_path, {"a": ("100644", b"2")}, force=True),
        lambda: Target(tmp_path).put_back(operation="back"),
    ):
        with pytest.raises(TargetBlocked, match=rf"{name} is damaged; move it"):
            act()
    assert on_disk(tmp_path) == {}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["state.json", "x/plan.json"])
@pytest.mark.parametrize("kind", ["pipe", "link", "device", "folder", "huge"])
def test_a_record_that_is_no_plain_file_is_not_waited_for_and_not_followed(
    store: TreeStore, tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_journal, "MAX_RECORD", 1_000)
    outside, place = tmp_path / "outside", tmp_path / "into" / MARK / name
    outside.write_text("{}")
    place.parent.mkdir(parents=True)
    {
        "pipe": lambda: os.mkfifo(place),
        "link": lambda: place.symlink_to(outside),
        "device": lambda: place.symlink_to("/dev/zero"),
        "folder": place.mkdir,
        "huge": lambda: place.write_text("{" + " " * 1_000 + "}"),
    }[kind]()
    for act in (
        lambda: Target(tmp_path / "into").preview(store, EMPTY_TREE),
        Target(tmp_path / "into").preview_back,
        lambda: restore(store, tmp_path / "into", {}),
    ):
        with pytest.raises(TargetBlocked, match=rf"{Path(name).name} (is damaged|cannot be read)"):
            act()


def test_a_preview_refuses_the_records_that_the_restore_refuses(store: TreeStore, tmp_path: Path) -> None:
    make_repository(tmp_path / "brought", {f"{MARK}/state.json": "{}", "a": "1"})
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / MARK).symlink_to(tmp_path)
    for name, refused in (("brought", TargetBlocked), ("linked", UnsafePath)):
        target = Target(tmp_path / name)
        for act in (lambda at=target: at.preview(store, EMPTY_TREE), target.preview_back, target.unfinished):
            with pytest.raises(refused):
                act()


def test_a_restore_that_could_not_be_read_back_is_refused_before_it_counts(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(store, tmp_path, {"a": ("100644", b"1")})
    monkeypatch.setattr(restore_journal, "MAX_RECORD", 1_000)
    with pytest.raises(TargetTooLarge, match="--branch"):
        restore(store, tmp_path, {f"f{n}": ("100644", b"2") for n in range(20)})
    assert on_disk(tmp_path) == {"a": ("100644", b"1")}
    restore(store, tmp_path, {"a": ("100644", b"3")})
    assert on_disk(tmp_path) == {"a": ("100644", b"3")}


@contextmanager
def as_nobody(*folders: Path) -> Iterator[None]:
    """As a user whom permissions bind; these folders are theirs."""
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        subprocess.run(["chown", "-R", "65534:65534", str(folder)], check=True)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that everybody may reach, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_is_read_only_when_its_turn_comes_stops_a_restore_until_it_is_not(
    open_place: Path, mode: int
) -> None:
    store, folder = TreeStore.create(open_place / "repo.git"), open_place / "into"
    old: Tree = {"gone/a": ("100644", b"1"), "z": ("100644", b"1")}
    new: Tree = {"sub/b": ("100644", b"2"), "z": ("100644", b"2")}
    restore(store, folder, old)

    def watch(what: str, path: str) -> None:
        if (what, path) == ("write", "sub/b"):
            (folder / "sub").mkdir()
            (folder / "sub").chmod(mode)

    with as_nobody(open_place):
        with pytest.raises(TargetStopped, match=r"sub/b .*permission denied.*chmod u\+rwx.*same command again.*/old"):
            Target(folder, watch=watch).restore(store, tree_of(store, new), label="new", operation="x")
        with pytest.raises(TargetStopped):
            restore(store, folder, new, label="new")
        assert Target(folder).unfinished() == "new"
        assert on_disk(folder / MARK / "x" / "old") == old
        (folder / "sub").chmod(0o755)
        done = restore(store, folder, new, label="new")
        assert done.resumed
        assert on_disk(folder) == new
        Target(folder).put_back(operation="y")
        assert on_disk(folder) == old


def test_a_folder_that_cannot_be_made_or_written_says_so(open_place: Path) -> None:
    store = TreeStore.create(open_place / "repo.git")
    (open_place / "mine").mkdir(mode=0o555)
    (open_place / "file").write_text("mine")
    with as_nobody(open_place):
        for into, refused, words in (
            ("mine", TargetStopped, r"cannot be read or written \(permission denied\); put that right"),
            ("mine/new", TargetStopped, r"cannot be read or written \(permission denied\); put that right"),
            ("file", TargetNoFolder, r"file is no folder; give another --into$"),
            ("file/new", TargetNoFolder, r"file is no folder; give another --into$"),
            ("x" * 256, TargetStopped, "file name too long"),
        ):
            with pytest.raises(refused, match=words):
                Target(open_place / into).preview(store, EMPTY_TREE)
            with pytest.raises(refused, match=words):
                restore(store, open_place / into, {"a": ("100644", b"2")})
    assert (open_place / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_folder_of_another_file_system_is_not_looked_into_for_files_that_stay(
    store: TreeStore, tmp_path: Path
) -> None:
    put(tmp_path, {"sub/mine": ("100644", b"mine"), "sub/mounted/known": ("100644", b"mine")})
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "sub" / "mounted")], check=True)
    try:
        put(tmp_path, {"sub/mounted/mine": ("100644", b"mine"), "sub/mounted/known": ("100644", b"mine")})
        before = Target(tmp_path).preview(store, tree_of(store, {"sub/mounted/known": ("100644", b"2")}))
        assert (before.kept, before.keep, before.dirty) == (1, ("sub/mine",), ("sub/mounted/known",))
        (tmp_path / "sub" / "mine").unlink()
        before = Target(tmp_path).preview(store, tree_of(store, {"sub": ("100644", b"2")}))
        assert before.blocked == ("sub",), "what is mounted is in the way of a file all the same"
    finally:
        subprocess.run(["umount", str(tmp_path / "sub" / "mounted")], check=True)


def test_of_very_many_files_that_stay_the_first_are_named_and_no_more_names_are_held(
    store: TreeStore, tmp_path: Path
) -> None:
    names = [f"{number:05}" + "x" * 200 for number in range(10_000)]
    (tmp_path / "wide").mkdir()
    for name in names:
        (tmp_path / "wide" / name).touch()
    (tmp_path / "zz").touch()
    target, tree = Target(tmp_path), tree_of(store, {"a": ("100644", b"1")})
    tracemalloc.start()
    try:
        before = target.preview(store, tree)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert before.kept == 10_001
    assert before.keep == ("zz", *(f"wide/{name}" for name in names[: restoring.LISTED - 1]))
    assert peak < 1_000_000


def test_a_preview_counts_so_many_files_and_looks_into_so_many_folders_and_no_more(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "COUNTED", 20)
    put(tmp_path / "files", {f"{number}": ("100644", b"") for number in range(30)})
    put(tmp_path / "folders", {f"{number}/a": ("100644", b"") for number in range(30)})
    put(tmp_path / "deep", {"/".join("d" * 30) + "/a": ("100644", b"")})
    wanted: Tree = {"a": ("100644", b"1")}
    kept = {name: Target(tmp_path / name).preview(store, tree_of(store, wanted)).kept for name in ("files", "folders")}
    assert kept == {"files": 20, "folders": 19}, "the folder itself is one of those looked into"
    assert Target(tmp_path / "deep").preview(store, tree_of(store, wanted)).kept == 0
    blocked = Target(tmp_path).preview(store, tree_of(store, {"deep": ("100644", b"1")})).blocked
    assert blocked == ("deep",), "what is in the way is looked for everywhere"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_folder_that_nobody_can_write_is_refused_in_the_preview(store: TreeStore, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path)], check=True)
    try:
        for into in (tmp_path, tmp_path / "new"):
            with pytest.raises(TargetStopped, match="read-only file system"):
                Target(into).preview(store, EMPTY_TREE)
            with pytest.raises(TargetStopped, match="read-only file system"):
                restore(store, into, {"a": ("100644", b"1")})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("into", "whose"),
    [
        ("repo/.git", "git"),
        ("repo/.GIT/hooks", "git"),
        ("repo/.git/new", "git"),
        ("bare", "git"),
        ("bare/hooks", "git"),
        ("bare/new/er", "git"),
        ("apart", "git"),
        ("link", "git"),
        (f"repo/{MARK}", "the records of restores"),
        (f"repo/{MARK}/x/old", "the records of restores"),
        ("/proc/new", "the kernel"),
        ("/sys", "the kernel"),
    ],
)
def test_what_belongs_to_git_or_to_restores_is_not_restored_into(
    store: TreeStore, tmp_path: Path, into: str, whose: str
) -> None:
    make_repository(tmp_path / "repo", {"a": "1"})
    for arguments in (["--bare", "bare"], ["--separate-git-dir", "apart", "work"]):
        subprocess.run(["git", "init", "-q", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "link").symlink_to("repo/.git/hooks")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    target, tree = Target(tmp_path / into), tree_of(store, {"config": ("100644", b"[core]"), "a": ("100755", b"!")})
    for act in (
        lambda: target.preview(store, tree),
        lambda: target.restore(store, tree, label="x", operation="x", force=True),
        target.preview_back,
        lambda: target.put_back(operation="x", force=True),
    ):
        with pytest.raises(TargetReserved, match=f"belongs to {whose}; give another --into"):
            act()
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_looked_into_is_not_taken_for_an_empty_one(open_place: Path) -> None:
    store, folder = TreeStore.create(open_place / "repo.git"), open_place / "into"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "mine").write_text("mine")
    (folder / "sub").chmod(0)
    with as_nobody(open_place):
        for act in (Target(folder).preview, lambda s, t: restore(s, folder, {"sub/mine": ("100644", b"2")})):
            with pytest.raises(TargetStopped, match="permission denied"):
                act(store, tree_of(store, {"sub/mine": ("100644", b"2")}))
        (folder / "sub").chmod(0o755)
    assert (folder / "sub" / "mine").read_text() == "mine"


def test_what_lies_in_the_way_since_the_plan_is_named_and_the_restore_goes_on_without_it(
    store: TreeStore, tmp_path: Path
) -> None:
    new: Tree = {"a": ("100644", b"2"), "b/c": ("100644", b"2")}

    def watch(what: str, path: str) -> None:
        if (what, path) == ("write", "a"):
            put(tmp_path, {"a/mine": ("100644", b"mine"), "b": ("100644", b"mine")})

    with pytest.raises(TargetStopped, match=r"a in .*move away what lies there"):
        Target(tmp_path, watch=watch).restore(store, tree_of(store, new), label="new", operation="x")
    (tmp_path / "a").rename(tmp_path / "kept")
    with pytest.raises(TargetStopped, match=r"b/c in .*a file or a link lies where the folder b must be"):
        restore(store, tmp_path, new, label="new")
    (tmp_path / "b").rename(tmp_path / "kept2")
    assert restore(store, tmp_path, new, label="new").resumed
    assert on_disk(tmp_path) == {**new, "kept/mine": ("100644", b"mine"), "kept2": ("100644", b"mine")}


def test_a_lost_record_of_restores_is_made_of_their_plans_and_nothing_is_done_twice(
    store: TreeStore, tmp_path: Path
) -> None:
    first: Tree = {"a": ("100644", b"1"), "gone": ("100644", b"1")}
    second: Tree = {"a": ("100644", b"2"), "new": ("100644", b"2")}
    restore(store, tmp_path, first)
    restore(store, tmp_path, second)
    put(tmp_path, {"gone": ("100644", b"1")})
    (tmp_path / MARK / "state.json").unlink()
    assert Target(tmp_path).unfinished() == ""
    before = Target(tmp_path).preview(store, tree_of(store, {"a": ("100644", b"3")}))
    assert (before.write, before.delete, before.dirty, before.keep) == (("a",), ("new",), (), ("gone",))
    (tmp_path / "gone").unlink()
    Target(tmp_path).put_back(operation=f"{next(NUMBERS):06}")
    assert on_disk(tmp_path) == first
    (tmp_path / MARK / "state.json").unlink()
    Target(tmp_path).put_back(operation=f"{next(NUMBERS):06}")
    assert on_disk(tmp_path) == second


def test_a_restore_that_was_cut_off_is_finished_though_the_record_of_the_earlier_ones_is_lost(
    store: TreeStore, tmp_path: Path
) -> None:
    first: Tree = {"a": ("100644", b"1"), "gone": ("100644", b"1")}
    second: Tree = {"a": ("100644", b"2")}
    restore(store, tmp_path, first)
    with pytest.raises(KeyboardInterrupt):
        Target(tmp_path, watch=cut_off_at("write")).restore(store, tree_of(store, second), label="2", operation="x")
    (tmp_path / MARK / "state.json").unlink()
    assert Target(tmp_path).unfinished() == "2"
    assert restore(store, tmp_path, second, label="2").resumed
    Target(tmp_path).put_back(operation="y")
    assert on_disk(tmp_path) == first


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_files_that_git_was_told_not_to_look_at_are_looked_at(store: TreeStore, tmp_path: Path, flag: str) -> None:
    git = make_repository(tmp_path, {"local.ini": "shared", "clean.ini": "shared", "sparse": "x", "sub/a": "1"})
    git.run("update-index", flag, "--", "local.ini", "clean.ini", "sparse", "sub/a")
    (tmp_path / "local.ini").write_text("work of a day")
    (tmp_path / "sub" / "a").write_text("work of a day")
    (tmp_path / "sparse").unlink()
    wanted: Tree = {path: ("100644", b"new") for path in ("local.ini", "clean.ini", "sparse")}
    before = Target(tmp_path).preview(store, tree_of(store, wanted))
    assert (before.dirty, before.delete) == (("local.ini", "sub/a"), ("sub/a",))
    with pytest.raises(TargetChanged, match=r"local\.ini"):
        restore(store, tmp_path, wanted)
    inside = Target(tmp_path / "sub").preview(store, tree_of(store, {"a": ("100644", b"new")}))
    assert inside.dirty == ("a",)
    restore(
        store, tmp_path, {**wanted, "local.ini": ("100644", b"work of a day"), "sub/a": ("100644", b"work of a day")}
    )
    assert git.run("ls-files", "-v").split(b"\n")[0][:1] in (b"h", b"S"), "the user's own index is as it was"


def test_what_comes_is_on_the_disk_before_the_plan_counts_and_the_names_before_it_is_done(
    store: TreeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old: Tree = {"a": ("100644", b"1"), "b/c": ("100644", b"1"), "gone/d": ("100644", b"1")}
    new: Tree = {"a": ("100644", b"2"), "b/c": ("100755", b"2"), "e/f/g": ("100644", b"2"), "link": ("120000", b"a")}
    flushed, at_plan, before_done = set[int](), set[int](), set[int]()
    real = os.fsync

    def fsync(file: int) -> None:
        flushed.add(os.fstat(file).st_ino)
        if Path(f"/proc/self/fd/{file}").readlink().name == "plan.json.partial":
            at_plan.update(flushed)
            flushed.clear()
        real(file)

    def watch(what: str, path: str) -> None:
        if what == "done":
            before_done.update(flushed)

    restore(store, tmp_path, old)
    monkeypatch.setattr(os, "fsync", fsync)
    Target(tmp_path, watch=watch).restore(store, tree_of(store, new), label="new", operation="x")
    for path, (mode, _) in new.items():
        assert mode == "120000" or (tmp_path / path).stat().st_ino in at_plan, path
    assert (tmp_path / MARK / "x" / "old" / "b").stat().st_ino in at_plan
    for folder in (".", "b", "e", "e/f"):
        assert (tmp_path / folder).stat().st_ino in before_done, folder
    at_plan.clear()
    Target(tmp_path).put_back(operation="y")
    assert {(tmp_path / path).stat().st_ino for path in old} <= at_plan
