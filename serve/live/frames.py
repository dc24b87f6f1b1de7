"""Server-sent events as a client reads them. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Frame(NamedTuple):
    """One frame of a live stream; one without a document only moves the position."""

    seq: int
    document: dict[str, Any] | None
    kind: str
    """Empty for an event, ``end`` for the last of a play."""


def lines_of(pieces: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream that comes in pieces; one that does not end is left out.

    They end at newlines alone, as our server ends them: a text in an event may hold the other characters at which
    ``str.splitlines`` breaks (U+0085, U+2028, U+2029), and what follows one would be read as a frame of its own.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def parse_frames(lines: Iterator[str]) -> Iterator[Frame]:
    """The frames that have a sequence; the others are signs of life."""
    seq, data, kind = None, "", ""
    for line in lines:
        if line.startswith("id: "):
            seq = int(line[4:])
        elif line.startswith("data: "):
            data += line[6:]
        elif line.startswith("event: "):
            kind = line[7:]
        elif not line:
            if seq is not None:
                yield Frame(seq, json.loads(data) if data else None, kind)
            seq, data, kind = None, "", ""
