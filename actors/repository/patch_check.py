"""Each change of a run on its own: does its patch lead from the tree it begins at to the tree it names?

Unlike a `Rebuilder`, which only has to arrive, this looks at every tree on the way, and at what is there already too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from enchanted.actors.errors import CannotRebuild, TreeNotMade
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.rebuild import FetchBlob, Inflate, is_object_id
from enchanted.actors.repository.staged import Staged
from enchanted.actors.repository.tree_store import EMPTY_TREE
from enchanted.schemas.events import SwarmEvent
from enchanted.schemas.gen.events_pb2 import StateChange


class PatchCheck:
    """Takes the changes of files of one run in stream order; ``folder`` keeps what was made for a later check.

    ``index``: a file that nobody else uses meanwhile.
    """

    def __init__(self, folder: Path, index: Path, *, fetch: FetchBlob, inflate: Inflate) -> None:
        self._folder = folder
        self._index = index
        self._fetch = fetch
        self._inflate = inflate
        self._made = {EMPTY_TREE}
        self._repository: ShadowRepository | None = None
        self._staged = Staged(folder, index)

    def reopen(self) -> None:
        """Go on from what an earlier check of this run made, where it is still there."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._repository = ShadowRepository.open(self._folder)

    @property
    def begun(self) -> bool:
        """There is something that a patch can be applied to."""
        return self._repository is not None

    async def check(self, event: SwarmEvent) -> None:
        """Make what one change leads to.

        Raises:
            CannotRebuild: that is not what it says.
            TreeNotMade: its beginning was not made.
            BadPatch: its patch does not apply there.
            MissingContent: its bundle is none.
        """
        change = event.state_change
        if change.content_sha256:
            bundle = await self._fetch(change.content_sha256)
            self._repository = await ShadowRepository.from_bundle(self._folder, bundle)
            made = self._repository.base_tree
        else:
            whole = await self._inflate(event) if event.blobs else event
            made = await asyncio.to_thread(self._applied, whole.state_change)
        if made != change.new_state_hash:
            raise CannotRebuild(f"it leads to tree {made}, and says {change.new_state_hash[:80]!r}")
        self._made.add(made)

    def _applied(self, change: StateChange) -> str:
        tree = change.previous_state_hash or EMPTY_TREE
        if tree not in self._made and not self._is_there(tree):
            raise TreeNotMade(tree)
        return self._staged.apply(tree, change.diff_patch) if change.diff_patch.strip() else tree

    def _is_there(self, tree: str) -> bool:
        return self._repository is not None and is_object_id(tree) and bool(self._repository.store.has([tree]))
