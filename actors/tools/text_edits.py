"""Edits of a source text, by line and column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Edit:
    """Replace what lies between two places; lines and columns count from 1, columns in characters."""

    line: int
    column: int
    end_line: int
    end_column: int
    content: str


def line_starts(text: str) -> list[int]:
    """The offset of each line. Only CR, LF and CRLF end a line, as in Python source."""
    return [0, *(match.end() for match in _LINE.finditer(text))]


def line_ending(text: str) -> str:
    """The line ending a text uses first."""
    match = _LINE.search(text)
    return match[0] if match else "\n"


def apply_edits(text: str, edits: Iterable[Edit]) -> str | None:
    """The text after all edits; None when two of them overlap or one lies outside. The same edit twice counts once."""
    starts = line_starts(text)
    spans = set()
    for edit in edits:
        span = _offset(starts, edit.line, edit.column), _offset(starts, edit.end_line, edit.end_column)
        if not 0 <= span[0] <= span[1] <= len(text):
            return None
        spans.add((*span, edit.content))
    parts, place = [], 0
    for start, end, content in sorted(spans):
        if start < place:
            return None
        parts += [text[place:start], content]
        place = end
    return "".join([*parts, text[place:]])


def _offset(starts: list[int], line: int, column: int) -> int:
    return starts[line - 1] + column - 1 if 1 <= line <= len(starts) and column >= 1 else -1
