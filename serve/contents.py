"""File contents and diffs of a run, from its base bundle and its patches, in a scratch repository that is kept."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from enchanted.actors.errors import ActorError
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of
from enchanted.serve.dependencies import Dependencies
from enchanted.serve.errors import ContentUnavailable

OPEN_REPOSITORIES = 64
REBUILD_DEADLINE = 120.0
"""Seconds one rebuild may take; what it did is kept, so that the next attempt goes on from there."""
OBJECT_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class _Scratch:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    repository: ShadowRepository | None = None
    trees: set[str] = field(default_factory=set)
    """Trees that are known to be there, whole."""


class Contents:
    """One scratch repository per run under the cache folder; git's objects are the cache."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._scratches: OrderedDict[str, _Scratch] = OrderedDict()

    async def blob(self, run: str, events: Sequence[StoredEvent], tree: str, blob: str) -> bytes:
        """The content of a git blob that ``tree`` holds.

        Raises:
            ContentUnavailable: the tree cannot be rebuilt.
        """
        if not OBJECT_ID.fullmatch(blob):
            raise ContentUnavailable(f"{blob[:80]!r} is no git blob id")
        async with self.with_trees(run, events, [tree]) as repository:
            return await asyncio.to_thread(repository.store.git.run, "cat-file", "blob", blob)

    async def diff(self, run: str, events: Sequence[StoredEvent], old: str, new: str) -> str:
        """A unified diff between two trees of the run; "" is the empty tree.

        Raises:
            ContentUnavailable: a tree cannot be rebuilt.
        """
        async with self.with_trees(run, events, [tree for tree in (old, new) if tree]) as repository:
            return (await repository.diff(old, new)).text

    @asynccontextmanager
    async def with_trees(
        self, run: str, events: Sequence[StoredEvent], trees: Sequence[str]
    ) -> AsyncIterator[ShadowRepository]:
        """A repository that holds these trees of the run, and nobody else's for as long as the block lasts.

        Raises:
            ContentUnavailable: a tree cannot be rebuilt.
        """
        scratch = self._scratch(run)
        try:
            async with asyncio.timeout(REBUILD_DEADLINE), scratch.lock:
                for tree in trees:
                    await self._build(scratch, run, events, tree)
                if scratch.repository is None:
                    raise ContentUnavailable("the run has no base")
                yield scratch.repository
        except TimeoutError as error:
            raise ContentUnavailable(f"rebuilding takes longer than {REBUILD_DEADLINE:g} s") from error
        except (ActorError, OSError) as error:
            # The cache may have been deleted under us: begin anew next time.
            self._scratches.pop(run, None)
            raise ContentUnavailable(str(error)) from error

    def _scratch(self, run: str) -> _Scratch:
        scratch = self._scratches.setdefault(run, _Scratch())
        self._scratches.move_to_end(run)
        while len(self._scratches) > OPEN_REPOSITORIES:
            self._scratches.popitem(last=False)
        return scratch

    async def _build(self, scratch: _Scratch, run: str, events: Sequence[StoredEvent], tree: str) -> None:
        """Apply the patches that lead from what is there to ``tree``."""
        if tree in scratch.trees:
            return
        steps = changes_to(events, tree, scratch.trees)
        for event in steps:
            change = event.state_change
            if change.content_sha256:
                scratch.repository = await self._based(run, change.content_sha256)
                made = scratch.repository.base_tree
            elif scratch.repository is None:
                raise ContentUnavailable("the events name no base bundle")
            else:
                patch = (
                    (await self._deps.bus.inflate(event)).state_change.diff_patch if event.blobs else change.diff_patch
                )
                made = await scratch.repository.apply(change.previous_state_hash, patch)
            if made != change.new_state_hash:
                raise ContentUnavailable(
                    f"event {event.event_id} leads to tree {made}, it says {change.new_state_hash}"
                )
            scratch.trees.add(made)
        if tree not in scratch.trees:
            raise ContentUnavailable(f"no event leads to tree {tree[:80]}")

    async def _based(self, run: str, bundle_sha256: str) -> ShadowRepository:
        folder = folder_of(self._deps.cache, run)
        return await ShadowRepository.from_bundle(folder, await self._deps.bus.blob(bundle_sha256))


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


def folder_of(cache: Path, run: str) -> Path:
    """Where a run's scratch repository is, for any run id."""
    return cache / f"{sha256_hex(run)[:32]}.git"
