"""A run's trees made again from its log alone: the base bundle, and the patches from there."""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from enchanted.actors.errors import BadPatch, CannotRebuild, GitFailed
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of
from enchanted.schemas.gen.events_pb2 import StateChange

FetchBlob = Callable[[str], Awaitable[bytes]]
"""SHA-256 -> the object, checked."""
Inflate = Callable[[SwarmEvent], Awaitable[SwarmEvent]]
"""An event -> the same with its moved-out fields."""
AT_ONCE = 500
"""Patches in one call of git."""
_OBJECT_ID = re.compile(r"[0-9a-f]{64}")


class Rebuilder:
    """Makes trees of one run in one folder; what is made stays, so that the next one begins from there."""

    def __init__(self, folder: Path, *, fetch: FetchBlob, inflate: Inflate, base_commit: str = "") -> None:
        self._folder = folder
        self._fetch = fetch
        self._inflate = inflate
        self._base_commit = base_commit
        self._known: set[str] = set()
        self._repository: ShadowRepository | None = None

    @property
    def repository(self) -> ShadowRepository:
        """The repository that holds the trees.

        Raises:
            CannotRebuild: nothing was made yet.
        """
        if self._repository is None:
            raise CannotRebuild("the run's events name no base bundle")
        return self._repository

    async def make(self, events: Sequence[StoredEvent], tree: str, *, stops: Sequence[int] = ()) -> None:
        """Make one tree that the run's events lead to.

        ``stops``: ascending sequences; the tree at each of them on the way is made too, so that it can be begun with.

        Raises:
            CannotRebuild: no event leads to it, or to another tree than it says.
            MissingContent: a bundle is damaged.
            BadPatch: a patch does not apply.
        """
        self._reopen()
        steps = changes_to(events, tree, self._known)
        if self._repository is not None and tree not in self._known:
            wanted = [tree, *(step.event.state_change.previous_state_hash for step in steps)]
            self._known |= await asyncio.to_thread(self._repository.store.has, wanted)
            steps = changes_to(events, tree, self._known)
        if steps and not _begins(steps[0].event.state_change, self._known):
            where = steps[0].event.state_change.previous_state_hash
            raise CannotRebuild(f"the events begin in the middle, at tree {where[:80]}")
        while steps and steps[0].event.state_change.content_sha256:
            await self._unbundle(steps.pop(0).event.state_change)
        for group in _groups(steps, stops):
            await self._apply(group)
        if tree not in self._known:
            raise CannotRebuild(f"no event leads to tree {tree[:80]}")

    def _reopen(self) -> None:
        """Take up what an earlier process has made; whatever is wrong with it is made anew."""
        if self._repository is None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                self._repository = ShadowRepository.open(self._folder)

    async def _unbundle(self, change: StateChange) -> None:
        bundle = await self._fetch(change.content_sha256)
        self._repository = await ShadowRepository.from_bundle(self._folder, bundle, base_commit=self._base_commit)
        self._made(change.new_state_hash, self._repository.base_tree)

    async def _apply(self, steps: Sequence[SwarmEvent]) -> None:
        """Take several steps at once, since a step alone costs three processes; one by one where that fails."""
        patches = [await self._patch(event) for event in steps]
        first, last = steps[0].state_change.previous_state_hash, steps[-1].state_change.new_state_hash
        if len(steps) > 1:
            with suppress(BadPatch, GitFailed):
                if await self.repository.apply(first, "".join(patches)) == last:
                    self._known.add(last)
                    return
        for event, patch in zip(steps, patches, strict=True):
            change = event.state_change
            self._made(change.new_state_hash, await self.repository.apply(change.previous_state_hash, patch))

    async def _patch(self, event: SwarmEvent) -> str:
        return (await self._inflate(event) if event.blobs else event).state_change.diff_patch

    def _made(self, wanted: str, made: str) -> None:
        if made != wanted:
            raise CannotRebuild(f"a change leads to tree {made}, its event says {wanted[:80]}")
        self._known.add(made)


def _groups(steps: Sequence[StoredEvent], stops: Sequence[int]) -> Iterator[list[SwarmEvent]]:
    """Steps that are taken at once: up to a stop, and not too many."""
    group: list[SwarmEvent] = []
    for number, step in enumerate(steps, start=1):
        group.append(step.event)
        last = number == len(steps)
        if last or len(group) == AT_ONCE or bisect_left(stops, step.seq) != bisect_left(stops, steps[number].seq):
            yield group
            group = []


def _begins(change: StateChange, known: set[str]) -> bool:
    return bool(change.content_sha256) or change.previous_state_hash in known


def changes_to(events: Sequence[StoredEvent], tree: str, known: set[str]) -> list[StoredEvent]:
    """The run's changes that lead to ``tree``, from its base or from a tree that is known."""
    made = {
        stored.event.state_change.new_state_hash: stored
        for stored in reversed(events)
        if kind_of(stored.event) == "state_change" and stored.event.state_change.target_type == "FILE_SYSTEM"
    }
    path: list[StoredEvent] = []
    while tree not in known and (change := made.pop(tree, None)) is not None:
        path.append(change)
        if change.event.state_change.content_sha256:
            break
        tree = change.event.state_change.previous_state_hash
    return path[::-1]


def is_object_id(text: str) -> bool:
    """Whether a text names a git object of the SHA-256 format."""
    return _OBJECT_ID.fullmatch(text) is not None
