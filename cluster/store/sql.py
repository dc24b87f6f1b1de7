"""A statement's FORMAT, and where the inline data of an INSERT begins."""

from __future__ import annotations

from dataclasses import dataclass

from enchanted.schemas.sql_text import Token, quoted, tokens

HEADER_LIMIT = 256 * 1024
"""Bytes within which an INSERT must say its format: the server's own max_query_size."""

_SELECTING = frozenset({b"SELECT", b"WITH", b"("})
_SPACES = b" \t\f"


@dataclass(frozen=True, kw_only=True, slots=True)
class Insert:
    """An INSERT whose rows follow it as inline data."""

    header: str
    """The statement without its FORMAT clause."""
    format: str
    data_start: int
    """Where the rows begin in the bytes that were given."""
    settings_at: int
    """Where its SETTINGS begin in the header; the header's end where it has none."""
    input_at: tuple[int, int] | None = None
    """Place of ``input(`` in the header of an INSERT ... SELECT ... FROM input(...)."""

    def reading(self, path: str) -> str:
        """The whole statement with its rows in a file."""
        source = quoted(path)
        if self.input_at is None:
            before, after = self.header[: self.settings_at], self.header[self.settings_at :]
            return f"{before} FROM INFILE {source} {after} FORMAT {self.format}"
        start, end = self.input_at
        return f"{self.header[:start]}file({source}, {quoted(self.format)}, {self.header[end:]}"


def output_format(sql: bytes) -> str | None:
    """The name in a trailing ``FORMAT name``, also where SETTINGS follow it."""
    if b"format" not in sql.lower():
        return None
    found: str | None = None
    outer = [token for token in tokens(sql) if token.depth == 0 and token.text != b";"]
    for index, token in enumerate(outer[:-1]):
        if token.word != b"FORMAT" or outer[index + 1].kind != "word":
            continue
        rest = outer[index + 2 :]
        if not rest or rest[0].word in (b"SETTINGS", b"INTO"):
            found = outer[index + 1].text.decode()
    return found


def find_insert(sql: bytes) -> Insert | None:
    """The parts of ``INSERT INTO t (...) FORMAT X <rows>``; None for any other statement.

    ``INSERT ... VALUES``, ``... SELECT`` without ``input()`` and ``... FROM INFILE`` are whole statements
    without a separate body, so they are not of this kind.
    """
    outer: list[Token] = []
    selecting, input_at, settings_at = False, None, -1
    for token in tokens(sql[:HEADER_LIMIT]):
        before = outer[-1] if outer else None
        if before and before.word == b"INPUT" and token.text == b"(" and selecting:
            input_at = (before.start, token.end)
        if token.depth and not (selecting and token.word == b"INPUT"):
            continue
        if not outer and token.word != b"INSERT":
            return None
        if not selecting and (token.word in (b"VALUES", b"INFILE") or token.text == b";"):
            return None
        if before and before.word == b"FORMAT" and token.kind == "word" and (input_at or not selecting):
            header = sql[: before.start].decode()
            return Insert(
                header=header,
                format=token.text.decode(),
                data_start=_data(sql, token),
                settings_at=len(sql[:settings_at].decode()) if settings_at >= 0 else len(header),
                input_at=input_at,
            )
        if token.word == b"SETTINGS" and len(outer) > 2:
            settings_at = token.start
        selecting = selecting or (len(outer) > 2 and token.word in _SELECTING - {b"("})
        outer.append(token)
    return None


def _data(sql: bytes, format_name: Token) -> int:
    # The server drops blanks after the format's name and at most one line break.
    at = format_name.end
    while at < len(sql) and sql[at] in _SPACES:
        at += 1
    if sql[at : at + 1] == b"\r":
        at += 1
    if sql[at : at + 1] == b"\n":
        at += 1
    return at
