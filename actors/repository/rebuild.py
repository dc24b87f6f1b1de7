"""A run's trees made again from its log alone: the base bundle, and the patches from there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from enchanted.actors.errors import CannotRebuild
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of

FetchBlob = Callable[[str], Awaitable[bytes]]
"""SHA-256 -> the object, checked."""
Inflate = Callable[[SwarmEvent], Awaitable[SwarmEvent]]
"""An event -> the same with its moved-out fields."""
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

    async def make(self, events: Sequence[StoredEvent], tree: str) -> None:
        """Make one tree that the run's events lead to.

        Raises:
            CannotRebuild: no event leads to it, or to another tree than it says.
            MissingContent: a bundle is damaged.
            BadPatch: a patch does not apply.
        """
        for event in changes_to(events, tree, self._known):
            made = await self._step(event)
            if made != event.state_change.new_state_hash:
                raise CannotRebuild(
                    f"event {event.event_id} leads to tree {made}, it says {event.state_change.new_state_hash[:80]}"
                )
            self._known.add(made)
        if tree not in self._known:
            raise CannotRebuild(f"no event leads to tree {tree[:80]}")

    async def _step(self, event: SwarmEvent) -> str:
        change = event.state_change
        if change.content_sha256:
            bundle = await self._fetch(change.content_sha256)
            self._repository = await ShadowRepository.from_bundle(self._folder, bundle, base_commit=self._base_commit)
            return self._repository.base_tree
        patch = (await self._inflate(event)).state_change.diff_patch if event.blobs else change.diff_patch
        return await self.repository.apply(change.previous_state_hash, patch)


def changes_to(events: Sequence[StoredEvent], tree: str, known: set[str]) -> list[SwarmEvent]:
    """The run's changes that lead to ``tree``, from its base or from a tree that is known."""
    made = {
        stored.event.state_change.new_state_hash: stored.event
        for stored in reversed(events)
        if kind_of(stored.event) == "state_change" and stored.event.state_change.target_type == "FILE_SYSTEM"
    }
    path: list[SwarmEvent] = []
    while tree not in known and (change := made.pop(tree, None)) is not None:
        path.append(change)
        if change.state_change.content_sha256:
            break
        tree = change.state_change.previous_state_hash
    return path[::-1]


def is_object_id(text: str) -> bool:
    """Whether a text names a git object of the SHA-256 format."""
    return _OBJECT_ID.fullmatch(text) is not None
