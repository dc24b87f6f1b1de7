"""ClickHouse's SQL as text: its lexer, as far as anyone of ours needs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""(?P<skip>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<other>\d\w*|.)""",
    re.DOTALL | re.VERBOSE,
)


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
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or "other"
        if kind == "skip":
            continue
        if kind == "tag":
            kind = "text"
        text = match.group()
        depth -= text in (b")", b"]", b"}")
        yield Token(kind, text, match.start(), match.end(), depth)
        depth += text in (b"(", b"[", b"{")


def first_word(sql: bytes) -> str:
    """The statement's first word in capitals, past comments; empty where there is none."""
    return next((token.word.decode("ascii", "replace") for token in tokens(sql)), "")
