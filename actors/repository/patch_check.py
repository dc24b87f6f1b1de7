"""Each change of a run on its own: does its patch lead from the tree it begins at to the tree it names?

Unlike a `Rebuilder`, which only has to arrive, this looks at every tree on the way, and at what is there already too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from enchanted.actors.errors import CannotRebuild, TreeNotMade
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.rebuild import FetchBlob, Inflate
from enchanted.actors.repository.staged import Staged
from enchanted.actors.repository.tree_store import EMPTY_TREE
from enchanted.schemas.events import SwarmEvent
from enchanted.schemas.gen.events_pb2 import StateChange

_MADE = "made"


class PatchCheck:
    """Takes the changes of files of one run in stream order.

    Only trees that an earlier of them made count as made, though git has others too. ``folder`` and the file ``index``
    are nobody else's meanwhile; a folder that an earlier check saved is gone on from.
    """

    def __init__(self, folder: Path, index: Path, *, fetch: FetchBlob, inflate: Inflate) -> None:
        self.folder = folder
        self._index = index
        self._fetch = fetch
        self._inflate = inflate
        self._made = {EMPTY_TREE}
        self._repository: ShadowRepository | None = None
        self._staged = Staged(folder, index)
        self._reopen()

    def _reopen(self) -> None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._made.update((self.folder / _MADE).read_text().split())
            self._repository = ShadowRepository.open(self.folder)

    def save(self) -> None:
        """Let another check go on from here, in this folder or in a copy, which is of few files."""
        self.folder.mkdir(exist_ok=True)
        partial = self.folder / f"{_MADE}.partial"
        partial.write_text("\n".join(self._made))
        partial.replace(self.folder / _MADE)
        if self._repository is not None:
            self._repository.store.pack()

    def within(self, seconds: float) -> None:
        """Give each command that applies a patch from now on so long."""
        self._staged.within(seconds)

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
            self._repository = await ShadowRepository.from_bundle(self.folder, bundle)
            made = self._repository.base_tree
        else:
            whole = await self._inflate(event) if event.blobs else event
            made = await asyncio.to_thread(self._applied, whole.state_change)
        if made != change.new_state_hash:
            raise CannotRebuild(f"it leads to tree {made}, and says {change.new_state_hash[:80]!r}")
        self._made.add(made)

    def _applied(self, change: StateChange) -> str:
        tree = change.previous_state_hash or EMPTY_TREE
        if tree not in self._made:
            raise TreeNotMade(tree)
        return self._staged.apply(tree, change.diff_patch) if change.diff_patch.strip() else tree
