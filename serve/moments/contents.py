"""File contents and diffs of a run, from its base bundle and its patches, in a scratch repository that is kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from enchanted.actors.errors import OF_THE_LOG, ActorError, CannotRebuild, GitFailed, MissingContent
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.rebuild import Rebuilder, is_object_id
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent
from enchanted.serve.errors import ContentDelayed, ContentUnavailable
from enchanted.serve.moments.seek import events_between
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.parameters import MAX_SEQ

OPEN_REPOSITORIES = 64
REBUILD_DEADLINE = 120.0
"""Seconds one rebuild may take; what it did is kept, so that the next attempt goes on from there."""


@dataclass(slots=True)
class _Scratch:
    rebuilder: Rebuilder
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Contents:
    """One scratch repository per run under the cache folder; git's objects are the cache.

    Wherever ``events`` are asked for, those since a checkpoint will do: the others are read when they are needed.
    """

    def __init__(self, deps: Dependencies, stops: Callable[[str], Sequence[int]] = lambda run: ()) -> None:
        """``stops`` names the sequences of a run that later events will be given from."""
        self._deps = deps
        self._stops = stops
        self._scratches: OrderedDict[str, _Scratch] = OrderedDict()

    async def blob(self, run: str, events: Sequence[StoredEvent], tree: str, blob: str) -> bytes:
        """The content of a git blob that ``tree`` holds.

        Raises:
            ContentUnavailable: the tree cannot be rebuilt, or has no such blob.
        """
        if not is_object_id(blob):
            raise ContentUnavailable(f"{blob[:80]!r} is no git blob id")
        async with self.trees(run, events, [tree]) as repository:
            return await asyncio.to_thread(_blob, repository.store.git, blob)

    async def diff(self, run: str, events: Sequence[StoredEvent], old: str, new: str) -> str:
        """A unified diff between two trees of the run; "" is the empty tree.

        Raises:
            ContentUnavailable: a tree cannot be rebuilt.
        """
        async with self.trees(run, events, [tree for tree in (old, new) if tree]) as repository:
            return (await repository.diff(old, new)).text

    @asynccontextmanager
    async def trees(
        self, run: str, events: Sequence[StoredEvent], trees: Sequence[str]
    ) -> AsyncIterator[ShadowRepository]:
        """The run's scratch repository with these trees in it; nobody else uses it meanwhile.

        Raises:
            ContentUnavailable: a tree cannot be rebuilt.
            ContentDelayed: it can, but not now.
        """
        scratch = self._scratch(run)
        try:
            async with asyncio.timeout(REBUILD_DEADLINE) as limit, scratch.lock:
                await self._make(scratch.rebuilder, run, events, trees)
                limit.reschedule(None)
                yield scratch.rebuilder.repository
        except TimeoutError as error:
            raise ContentDelayed(f"rebuilding takes longer than {REBUILD_DEADLINE:g} s") from error
        except (ActorError, OSError) as error:
            # The cache may have been deleted under us: begin anew next time.
            self._scratches.pop(run, None)
            wrong = ContentUnavailable if isinstance(error, OF_THE_LOG) else ContentDelayed
            raise wrong(str(error)) from error

    async def _make(self, rebuilder: Rebuilder, run: str, events: Sequence[StoredEvent], trees: Sequence[str]) -> None:
        try:
            for tree in trees:
                await rebuilder.make(events, tree, stops=self._stops(run))
        except CannotRebuild:
            # These began at a checkpoint whose tree was never made here.
            whole = await events_between(self._deps, run, 0, MAX_SEQ)
            for tree in trees:
                await rebuilder.make(whole, tree, stops=self._stops(run))

    def _scratch(self, run: str) -> _Scratch:
        if run not in self._scratches:
            bus = self._deps.bus
            folder = folder_of(self._deps.cache, run)
            self._scratches[run] = _Scratch(Rebuilder(folder, fetch=bus.blob, inflate=bus.inflate))
        self._scratches.move_to_end(run)
        while len(self._scratches) > OPEN_REPOSITORIES:
            self._scratches.popitem(last=False)
        return self._scratches[run]


def _blob(git: Git, blob: str) -> bytes:
    try:
        return git.run("cat-file", "blob", blob)
    except GitFailed as error:
        # An event may name what no tree has; of an object that cannot be read git says more.
        if error.why == f"fatal: git cat-file {blob}: bad file":
            raise MissingContent(f"file {blob}") from error
        raise


def folder_of(cache: Path, run: str) -> Path:
    """Where a run's scratch repository is, for any run id."""
    return cache / f"{sha256_hex(run)[:32]}.git"
