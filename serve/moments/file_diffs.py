"""What two runs' files say otherwise: a bounded unified diff of each file, from a tree of one to one of the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from enchanted.actors.repository.tree_store import Change, TreeStore
from enchanted.schemas.events import StoredEvent
from enchanted.serve.moments.contents import Contents

Note = Literal["", "binary", "cut", "too large", "left out", "unavailable"]

LARGEST = 1 << 20
"""Bytes of a version that is read for a diff."""
MOST_BYTES = 16 << 20
"""Of all versions together."""
MOST_PER_FILE = 32 << 10
"""Bytes of one file's diff that are given."""
MOST_IN_ALL = 256 << 10
"""Bytes of all diffs together, about."""
_BINARY = re.compile(rb"^Binary files .* differ$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileDiff:
    """How one file differs."""

    text: str = ""
    """Lines of a unified diff; bytes that are not UTF-8 as `\\xNN`."""
    note: Note = ""
    """Why the text is not all there is; empty where it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A tree of a run, and the events that lead to it."""

    run: str
    events: Sequence[StoredEvent]
    tree: str
    """Empty for no files at all."""


async def file_diffs(contents: Contents, a: Side, b: Side, paths: Sequence[bytes]) -> dict[bytes, FileDiff]:
    """How each of these files differs between the two, in this order until it is enough.

    Raises:
        ContentUnavailable, ContentDelayed: a tree cannot be rebuilt.
    """
    first, second = (a, b) if a.tree else (b, a)
    beside = None
    if second.tree:
        async with contents.trees(second.run, second.events, [second.tree]) as other:
            beside = other.folder
    # What git has written stays, so the second lock is not taken under the first, where two requests could cross.
    async with contents.trees(first.run, first.events, [first.tree]) as repository:
        store = TreeStore(repository.folder, beside=beside)
        return await asyncio.to_thread(_diffs, store, (a.tree, b.tree), paths)


def _diffs(store: TreeStore, trees: tuple[str, str], paths: Sequence[bytes]) -> dict[bytes, FileDiff]:
    changes = {change.path: change for change in store.changes(*trees)}
    wanted = [changes[path] for path in paths if path in changes]
    notes = dict(_too_much(wanted, store.sizes([blob for one in wanted for blob in _blobs(one)])))
    sections = store.sections(*trees, [one.path for one in wanted if one.path not in notes])
    return {path: FileDiff(note=note) for path, note in notes.items()} | dict(_shown(sections, paths))


def _blobs(change: Change) -> Iterator[str]:
    yield from (blob for blob in (change.old_blob, change.new_blob) if blob)


def _too_much(changes: Sequence[Change], sizes: Mapping[str, int]) -> Iterator[tuple[bytes, Note]]:
    read = 0
    for change in changes:
        bytes_of = [sizes.get(blob, 0) for blob in _blobs(change)]
        if max(bytes_of, default=0) > LARGEST:
            yield change.path, "too large"
        elif read + sum(bytes_of) > MOST_BYTES:
            yield change.path, "left out"
        else:
            read += sum(bytes_of)


def _shown(sections: Mapping[bytes, bytes], paths: Sequence[bytes]) -> Iterator[tuple[bytes, FileDiff]]:
    left = MOST_IN_ALL
    for path in paths:
        section = sections.get(path)
        if section is None:
            continue
        if left <= 0:
            yield path, FileDiff(note="left out")
            continue
        found = _bounded(section)
        left -= len(found.text)
        yield path, found


def _bounded(section: bytes) -> FileDiff:
    # A diff's own lines begin with a space, a sign or a backslash: no file can say this.
    if _BINARY.search(section):
        return FileDiff(note="binary")
    whole = len(section) <= MOST_PER_FILE
    # Cut after a line; one that is longer than all that is given is cut in itself.
    end = len(section) if whole else section.rfind(b"\n", 0, MOST_PER_FILE) + 1 or MOST_PER_FILE
    return FileDiff(text=section[:end].decode("utf-8", "backslashreplace"), note="" if whole else "cut")
