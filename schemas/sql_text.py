"""ClickHouse's SQL as text: its lexer, as far as anyone of ours needs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""(?P<skip>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<other>\d\w*|['"`].*|/\*.*|.)""",
    re.DOTALL | re.VERBOSE,
)
"""What is opened and not closed is one token to the end: to look for an end at each of its signs would take minutes."""
_TAG = re.compile(rb"(?=(\$\w*\$))")


def quoted(text: str) -> str:
    """A ClickHouse string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@dataclass(frozen=True, slots=True)
class Token:
    """A word, quoted text or sign outside comments, with its place and how many brackets enclose it."""

    kind: str
    text: bytes
    start: int
    end: int
    depth: int

    @property
    def word(self) -> bytes:
        """The word in capitals; empty for anything quoted."""
        return self.text.upper() if self.kind != "text" else b""


def tokens(sql: bytes) -> Iterator[Token]:
    """Everything but spaces and comments, lazily: what follows an INSERT's header may be binary."""
    depth = 0
    for kind, start, end in _places(sql):
        text = sql[start:end]
        depth -= text in (b")", b"]", b"}")
        yield Token(kind, text, start, end, depth)
        depth += text in (b"(", b"[", b"{")


def _places(sql: bytes) -> Iterator[tuple[str, int, int]]:
    at = 0
    last: dict[bytes, int] | None = None
    while match := _TOKEN.match(sql, at):
        kind, at = match.lastgroup or "other", match.end()
        if tag := _TAG.match(sql, match.start()) if match.group() == b"$" else None:
            if last is None:
                last = {one[1]: one.start() for one in _TAG.finditer(sql, match.start())}
            if last[tag[1]] >= tag.end(1):
                kind, at = "text", sql.index(tag[1], tag.end(1)) + len(tag[1])
        if kind != "skip":
            yield kind, match.start(), at


def first_word(sql: bytes) -> str:
    """The statement's first word in capitals, past comments; empty where there is none."""
    return next((token.word.decode("ascii", "replace") for token in tokens(sql)), "")
