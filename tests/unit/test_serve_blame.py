"""Tracks and blame without a server: versions of a file, and who wrote each line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import FileChange, StoredEvent, SwarmEvent, decision
from enchanted.schemas.fold import STARTS, fold
from enchanted.serve.moments import blame as blaming
from enchanted.serve.moments.blame import blame, from_hunks, kept, split
from enchanted.serve.moments.tracks import Tracks, Version


class Story:
    """A run told in files, maybe a fork; a blob is the hash of its content."""

    def __init__(self, parent: Story | None = None) -> None:
        self.events: list[StoredEvent] = []
        self.contents: dict[str, bytes] = dict(parent.contents) if parent else {}
        self._parent = Tracks(parent.events) if parent else None
        self._before = len(parent.events) if parent else 0
        self._trees = {"main": ""}

    @property
    def _next(self) -> int:
        return self._before + len(self.events) + 1

    def change(
        self,
        reason: str,
        files: dict[str, str | None],
        *,
        workspace: str = "main",
        task: str = "",
        cause: str = "",
        begun_at: int = 0,
    ) -> int:
        """``begun_at``: the change whose tree a workspace begins with; the newest of main by default."""
        tree = f"tree-{self._next}"
        event = SwarmEvent(event_id=f"event-{self._next}", workspace_id=workspace, task_id=task)
        event.parent_event_id = cause
        change = event.state_change
        change.target_type, change.reason = "FILE_SYSTEM", reason
        begun = f"tree-{begun_at}" if begun_at else self._trees["main"]
        change.previous_state_hash, change.new_state_hash = self._trees.get(workspace, begun), tree
        tracks = Tracks(self.events)
        for path, text in files.items():
            known = tracks.version(workspace, path) or tracks.version("main", path)
            blob = "" if text is None else sha256_hex(text)
            change.files.append(FileChange(path=path, old_blob=known.blob if known else "", new_blob=blob))
            if text is not None:
                self.contents[blob] = text.encode()
        self._trees[workspace] = tree
        return self._add(event)

    def decide(self, cause: str = "") -> str:
        event = decision(context_hash="", trigger="", rationale="", action={}, parent=cause)
        event.event_id = f"event-{self._next}"
        self._add(event)
        return event.event_id

    def _add(self, event: SwarmEvent) -> int:
        seq = self._next
        self.events.append(StoredEvent(seq=seq, time=datetime.now(UTC), subject="s", raw=b"", event=event))
        return seq

    def version(self, path: str, workspace: str = "main") -> Version:
        version = Tracks(self.events, self._parent).version(workspace, path)
        assert version is not None
        return version

    def writers(self, path: str, workspace: str = "main") -> list[int]:
        return [one.seq for _, one in blame(self.version(path, workspace), self.contents, _no_git)]

    def history(self, path: str, workspace: str = "main") -> list[int]:
        return [one.seq for one in self.version(path, workspace).history()]


def _no_git(old: str, new: str) -> bytes:
    raise AssertionError(f"small files need no git: {old} {new}")


def test_each_line_is_that_of_the_change_that_last_wrote_it() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n2\n3\n", "other": "x"})
    middle = story.change("edit", {"a": "1\ntwo\n3\n4\n"})
    story.change("edit", {"other": "y"})
    last = story.change("edit", {"a": "0\n1\ntwo\n4"})
    assert story.writers("a") == [last, base, middle, middle]
    assert story.history("a") == [base, middle, last]


def test_a_rename_keeps_its_lines_and_a_removed_file_its_history() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n2\n"})
    moved = story.change("edit", {"a": None, "b": "1\n2\n"})
    edited = story.change("edit", {"b": "1\n2\n3\n"})
    assert story.writers("b") == [base, base, edited]
    assert story.history("b") == [base, moved, edited]
    assert story.history("a") == [base, moved]
    assert story.version("a").blob == ""
    again = story.change("edit", {"a": "1\n"})
    assert story.history("a") == [base, moved, again]
    assert story.writers("a") == [again]


def test_a_merge_moves_the_lines_of_whoever_wrote_them() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n2\n3\n"})
    first = story.change("edit", {"a": "1\n2\n3\nfour\n"}, workspace="w-1", task="t-1")
    second = story.change("edit", {"a": "zero\n1\n2\n3\n"}, workspace="w-2", task="t-2")
    story.change("merge", {"a": "1\n2\n3\nfour\n"}, task="t-1")
    merge = story.change("merge", {"a": "zero\n1\n2\n3\nfour\n# resolved\n"}, task="t-2")
    assert story.writers("a") == [second, base, base, base, first, merge]
    assert story.writers("a", "w-1") == [base, base, base, first]
    assert story.history("a", "w-2") == [base, second]


def test_a_workspace_begins_with_the_versions_of_its_own_start_where_main_moved_on() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n", "b": "1\n", "gone": "x\n"})
    story.change("edit", {"a": "1\n2\n", "new": "n\n", "gone": None}, workspace="w-1", task="t-1")
    merge = story.change("merge", {"a": "1\n2\n", "new": "n\n", "gone": None}, task="t-1")
    story.change("edit", {"a": "1\n2\n3\n"})
    edit = story.change("edit", {"b": "1\n2\n"}, workspace="w-2", begun_at=base)
    later = story.change("edit", {"b": "1\n3\n"}, workspace="w-3", begun_at=merge)
    assert (story.history("b", "w-2"), story.writers("b", "w-2")) == ([base, edit], [base, edit])
    assert (story.history("a", "w-2"), story.history("gone", "w-2")) == ([base], [base])
    assert Tracks(story.events).version("w-2", "new") is None
    assert (story.history("a", "w-3"), story.history("new", "w-3")) == ([base, merge], [merge])
    assert story.history("b", "w-3") == [base, later]
    assert story.version("gone", "w-3").blob == ""


def test_a_workspace_has_a_history_of_just_the_files_that_its_state_has_however_far_main_went() -> None:
    for moved in (STARTS - 1, STARTS):
        story = Story()
        base = story.change("base", {"a": "1\n", "b": "1\n"})
        for number in range(moved):
            story.change("edit", {"a": f"{number}\n"})
        story.change("edit", {"b": "2\n"}, workspace="w", begun_at=base)
        known = {path for path in ("a", "b") if Tracks(story.events).version("w", path)}
        assert known == set(fold(story.events).workspaces["w"].files)


def test_a_rollback_gives_lines_back_to_whoever_wrote_them() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n2\n"})
    good = story.change("edit", {"a": "1\n2\n3\n"})
    story.change("edit", {"a": "gone\n"})
    back = story.change("rollback", {"a": "1\n2\n3\n"})
    assert story.writers("a") == [base, base, good]
    assert story.history("a")[-1] == back


def test_an_undo_gives_lines_back_to_whoever_wrote_them_and_keeps_later_work() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n2\n3\n", "gone": "x\n"})
    good = story.change("edit", {"a": "1\ntwo\n3\n"})
    bad = story.change("edit", {"a": "1\n3\n", "gone": None})
    later = story.change("edit", {"a": "1\n3\nfour\n"})
    undo = story.change("undo", {"a": "1\ntwo\n3\nfour\n", "gone": "x\n"}, cause=f"event-{bad}")
    assert story.writers("a") == [base, good, base, later]
    assert story.writers("gone") == [base]
    assert story.history("a") == [base, good, bad, later, undo]
    # Taking the undo back, and that once more.
    again = story.change("undo", {"a": "1\n3\nfour\n", "gone": None}, cause=f"event-{undo}")
    assert story.writers("a") == [base, base, later]
    story.change("undo", {"a": "1\ntwo\n3\nfour\n", "gone": "x\n"}, cause=f"event-{again}")
    assert story.writers("a") == [base, good, base, later]
    assert story.writers("gone") == [base]


def test_an_undo_finds_the_lines_of_a_file_that_was_renamed_since() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n2\n"})
    bad = story.change("edit", {"a": "1\n"})
    story.change("edit", {"a": None, "b": "1\n"})
    story.change("undo", {"b": "1\n2\n"}, cause=f"event-{bad}")
    assert story.writers("b") == [base, base]


def test_an_undo_that_names_no_change_of_the_file_has_its_lines_itself() -> None:
    story = Story()
    base = story.change("base", {"a": "1\n2\n"})
    story.change("edit", {"a": "1\n"})
    undo = story.change("undo", {"a": "1\n2\n"}, cause="nobody")
    assert story.writers("a") == [base, undo]


def test_a_fork_has_its_parents_lines_from_whoever_wrote_them_there() -> None:
    parent = Story()
    parent.change("base", {"a": "1\n2\n", "b": "x\n"})
    edit = parent.change("edit", {"a": "1\n2\n3\n"}, workspace="w-1", task="t-1")
    parent.change("merge", {"a": "1\n2\n3\n"}, task="t-1")
    begun = parent.change("edit", {"b": "x\ny\n"}, workspace="w-2", task="t-2")
    fork = Story(parent)
    base = fork.change("base", {"a": "1\n2\n", "b": "x\n"})
    fork.change("fork", {"a": "1\n2\n3\n"})
    fork.change("fork", {"b": "x\ny\n"}, workspace="w-2")
    merge = fork.change("merge", {"b": "x\ny\nz\n"}, task="t-2")
    own = fork.change("edit", {"a": "1\n2\n3\n4\n"})
    assert fork.writers("a") == [base, base, edit, own]
    assert fork.writers("b") == [base, begun, merge]


def test_what_a_fork_brings_that_its_parent_never_had_is_its_own() -> None:
    parent = Story()
    parent.change("base", {"a": "1\n"})
    fork = Story(parent)
    base = fork.change("base", {"a": "1\n"})
    change = fork.change("fork", {"a": "1\n2\n", "new": "3\n"})
    assert (fork.writers("a"), fork.writers("new")) == ([base, change], [change])


def test_the_decision_behind_a_change_is_the_nearest_among_its_causes() -> None:
    story = Story()
    first = story.decide()
    second = story.decide(cause=first)
    base = story.change("base", {"a": "1"})
    changed = story.change("edit", {"a": "2"}, cause=second)
    tracks = Tracks(story.events)
    assert tracks.decision_of(story.events[changed - 1].event) == second
    assert tracks.decision_of(story.events[base - 1].event) == ""


def test_causes_that_go_in_a_circle_or_nowhere_end() -> None:
    story = Story()
    seq = story.change("base", {"a": "1"}, cause="event-1")
    other = story.change("edit", {"a": "2"}, cause="nobody")
    tracks = Tracks(story.events)
    assert [tracks.decision_of(story.events[n - 1].event) for n in (seq, other)] == ["", ""]


LINES = st.lists(st.sampled_from([b"", b"a", b"b", b"c", b"@@ -1 +1 @@"]), max_size=12)


@given(LINES, LINES)
def test_what_stays_is_the_same_on_both_sides_and_in_order(old: list[bytes], new: list[bytes]) -> None:
    blocks = kept(old, new, lambda: pytest.fail("small files need no git"))
    old_at = new_at = 0
    for old_start, new_start, count in blocks:
        assert old_start >= old_at
        assert new_start >= new_at
        assert old[old_start : old_start + count] == new[new_start : new_start + count]
        old_at, new_at = old_start + count, new_start + count
    assert old_at <= len(old)
    assert new_at <= len(new)


@pytest.mark.parametrize(
    ("diff", "count", "blocks"),
    [
        (b"", 3, [(0, 0, 3)]),
        (b"@@ -2 +2 @@\n-b\n+c\n", 3, [(0, 0, 1), (2, 2, 1)]),
        (b"@@ -0,0 +1,2 @@\n+x\n+y\n", 2, [(0, 0, 0), (0, 2, 2)]),
        (b"@@ -3,2 +2,0 @@\n-x\n-y\n", 5, [(0, 0, 2), (4, 2, 1)]),
        (b"@@ -1,2 +0,0 @@\n-@@ -9 +9 @@\n-y\n", 3, [(0, 0, 0), (2, 0, 1)]),
    ],
)
def test_hunks_without_context_say_what_stayed(diff: bytes, count: int, blocks: list[tuple[int, int, int]]) -> None:
    assert from_hunks(diff, count) == blocks


def test_large_changes_are_compared_by_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blaming, "SMALL", 1)
    story = Story()
    base = story.change("base", {"a": "1\n2\n3\n4\n"})
    edit = story.change("edit", {"a": "1\nx\n3\ny\n"})
    diff: Callable[[str, str], bytes] = lambda old, new: b"@@ -2 +2 @@\n-2\n+x\n@@ -4 +4 @@\n-4\n+y\n"  # noqa: E731
    assert [one.seq for _, one in blame(story.version("a"), story.contents, diff)] == [base, edit, base, edit]


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", []), (b"\n", [b""]), (b"a", [b"a"]), (b"a\n", [b"a"]), (b"a\r\nb\n\n", [b"a\r", b"b", b""])],
)
def test_lines_are_what_git_calls_lines(content: bytes, lines: list[bytes]) -> None:
    assert split(content) == lines
