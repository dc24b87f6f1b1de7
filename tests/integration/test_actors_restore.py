"""Restoring a tree into a folder, on the real git and the real file system."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enchanted.actors.errors import TargetBlocked, TargetBusy, TargetChanged, TargetUnfinished, UnsafePath
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


KILLED = """
import os, signal, sys
from pathlib import Path
from enchanted.actors.repository.restore import Target
from enchanted.actors.repository.tree_store import TreeStore
steps = iter(range(10**6))
def watch(what, path):
    if next(steps) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
store = TreeStore(Path(sys.argv[1]))
Target(Path(sys.argv[2]), watch=watch).restore(store, sys.argv[3], label="second", operation="killed")
"""


@pytest.mark.parametrize("after", [0, 7, 21, 30, 39, 45])
def test_kill_9_in_the_middle_of_a_restore_loses_no_file(store: TreeStore, tmp_path: Path, after: int) -> None:
    old: Tree = {f"f{n}": ("100644", b"old %d" % n) for n in range(20)}
    new: Tree = {f"f{n}": ("100755", b"new %d" % n) for n in range(5, 25)}
    folder = tmp_path / "into"
    restore(store, folder, old)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(store.folder), str(folder), tree_of(store, new), str(after)], check=False
    )
    assert ended.returncode == -signal.SIGKILL
    half = on_disk(folder)
    assert all(entry in (old.get(path), new.get(path)) for path, entry in half.items())
    saved = on_disk(folder / MARK / "killed" / "old")
    assert all(path in half or path in saved for path in old), "nothing is gone that has no second name"
    restore(store, folder, new, label="second")
    assert on_disk(folder) == new
    Target(folder).put_back(operation="back")
    assert on_disk(folder) == old


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
    with suppress(OSError):
        restore(store, tmp_path / "into", {"a": ("100644", b"2")})
    assert (tmp_path / "outside").read_text() == "{}"


def test_a_damaged_record_of_restores_is_named(store: TreeStore, tmp_path: Path) -> None:
    restore(store, tmp_path, {"a": ("100644", b"1")})
    (tmp_path / MARK / "state.json").write_text("{")
    with pytest.raises(TargetBlocked, match=r"state\.json is damaged"):
        restore(store, tmp_path, {"a": ("100644", b"2")})
