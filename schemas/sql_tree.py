"""The syntax tree that ClickHouse prints of a statement (``EXPLAIN AST``), and what in it reaches beyond the tables.

One node a line, children one space further in, names unquoted. A line feed within a literal is printed escaped, so a
literal cannot pose as a node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from enchanted.schemas.errors import TreeNotUnderstood

_SCALARS = (
    r"file|filesystem\w+|ai(classify|embed|extract|filter|generate|redact|similarity|translate)\w*|dict(get|has|is)\w*"
    r"|joinGet\w*|catboost\w*|naiveBayesClassifier\w*|evalMLMethod|region(to\w+|in|hierarchy)|getServerSetting|getMacro"
    r"|getClientHTTPHeader|hasColumnInTable|reverseDNSQuery|generateSerialID|logTrace|addressTo\w*|showCertificate"
    r"|zookeeper\w*"
)
_REACHING_SCALARS = re.compile(rf"({_SCALARS})\Z", re.IGNORECASE)
"""Functions that read files, open sockets, read what is not a table of ours, or write a log."""
_REACHING = re.compile(
    rf"({_SCALARS}|file\w*|url\w*|s3\w*|remote\w*|cluster\w*|eval|executable|input|python|sqlite|mysql|postgresql|mongodb"
    r"|redis|odbc|jdbc|hdfs\w*|azure\w*|merge|loop|view\w*|dictionary)\Z",
    re.IGNORECASE,
)
"""Those, and table functions that do."""
_OF_VALUES = frozenset(
    {
        "and", "any", "anyLast", "concat", "count", "countIf", "empty", "endsWith", "equals", "greater",
        "greaterOrEquals", "if", "ilike", "in", "isNotNull", "isNull", "length", "less", "lessOrEquals", "like",
        "lower", "match", "max", "min", "not", "notEmpty", "notEquals", "notILike", "notIn", "notLike", "or",
        "position", "startsWith", "substring", "sum", "toString", "tuple", "uniq", "uniqExact", "upper",
    }
)  # fmt: skip
"""Functions that take no function. The others might: ``arrayMap(file, ['/etc/passwd'])`` reads it."""
_LINE = re.compile(r"(?P<indent> *)(?P<kind>\S+) ?(?P<rest>.*)\Z", re.DOTALL)


@dataclass(slots=True)
class Node:
    """A node of the tree."""

    kind: str
    name: str
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)


def parse_tree(text: str) -> Node:
    """The tree from its lines.

    Raises:
        TreeNotUnderstood: the lines are no tree.
    """
    top = Node("", "")
    path = [top]
    # By line feeds alone: other line breaks stand in literals as they are.
    for line in filter(None, text.split("\n")):
        match = _LINE.match(line)
        depth = len(match["indent"]) if match else len(path)
        if match is None or depth >= len(path):
            raise TreeNotUnderstood
        node = Node(match["kind"], match["rest"].split(" (", 1)[0])
        del path[depth + 1 :]
        path[-1].children.append(node)
        path.append(node)
    if len(top.children) != 1:
        raise TreeNotUnderstood
    return top.children[0]


def reach(root: Node) -> str:
    """What in a tree reaches a file, a socket or anything else that is no table, in words; empty where nothing does."""
    for node in root.walk():
        if found := _reach_of(node):
            return found
    return ""


def _reach_of(node: Node) -> str:
    if node.kind == "ColumnsApplyTransformer":
        # The tree does not say which function it applies.
        return "APPLY"
    if node.kind == "TableExpression" and (function := _first(node.children, "Function")):
        return f"the table function {function.name}"
    if node.kind != "Function":
        return ""
    if _REACHING.match(node.name):
        return f"the function {node.name}"
    if node.name not in _OF_VALUES:
        for arguments in node.children:
            for one in arguments.children:
                if one.kind == "Identifier" and _REACHING_SCALARS.match(one.name):
                    return f"the name {one.name} in {node.name}(), where it may stand for the function"
    return ""


def _first(nodes: list[Node], kind: str) -> Node | None:
    return next((node for node in nodes if node.kind == kind), None)
