"""ClickHouse's SQL as text: its lexer, as far as anyone of ours needs it, and which functions reach beyond the tables.

The embedded store and the API judge statements with these, each before the statement leaves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

REACHING = re.compile(
    r"(file\w*|filesystem\w*|url\w*|s3\w*|remote\w*|cluster\w*|ai(?-i:[A-Z])\w*|dictGet\w*|dictHas\w*|dictIs\w*|joinGet\w*"
    r"|catboost\w*|naiveBayesClassifier\w*|evalMLMethod|region(?-i:[A-Z])\w*|eval|executable|input|python|sqlite|mysql|postgresql"
    r"|mongodb|redis|odbc|jdbc|hdfs\w*|azure\w*|merge|loop|view\w*|dictionary|getServerSetting|getMacro|hasColumnInTable"
    r"|reverseDNSQuery|generateSerialID|logTrace|addressTo\w*|showCertificate|zookeeper\w*)\Z",
    re.IGNORECASE,
)
"""Functions and table functions that read files, open sockets, read what is not a table of ours, or write a log."""
REACHING_BY_NAME = re.compile(
    r"(file|filesystem\w+|ai(?-i:[A-Z])\w*|dict(Get|Has|Is)\w*|joinGet\w*|catboost\w*|naiveBayesClassifier\w*|evalMLMethod"
    r"|region(?-i:[A-Z])\w*|getServerSetting|getMacro|hasColumnInTable|reverseDNSQuery|generateSerialID|logTrace|addressTo\w*"
    r"|showCertificate|zookeeper\w*)\Z",
    re.IGNORECASE,
)
"""Those that ClickHouse also takes without brackets, as an argument: ``arrayMap(file, ['/etc/passwd'])`` reads it."""

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
