"""Which change wrote each line of a file: line differences over its recorded versions. Pure but for `git diff`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial

from enchanted.serve.moments.tracks import Version

Lines = Sequence[bytes]
Kept = list[tuple[int, int, int]]
"""(place in the old lines, place in the new lines, how many) of each run of lines that stayed."""
Differ = Callable[[str, str], bytes]
"""Two blobs -> `git diff -U0` of them."""

SMALL = 10_000
"""Products of line counts up to which difflib is quick whatever the lines are; above it git compares."""
_HUNK = re.compile(rb"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


def blame(version: Version, contents: Mapping[str, bytes], diff: Differ) -> list[tuple[bytes, Version]]:
    """Each line of a version with the one that wrote it; ``contents`` has every blob of ``version.origins()``."""
    written: dict[int, list[Version]] = {}
    lines = {blob: split(content) for blob, content in contents.items()}
    for one in version.origins():
        new = lines[one.blob] if one.blob else []
        writers = [one] * len(new)
        # A line the change found stays its writer's; of the rest, what came with a merge is the writer's there.
        for origin in (one.source, one.before):
            if origin is None or not origin.blob or not one.blob:
                continue
            for old_at, new_at, count in kept(lines[origin.blob], new, partial(diff, origin.blob, one.blob)):
                writers[new_at : new_at + count] = written[id(origin)][old_at : old_at + count]
        written[id(one)] = writers
    return list(zip(lines[version.blob], written[id(version)], strict=True))


def split(content: bytes) -> list[bytes]:
    """Lines as git counts them, without their line feed."""
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def kept(old: Lines, new: Lines, diff: Callable[[], bytes]) -> Kept:
    """The runs of lines that stayed."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    middle = (old[start : len(old) - end], new[start : len(new) - end])
    if len(middle[0]) * len(middle[1]) > SMALL:
        return from_hunks(diff(), len(old))
    blocks = SequenceMatcher(None, *middle, autojunk=False).get_matching_blocks()
    inner = [(block.a + start, block.b + start, block.size) for block in blocks]
    return [(0, 0, start), *inner, (len(old) - end, len(new) - end, end)]


def from_hunks(diff: bytes, count: int) -> Kept:
    """The same from a unified diff without context; ``count`` is the number of old lines."""
    found: Kept = []
    old_at = new_at = 0
    for hunk in _HUNK.finditer(diff):
        old_start, old_count, new_start, new_count = (int(number or b"1") for number in hunk.groups())
        # A side without lines is named by the line before it.
        old_start, new_start = old_start - bool(old_count), new_start - bool(new_count)
        found.append((old_at, new_at, old_start - old_at))
        old_at, new_at = old_start + old_count, new_start + new_count
    return [*found, (old_at, new_at, count - old_at)]
