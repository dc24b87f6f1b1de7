"""Three-way merges, one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from enchanted.actors.repository.gitstore import ShadowRepository


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Both sides are in this tree."""

    tree: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """Both sides changed the same lines, or one removed what the other changed."""

    paths: tuple[str, ...]
    text: str
    """What git says about each."""


class MergeQueue:
    """Merges trees of one shadow repository in the order they come."""

    def __init__(self, repository: ShadowRepository) -> None:
        self._store = repository.store
        self._turn = asyncio.Lock()

    async def merge(self, *, base: str, ours: str, theirs: str) -> Merged | Conflict:
        """The tree that holds what each side changed since ``base``; neither is ever written over the other."""
        async with self._turn:
            return await asyncio.to_thread(self._merge, base, ours, theirs)

    def _merge(self, base: str, ours: str, theirs: str) -> Merged | Conflict:
        if theirs in (base, ours):
            return Merged(tree=ours)
        if ours == base:
            return Merged(tree=theirs)
        root = self._store.commit(base)
        sides = [self._store.commit(tree, [root]) for tree in (ours, theirs)]
        command = ("merge-tree", "--write-tree", "-z", "--name-only", "--messages", *sides)
        status, output = self._store.git.result(*command, ok=(0, 1))
        tree, _, rest = output.partition(b"\0")
        if status == 0:
            return Merged(tree=tree.decode())
        names, _, messages = rest.partition(b"\0\0")
        paths = tuple(dict.fromkeys(name.decode("utf-8", "backslashreplace") for name in names.split(b"\0") if name))
        return Conflict(paths=paths, text=_messages(messages))


def _messages(records: bytes) -> str:
    """The last field of each record: count, that many paths, a short type, the message."""
    fields, lines = records.split(b"\0"), list[str]()
    while fields and fields[0].isdigit():
        count = int(fields[0])
        if len(fields) < count + 3:
            break
        lines.append(fields[count + 2].decode("utf-8", "replace").strip())
        fields = fields[count + 3 :]
    return "\n".join(lines)
