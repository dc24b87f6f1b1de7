"""Small changes of Python source that often repair it: the candidates of a program repair, for any repository."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

MAX_SOURCE = 256 << 10

_COMPARE: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">", ">=")),
    ast.LtE: ("<=", ("<", ">=", ">")),
    ast.Gt: (">", (">=", "<", "<=")),
    ast.GtE: (">=", (">", "<=", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: (r"is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, tuple[str, ...]]] = {
    ast.Add: (r"\+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.Mult: (r"\*", ("/", "//")),
    ast.Div: ("/", ("//", "*")),
    ast.FloorDiv: ("//", ("/",)),
}
_TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}

Span = tuple[int, int, str]
"""Start, end (in bytes) and replacement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Whole source lines and what they could be instead."""

    id: str
    """``line.number``, unique within one listing."""
    path: str
    line: int
    last_line: int
    before: str
    after: str


def candidates(path: str, source: bytes, lines: Collection[int], *, limit: int = 200) -> list[Candidate]:
    """Every candidate on ``lines`` (from 1), by line; each still parses. None for what is not Python source."""
    try:
        tree = ast.parse(source) if len(source) <= MAX_SOURCE else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None:
        return []
    text = _Text(source)
    found: dict[tuple[int, str], Candidate] = {}
    for spans in sorted(_mutations(tree, text), key=lambda spans: spans[0][:2]):
        first, last = text.line_of(spans[0][0]), text.line_of(spans[-1][1])
        changed = text.replace(spans)
        after = text.lines_of(changed, first, last)
        if not lines or first not in lines or (first, after) in found or not _parses(changed):
            continue
        before = text.lines_of(source, first, last)
        number = sum(1 for line, _ in found if line == first) + 1
        found[first, after] = Candidate(
            id=f"{first}.{number}", path=path, line=first, last_line=last, before=before, after=after
        )
        if len(found) >= limit:
            break
    return list(found.values())


class _Text:
    """Source bytes with the places ast reports: lines from 1, columns in bytes."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", source))]
        self._bare = re.sub(rb"#[^\r\n]*", lambda match: b" " * len(match[0]), source)

    def start(self, node: ast.expr) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr) -> bytes:
        return self.source[self.start(node) : self.end(node)]

    def line_of(self, offset: int) -> int:
        return sum(1 for start in self._starts if start <= offset)

    def between(self, left: ast.expr, right: ast.expr, token: str) -> tuple[int, int] | None:
        """Where the operator between two operands lies; comments are not looked at."""
        start, end = self.end(left), self.start(right)
        match = re.search(token.encode(), self._bare[start:end])
        return (start + match.start(), start + match.end()) if match else None

    def replace(self, spans: list[Span]) -> bytes:
        parts, place = [], 0
        for start, end, new in spans:
            parts += [self.source[place:start], new.encode()]
            place = end
        return b"".join([*parts, self.source[place:]])

    def lines_of(self, changed: bytes, first: int, last: int) -> str:
        """Lines ``first`` to ``last`` of the source, or what became of them in ``changed``."""
        begin = self._starts[first - 1]
        end = self._starts[last] if last < len(self._starts) else len(self.source)
        stop = len(changed) - (len(self.source) - end)
        return changed[begin:stop].decode("utf-8", "replace").rstrip("\r\n")


def _parses(source: bytes) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _mutations(tree: ast.Module, text: _Text) -> Iterator[list[Span]]:
    for node in ast.walk(tree):
        match node:
            case ast.Compare():
                yield from _compare(node, text)
            case ast.BoolOp():
                yield from _boolean(node, text)
            case ast.BinOp() | ast.AugAssign():
                yield from _arithmetic(node, text)
            case ast.Constant():
                yield from _constant(node, text)
            case ast.Call():
                yield from _call(node, text)
            case _:
                yield from _negation(node, text)


def _compare(node: ast.Compare, text: _Text) -> Iterator[list[Span]]:
    operands = [node.left, *node.comparators]
    for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
        token, swaps = _COMPARE[type(operator)]
        literal = any(isinstance(side, ast.Constant) and side.value is not None for side in (left, right))
        if literal and isinstance(operator, ast.Is | ast.IsNot):
            swaps = ("==" if isinstance(operator, ast.Is) else "!=", *swaps)
        if place := text.between(left, right, token):
            for swap in swaps:
                yield [(*place, swap)]


def _boolean(node: ast.BoolOp, text: _Text) -> Iterator[list[Span]]:
    token, swap = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    places = [text.between(a, b, rf"\b{token}\b") for a, b in zip(node.values, node.values[1:], strict=False)]
    if all(places):
        yield [(*place, swap) for place in places if place]


def _arithmetic(node: ast.BinOp | ast.AugAssign, text: _Text) -> Iterator[list[Span]]:
    left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
    if type(node.op) not in _ARITHMETIC or any(_is_text(side) for side in (left, right)):
        return
    token, swaps = _ARITHMETIC[type(node.op)]
    if place := text.between(left, right, token):
        for swap in swaps:
            yield [(*place, swap)]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _constant(node: ast.Constant, text: _Text) -> Iterator[list[Span]]:
    place = text.start(node), text.end(node)
    if isinstance(node.value, bool):
        yield [(*place, str(not node.value))]
    elif isinstance(node.value, int) and re.fullmatch(rb"\d{1,18}", text.of(node)):
        yield [(*place, str(node.value + 1))]
        if node.value > 0:
            yield [(*place, str(node.value - 1))]


def _call(node: ast.Call, text: _Text) -> Iterator[list[Span]]:
    if not isinstance(node.func, ast.Name):
        return
    if node.func.id in _TWINS:
        yield [(text.start(node.func), text.end(node.func), _TWINS[node.func.id])]
    if node.func.id == "range" and node.args and not isinstance(node.args[-1], ast.Constant | ast.Starred):
        stop = node.args[min(1, len(node.args) - 1)]
        for step in (" + 1", " - 1"):
            yield [(text.end(stop), text.end(stop), step)]


def _negation(node: ast.AST, text: _Text) -> Iterator[list[Span]]:
    match node:
        case ast.UnaryOp(op=ast.Not()):
            start = text.start(node)
            if found := re.match(rb"not\b\s*", text.of(node)):
                yield [(start, start + found.end(), "")]
        case ast.If() | ast.While() | ast.IfExp() | ast.Assert():
            yield from _negated(node.test, text)
        case ast.Return(value=ast.Compare() | ast.BoolOp() | ast.Call() as value):
            yield from _negated(value, text)


def _negated(test: ast.expr, text: _Text) -> Iterator[list[Span]]:
    start, end = text.start(test), text.end(test)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return
    if isinstance(test, ast.Compare | ast.BoolOp | ast.IfExp | ast.NamedExpr):
        yield [(start, start, "not ("), (end, end, ")")]
    else:
        yield [(start, start, "not ")]
