"""A run's trees out of its log alone, on the real git."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enchanted.actors.errors import ActorError, CannotRebuild
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.rebuild import Rebuilder
from enchanted.actors.repository.tree_store import EMPTY_TREE, TreeStore
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent, state_change

Tree = dict[str, tuple[str, bytes]]
PATHS = st.lists(st.sampled_from(["a", "b", "ü", " x ", os.fsdecode(b"\xff"), "d"]), min_size=1, max_size=2).map(
    "/".join
)
CONTENTS = st.sampled_from([b"", b"one\n", b"one\ntwo\n", b"one\r\ntwo", b"\x00\xff", b"caf\xe9\n"])
ENTRIES = st.tuples(st.sampled_from(["100644", "100755"]), CONTENTS) | st.tuples(st.just("120000"), st.just(b"a"))
TREES = st.dictionaries(PATHS, ENTRIES, max_size=5).map(
    lambda files: {p: e for p, e in files.items() if not any(p.startswith(o + "/") for o in files)}
)


class Written:
    """A log of changes, and the bundle it begins with."""

    def __init__(self, folder: Path, states: list[Tree]) -> None:
        store = TreeStore.create(folder / "repo.git")
        self.trees = [tree_of(store, files) for files in states]
        store.bundle(self.trees[0], folder / "base.bundle")
        self.bundle = (folder / "base.bundle").read_bytes()
        self.events = [self._base(store)]
        for old, new in zip(self.trees, self.trees[1:], strict=False):
            patch = store.diff(old, new)
            self._add(new_change(old, new, patch.text))

    def _base(self, store: TreeStore) -> StoredEvent:
        event = new_change(EMPTY_TREE, self.trees[0], "")
        event.state_change.content_sha256 = sha256_hex(self.bundle)
        return at(1, event)

    def _add(self, event: SwarmEvent) -> None:
        if event.state_change.previous_state_hash != event.state_change.new_state_hash:
            self.events.append(at(len(self.events) + 1, event))

    async def fetch(self, sha256: str) -> bytes:
        assert sha256 == sha256_hex(self.bundle)
        return self.bundle

    def rebuilder(self, folder: Path) -> Rebuilder:
        return Rebuilder(folder, fetch=self.fetch, inflate=as_it_is)


async def as_it_is(event: SwarmEvent) -> SwarmEvent:
    return event


def tree_of(store: TreeStore, files: Tree) -> str:
    if not files:
        return EMPTY_TREE
    made = store.writer.with_files("", {os.fsencode(path): entry for path, entry in files.items()})
    assert made is not None
    return made


def new_change(old: str, new: str, patch: str) -> SwarmEvent:
    return state_change(
        workspace_id="main", previous_tree=old, new_tree=new, patch=patch, files=[], reason="edit", resource=""
    )


def at(seq: int, event: SwarmEvent) -> StoredEvent:
    return StoredEvent(seq=seq, time=datetime.now(UTC), subject="s", raw=event.SerializeToString(), event=event)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(TREES, min_size=1, max_size=4))
async def test_any_tree_of_any_history_is_made_again_and_taken_up_by_a_later_process(states: list[Tree]) -> None:
    with tempfile.TemporaryDirectory() as place:
        written = Written(Path(place), states)
        first = written.rebuilder(Path(place) / "again.git")
        await first.make(written.events, written.trees[-1])
        later = written.rebuilder(Path(place) / "again.git")
        for number, tree in enumerate(written.trees):
            await later.make(written.events, tree)
            found = {os.fsdecode((one.path_hex and bytes.fromhex(one.path_hex)) or one.path.encode()): one.new_blob
                     for one in later.repository.store.files(tree)}  # fmt: skip
            assert found.keys() == states[number].keys()


async def test_events_that_begin_in_the_middle_need_the_tree_they_begin_with(tmp_path: Path) -> None:
    states: list[Tree] = [{"a": ("100644", b"%d\n" % number)} for number in range(6)]
    written = Written(tmp_path, states)
    with pytest.raises(CannotRebuild, match="begin in the middle"):
        await written.rebuilder(tmp_path / "new.git").make(written.events[3:], written.trees[5])
    whole = written.rebuilder(tmp_path / "known.git")
    await whole.make(written.events, written.trees[2])
    later = written.rebuilder(tmp_path / "known.git")
    await later.make(written.events[3:], written.trees[5])
    assert await later.repository.content(written.trees[5], "a") == b"5\n"


Spoil = Callable[[Written], None]


def another_tree(written: Written) -> None:
    written.events[4].event.state_change.new_state_hash = written.trees[4] = "f" * 64


def no_patch(written: Written) -> None:
    written.events[2].event.state_change.diff_patch = "garbage"


def no_bundle(written: Written) -> None:
    written.bundle = b"garbage"
    written.events[0].event.state_change.content_sha256 = sha256_hex(b"garbage")


@pytest.mark.parametrize("spoil", [another_tree, no_patch, no_bundle])
async def test_a_log_that_does_not_lead_where_it_says_is_refused(tmp_path: Path, spoil: Spoil) -> None:
    written = Written(tmp_path, [{"a": ("100644", b"%d\n" % number)} for number in range(5)])
    spoil(written)
    made: Awaitable[None] = written.rebuilder(tmp_path / "x.git").make(written.events, written.trees[4])
    with pytest.raises(ActorError):
        await made


async def test_half_a_repository_is_made_anew(tmp_path: Path) -> None:
    written = Written(tmp_path, [{"a": ("100644", b"1\n")}, {"a": ("100644", b"2\n")}])
    (tmp_path / "x.git").mkdir()
    (tmp_path / "x.git" / "base.json").write_text("{")
    await written.rebuilder(tmp_path / "x.git").make(written.events, written.trees[1])
    assert isinstance(ShadowRepository.open(tmp_path / "x.git"), ShadowRepository)
