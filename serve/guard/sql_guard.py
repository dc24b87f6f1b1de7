"""What `POST /sql` may run: one SELECT over four tables, judged before it leaves for ClickHouse and by its own parser.

First by its signs: nothing may be in the text that two lexers could read differently, and no clause that writes a file
or changes a setting. Then by the syntax tree that ClickHouse prints of exactly the text that will run (``EXPLAIN AST``:
one node a line, children one space further in). What is not known to be harmless is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from enchanted.schemas.errors import TreeNotUnderstood
from enchanted.schemas.sql_text import Token, tokens
from enchanted.schemas.sql_tree import Node, parse_tree, reach
from enchanted.serve.errors import SqlRefused

TABLES = ("events", "events_list", "spans", "agent_hourly")

_SIGNS = frozenset("()[],.:+-*/%=<>!?|^")
_CLAUSES = frozenset({b"INTO", b"OUTFILE", b"INFILE", b"SETTINGS", b"PARALLEL"})
_KINDS = frozenset(
    {
        "SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "Subquery", "WithElement",
        "ExpressionList", "Function", "Literal", "Identifier", "Asterisk", "QualifiedAsterisk",
        "TablesInSelectQuery", "TablesInSelectQueryElement", "TableExpression", "TableIdentifier", "TableJoin",
        "ArrayJoin", "SampleRatio", "OrderByElement", "InterpolateElement", "WindowDefinition", "WindowListElement",
        "ColumnsRegexpMatcher", "ColumnsListMatcher", "QualifiedColumnsRegexpMatcher", "QualifiedColumnsListMatcher",
        "ColumnsTransformerList", "ColumnsExceptTransformer", "ColumnsReplaceTransformer",
        "ColumnsReplaceTransformer::Replacement",
    }
)  # fmt: skip
"""Nodes that show all that is in them; APPLY, for one, does not show its function."""
_IN = re.compile(r"(global)?(not)?(null)?in(ignoreset)?\Z", re.IGNORECASE)
_IDLE = re.compile(r"(sleep\w*|__\w+)\Z", re.IGNORECASE)
"""Functions that only keep the store busy, or are its own."""
_SETS = (("Function", "tuple"), ("Function", "array"))
_MISPLACED = "WITH name AS (SELECT …) stands at the beginning of a query only"
_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
_JOINING = frozenset({b"UNION", b"INTERSECT", b"EXCEPT"})
_ALIAS = re.compile(r"\(alias ([^)]*)\)")
"""Of any node of a printed tree; a literal may look like one."""
_ODD_NAME = re.compile(rb"[\\()\x00-\x1f]")
"""What the tree would print in a way that can be mistaken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A text whose signs are harmless, without its comments."""

    text: str
    names: tuple[str, ...]
    """Of its subqueries in WITH, in order."""
    recursive: bool


def read(sql: str) -> Statement:
    """Judge the signs of a statement.

    Raises:
        SqlRefused: it is not one SELECT, or something in it might be read in two ways.
    """
    if not sql.isprintable() and any(ord(sign) < 32 and sign not in "\t\r\n" for sign in sql):
        raise SqlRefused("control characters are not allowed")
    data = sql.encode()
    found = list(tokens(data))
    while found and found[-1].text == b";":
        found.pop()
    if not found or found[0].word not in (b"SELECT", b"WITH", b"("):
        raise SqlRefused("a query begins with SELECT or WITH")
    for token, after in zip(found, [*found[1:], None], strict=True):
        _check_sign(token, after, data)
    names, recursive = _names(found)
    if names and _selects_with(found[1:]):
        # A name might be that of a table there: of a SELECT with its own WITH, or through its aliases.
        raise SqlRefused(_MISPLACED)
    return Statement(text=_without_comments(data, found), names=names, recursive=recursive)


def _check_sign(token: Token, after: Token | None, data: bytes) -> None:
    if token.text == b";":
        raise SqlRefused("one statement only")
    if token.word in _CLAUSES or (token.word == b"FORMAT" and (after is None or after.text != b"(")):
        raise SqlRefused(f"{token.word.decode()} is not allowed; quote it where it is a name")
    if token.kind == "text" and token.text[:1] == b"$":
        raise SqlRefused("write a text in single quotes")
    if token.kind == "text" and token.text[:1] != b"'" and _ODD_NAME.search(token.text):
        raise SqlRefused("a quoted name has no backslash, bracket or line break")
    if token.kind == "word" and after is not None and after.kind == "text" and after.start == token.end:
        raise SqlRefused("put a space before the quote")
    if token.kind == "other" and data[token.start : token.start + 2] in (b"//", b"/*"):
        raise SqlRefused("a comment begins with --, or ends with */")
    if token.kind == "other" and not token.text[:1].isdigit() and token.text.decode("latin-1") not in _SIGNS:
        sign = data[token.start :].decode("utf-8", "replace")[:1]
        raise SqlRefused(f"the sign {sign!r} is not allowed outside of quotes")


def _names(found: list[Token]) -> tuple[tuple[str, ...], bool]:
    """The names that a statement's leading WITH gives to subqueries."""
    if found[0].word != b"WITH" or len(found) < 2:
        return (), False
    names = []
    for token, then, last in zip(found, found[1:], found[2:], strict=False):
        if token.depth == 0 and token.word in (b"SELECT", b"FROM"):
            break
        if token.depth == 0 and then.word == b"AS" and last.text == b"(" and token.kind in ("word", "text"):
            names.append(_plain_name(token))
    if len(set(names)) < len(names):
        raise SqlRefused("WITH gives one name to two subqueries")
    return tuple(names), found[1].word == b"RECURSIVE"


def _plain_name(token: Token) -> str:
    text = token.text.decode()
    name = text[1:-1] if token.kind == "text" and text[0] in '`"' else text
    if not _NAME.match(name):
        raise SqlRefused("a name in WITH is made of the letters A to Z, digits and _")
    return name


def _selects_with(found: list[Token]) -> bool:
    """A SELECT begins with a WITH of its own; ORDER BY … WITH FILL and the like do not."""
    words = [b"", *(token.word for token in found)]
    for first, second, third in zip(words, words[1:], words[2:], strict=False):
        after_union = second in _JOINING or (first in _JOINING and second in (b"ALL", b"DISTINCT"))
        if third == b"WITH" and (second == b"(" or after_union):
            return True
    return False


def _without_comments(data: bytes, found: list[Token]) -> str:
    pieces, at = [], 0
    for token in found:
        between = data[at : token.start]
        pieces += [between if between.isspace() else b" " * bool(between), token.text]
        at = token.end
    return b"".join(pieces).decode().strip()


def check_tree(tree: str, statement: Statement) -> None:
    """Judge the printed syntax tree of ``statement.text``.

    Raises:
        SqlRefused: it reads something else than the tables, or has a part whose reach is not known.
    """
    try:
        root = parse_tree(tree)
    except TreeNotUnderstood as error:
        raise SqlRefused("its syntax tree is not understood") from error
    if root.kind != "SelectWithUnionQuery" or any(child.kind != "ExpressionList" for child in root.children):
        raise SqlRefused("a query is one SELECT")
    if found := reach(root):
        raise SqlRefused(f"{found} is not allowed")
    for node in root.walk():
        _check_node(node)
    aliases = frozenset(_ALIAS.findall(tree))
    named: list[Node] = []
    for branch in _branches(root.children[0]):
        # ClickHouse gives what stands in the leading WITH to each SELECT of a UNION.
        elements = _with_elements(branch)
        if len(elements) != len(statement.names):
            raise SqlRefused(_MISPLACED)
        for place, element in enumerate(elements):
            _check_element(element, statement, place, aliases)
        named += elements
    if sum(node.kind == "WithElement" for node in root.walk()) != len(named):
        raise SqlRefused(_MISPLACED)
    _check_tables(root, statement.names, aliases, besides=named)
    _check_circles(root, tree, statement.names)


def _check_node(node: Node) -> None:
    if node.kind not in _KINDS:
        raise SqlRefused(f"{node.kind} is not allowed")
    if node.kind == "Function" and _IDLE.match(node.name):
        raise SqlRefused(f"the function {node.name} is not allowed")


def _branches(node: Node) -> Iterator[Node]:
    """Each SELECT of a UNION, INTERSECT or EXCEPT."""
    for child in node.children:
        if child.kind == "SelectQuery":
            yield child
        else:
            yield from _branches(child)


def _with_elements(select: Node) -> list[Node]:
    """The subqueries that a SELECT's own WITH names."""
    return [node for part in select.children for node in part.children if node.kind == "WithElement"]


def _check_element(element: Node, statement: Statement, place: int, aliases: frozenset[str]) -> None:
    """Before it is defined, a name is that of a table; so is its own, but in the later SELECTs of a recursive UNION."""
    before, own = statement.names[:place], statement.names[: place + 1]
    later = _later_selects(element) if statement.recursive else []
    _check_tables(element, before, aliases, besides=later)
    for select in later:
        _check_tables(select, own, aliases)


def _later_selects(element: Node) -> list[Node]:
    """Those of a UNION that is all of an element, after its first."""
    node = element
    for kind in ("Subquery", "SelectWithUnionQuery", "ExpressionList"):
        if [child.kind for child in node.children] != [kind]:
            return []
        node = node.children[0]
    return [child for child in node.children[1:] if child.kind == "SelectQuery"]


def _check_circles(root: Node, tree: str, names: tuple[str, ...]) -> None:
    """No alias leads from a subquery in WITH back to its name, or a later one: there it is that of a table.

    In ``WITH secrets AS (SELECT s AS a) SELECT (SELECT a FROM secrets) AS s FROM secrets`` it is, wherever ``s`` is.
    """
    places = {name: place for place, name in enumerate(names)}
    latest = _latest_reads(root, tree, places) if names else {}
    for branch in _branches(root.children[0]):
        for place, element in enumerate(_with_elements(branch)):
            for word in {word for node in element.walk() for word in _words(node)}:
                if latest.get(word, -1) >= place:
                    raise SqlRefused(
                        f"{names[place]} in WITH has the word {word}, an alias of what reads it; rename it"
                    )


def _latest_reads(root: Node, tree: str, places: dict[str, int]) -> dict[str, int]:
    """The place of the last of the names in WITH that each alias leads to."""
    given = {id(node): _ALIAS.findall(line) for node, line in zip(root.walk(), _lines(tree), strict=True)}
    for node in root.walk():
        if node.kind == "TableExpression":
            # The alias of a table is no expression.
            given.update((id(child), []) for child in node.children)
    users: dict[str, set[str]] = {}
    readers: list[set[str]] = [set() for _ in places]
    waiting: list[tuple[Node, list[str]]] = [(root, [])]
    while waiting:
        node, around = waiting.pop()
        own = given[id(node)]
        for alias in own:
            users.setdefault(alias, set()).update(around)
        around = own or around
        for word in _words(node):
            users.setdefault(word, set()).update(around)
        if node.kind in ("TableIdentifier", "Identifier") and node.name in places:
            readers[places[node.name]].update(around)
        waiting += [(child, around) for child in node.children]
    latest: dict[str, int] = {}
    for place in reversed(range(len(readers))):
        found = list(readers[place])
        while found:
            alias = found.pop()
            if alias not in latest:
                latest[alias] = place
                found += users.get(alias, ())
    return latest


def _lines(tree: str) -> list[str]:
    return [line for line in tree.split("\n") if line]


def _words(node: Node) -> list[str]:
    """What in an expression may be an alias."""
    return node.name.split(".") if node.kind == "Identifier" else [node.name] if node.kind == "Function" else []


def _check_tables(
    top: Node, names: tuple[str, ...], aliases: frozenset[str], besides: list[Node] | None = None
) -> None:
    """Every table below ``top`` is one of ours, or one of ``names``."""
    waiting = [top]
    while waiting:
        node = waiting.pop()
        if any(node is one for one in besides or ()):
            continue
        waiting += node.children
        if node.kind == "TableIdentifier":
            _check_table(node.name, names)
        if node.kind == "Function" and _IN.match(node.name):
            for operand in node.children[0].children[1:] if node.children else ():
                _check_set(operand, names, aliases)


def _check_set(operand: Node, names: tuple[str, ...], aliases: frozenset[str]) -> None:
    """The right side of IN may be a table's name, or a table function."""
    if operand.kind == "Identifier":
        _check_table(operand.name, names)
        if operand.name in aliases:
            # ``WITH secrets AS events SELECT 1 IN events`` reads secrets.
            raise SqlRefused(f"after IN write (SELECT … FROM {operand.name}), since the name is an alias as well")
    elif operand.kind not in ("Literal", "Subquery") and (operand.kind, operand.name) not in _SETS:
        raise SqlRefused("after IN write values in brackets (square ones around a single call), or a SELECT")


def _check_table(name: str, names: tuple[str, ...]) -> None:
    if name not in TABLES and name not in names:
        raise SqlRefused(f"the table {name[:80]} is not one of {', '.join(TABLES)}")
