"""The signs of a statement and its printed tree, judged without an engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.schemas.errors import TreeNotUnderstood
from enchanted.schemas.sql_tree import parse_tree
from enchanted.serve.errors import SqlRefused
from enchanted.serve.guard.sql_guard import Statement, check_tree, read

TOP = "SelectWithUnionQuery (children 1)\n ExpressionList (children 1)\n  SelectQuery (children 2)\n"
FROM = (
    "   TablesInSelectQuery (children 1)\n    TablesInSelectQueryElement (children 1)\n"
    "     TableExpression (children 1)\n      "
)
IN = "   Function in (children 1)\n    ExpressionList (children 2)\n     Literal UInt64_1\n     "
PLAIN = Statement(text="", names=(), recursive=False)


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT 1;;\n", "SELECT 1"),
        ("SELECT/* a */1 -- b\n+ 2 # c\n ; -- d", "SELECT 1 + 2"),
        ("select 'it''s -- \\' no comment', \"a b\"", "select 'it''s -- \\' no comment', \"a b\""),
        ("SELECT format('{}', 1) AS `format`", "SELECT format('{}', 1) AS `format`"),
        ("SELECT 1e--1\n", "SELECT 1e"),
    ],
)
def test_what_is_sent_is_what_was_read_without_its_comments(sql: str, text: str) -> None:
    assert read(sql).text == text


@pytest.mark.parametrize(
    "sql",
    [
        "", " ", ";", "-- x", "EXPLAIN SELECT 1", "FROM events SELECT 1", "SELECT 1; SELECT 2", "SELECT 1 FORMAT CSV",
        "SELECT 1 SETTINGS a = 1", "SELECT 1 INTO OUTFILE 'x'", "SELECT 1 PARALLEL WITH SELECT 2", "SELECT $a$ x $a$",
        "SELECT x'41'", "SELECT ‘a’", "SELECT “a”", "SELECT 'a", "SELECT 1 // a", "SELECT {a:String}", "SELECT 1\0",
        "SELECT 1 /* a", "SELECT\u00a01", "SELECT `a\\nb`", 'SELECT "a(b"', "SELECT `a\nb`", "SELECT a$b", "SELECT @a",
        "SELECT 1 \\G", "SELECT 1\x0c",
    ],
)  # fmt: skip
def test_what_might_be_read_in_two_ways_is_refused(sql: str) -> None:
    with pytest.raises(SqlRefused):
        read(sql)


@given(st.text(max_size=200))
def test_no_text_makes_the_reading_fail_otherwise(text: str) -> None:
    for sql in (text, f"SELECT {text}"):
        try:
            found = read(sql)
        except (SqlRefused, UnicodeEncodeError):
            continue
        # It is read the same when it is read again: nothing of it was a comment for one and a sign for the other.
        assert read(found.text).text == found.text


@pytest.mark.parametrize("table", ["events", "events_list", "spans", "agent_hourly", "events (alias e)"])
def test_the_four_tables_may_be_read(table: str) -> None:
    check_tree(f"{TOP}{FROM}TableIdentifier {table}", PLAIN)


@pytest.mark.parametrize(
    "tree",
    [
        f"{TOP}{FROM}TableIdentifier schema_migrations",
        f"{TOP}{FROM}TableIdentifier system.tables",
        f"{TOP}{FROM}TableIdentifier enchanted.events",
        f"{TOP}{FROM}Function numbers (children 1)",
        f"{TOP}{IN}Identifier schema_migrations",
        f"{TOP}{IN}Function deltaLake (children 1)",
        f"{TOP}   Function file (children 1)",
        f"{TOP}   Function sleep (children 1)",
        f"{TOP}   Function __getScalar (children 1)",
        f"{TOP}   ColumnsApplyTransformer",
        f"{TOP}   Set",
        f"{TOP}   SomethingNew",
        f"{TOP}   WithElement (children 1)",
        "Explain EXPLAIN (children 1)\n SelectWithUnionQuery (children 1)",
        "SelectWithUnionQuery (children 2)\n ExpressionList (children 1)\n Identifier CSV",
        "ParallelWithQuery 2",
        "",
    ],
)
def test_whatever_else_is_refused(tree: str) -> None:
    with pytest.raises(SqlRefused):
        check_tree(tree, PLAIN)


def test_a_name_given_by_with_may_be_read_once_it_is_given() -> None:
    first = read("WITH a AS (SELECT * FROM events), b AS (SELECT * FROM a) SELECT * FROM b")
    assert (first.names, first.recursive) == (("a", "b"), False)
    element = (
        "    WithElement (children 1)\n     Subquery (children 1)\n      SelectWithUnionQuery (children 1)\n"
        "       ExpressionList (children 1)\n        SelectQuery (children 1)\n"
        "         TablesInSelectQuery (children 1)\n"
        "          TablesInSelectQueryElement (children 1)\n           TableExpression (children 1)\n"
        "            TableIdentifier {}\n"
    )

    def tree(inner: str, second: str, outer: str) -> str:
        elements = element.format(inner) + element.format(second)
        return f"{TOP}   ExpressionList (children 2)\n{elements}{FROM}TableIdentifier {outer}"

    check_tree(tree("events", "a", "b"), first)
    for refused in (("a", "events", "b"), ("events", "b", "a"), ("b", "events", "a"), ("events", "a", "c")):
        with pytest.raises(SqlRefused):
            check_tree(tree(*refused), first)


def test_a_line_break_within_a_literal_is_no_line_of_the_tree() -> None:
    root = parse_tree("SelectQuery (children 2)\n Literal 'a\u2028 Set'\n Literal 'b\x85 Set'")

    assert [child.kind for child in root.children] == ["Literal", "Literal"]


@pytest.mark.parametrize("text", ["", "\n", "A\nB", "A\n  B", " A"])
def test_lines_that_are_no_tree_are_not_understood(text: str) -> None:
    with pytest.raises(TreeNotUnderstood):
        parse_tree(text)
