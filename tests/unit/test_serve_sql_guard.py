"""The signs of a statement and its printed tree, judged without an engine."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.schemas.errors import TreeNotUnderstood
from enchanted.schemas.sql_tree import parse_tree
from enchanted.serve.errors import SqlRefused
from enchanted.serve.guard.sql_guard import Statement, check_tree, read
from enchanted.serve.queries.query import MAX_QUERY

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


def test_the_longest_hostile_text_is_refused_at_once() -> None:
    shapes = [
        "'\\", '"\\', "`\\", "/* ", "'", "''\\", "/*/", "$a", "$", "# ", "#", "-- ", "--", "*/", "(", "\\", "$$$a$ $",
        "".join(f"${number}$ " for number in range(MAX_QUERY // 4)),
    ]  # fmt: skip
    begun = time.process_time()
    for shape in shapes:
        with pytest.raises(SqlRefused):
            read(("SELECT @ " + shape * (MAX_QUERY // len(shape)))[:MAX_QUERY])

    # Looking for the end of a quote at each of its signs took minutes.
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("name", ['"`a`"', '`"a"`', '"b.a"', "`a/b`", "`a b`", '"ä"', '"1"', '""', "``", "'a'"])
def test_a_name_in_with_is_plain(name: str) -> None:
    with pytest.raises(SqlRefused, match="a name in WITH"):
        read(f"WITH {name} AS (SELECT 1 AS a) SELECT * FROM a")


def test_with_gives_a_name_once() -> None:
    with pytest.raises(SqlRefused, match="one name to two"):
        read('WITH a AS (SELECT 1), "a" AS (SELECT 2) SELECT * FROM a')


@pytest.mark.parametrize("name", ["`a`", '"a"', "a"])
def test_a_name_in_with_may_have_one_pair_of_quotes(name: str) -> None:
    assert read(f"WITH {name} AS (SELECT 1 AS a) SELECT * FROM a").names == ("a",)


@pytest.mark.parametrize(
    "rest",
    [
        "SELECT 1 UNION ALL WITH b AS (SELECT 1) SELECT * FROM a", "SELECT 1 UNION WITH 1 AS b SELECT * FROM a",
        "SELECT 1 UNION DISTINCT (WITH b AS (SELECT 1) SELECT * FROM a)", "SELECT 1 EXCEPT WITH 1 AS b SELECT * FROM a",
        "SELECT (with b AS (SELECT 1) SELECT * FROM a)", "SELECT * FROM (/**/WITH 1 AS s SELECT * FROM a)",
    ],
)  # fmt: skip
def test_beside_a_subquery_in_with_no_select_has_a_with_of_its_own(rest: str) -> None:
    with pytest.raises(SqlRefused, match="at the beginning of a query"):
        read(f"WITH a AS (SELECT 1) {rest}")


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


LEADING = (
    f"{TOP}   ExpressionList (children 2)\n    WithElement (children 1)\n     Subquery (children 1)\n"
    "      SelectWithUnionQuery (children 1)\n       ExpressionList (children 2)\n"
)
BRANCH = (
    "        SelectQuery (children 1)\n         TablesInSelectQuery (children 1)\n"
    "          TablesInSelectQueryElement (children 1)\n           TableExpression (children 1)\n"
    "            TableIdentifier {}\n"
)
READ = f"{FROM}TableIdentifier a"


def test_its_own_name_is_read_only_in_later_selects_of_a_recursive_union() -> None:
    first, later = BRANCH.format("a") + BRANCH.format("events"), BRANCH.format("events") + BRANCH.format("a")
    recursive = Statement(text="", names=("a",), recursive=True)

    check_tree(LEADING + later + READ, recursive)
    plain = Statement(text="", names=("a",), recursive=False)
    for tree, statement in ((first, recursive), (BRANCH.format("a"), recursive), (later, plain)):
        with pytest.raises(SqlRefused, match="the table a is not one of"):
            check_tree(LEADING + tree + READ, statement)


def test_its_own_name_is_not_read_where_the_union_is_not_all_of_it() -> None:
    union = (
        "        SelectQuery (children 1)\n         TableExpression (children 1)\n          Subquery (children 1)\n"
        "           SelectWithUnionQuery (children 1)\n            ExpressionList (children 2)\n"
        "             SelectQuery (children 1)\n              TableIdentifier events\n"
        "             SelectQuery (children 1)\n              TableIdentifier a\n"
    )

    with pytest.raises(SqlRefused, match="the table a is not one of"):
        check_tree(LEADING + union + READ, Statement(text="", names=("a",), recursive=True))


ALIASED = "{}Subquery (alias {}) (children 1)\n{} SelectQuery (children 1)\n{}  TableIdentifier a\n"


@pytest.mark.parametrize(
    ("value", "outer"),
    [
        (ALIASED.format("    ", "s", "    ", "    "), ""),
        ("    Function lambda (alias s) (children 1)\n     Subquery (children 1)\n      TableIdentifier a\n", ""),
        ("    Function in (alias s) (children 1)\n     ExpressionList\n      Literal 1\n      Identifier a\n", ""),
        ("    Identifier t (alias s)\n", ALIASED.format("   ", "t", "   ", "   ")),
        ("", ALIASED.format("   ", "s", "   ", "   ")),
        ("", "   Function plus (alias s) (children 1)\n" + ALIASED.format("    ", "t", "    ", "    ")),
    ],
)
@pytest.mark.parametrize("mention", ["Identifier s", "Identifier s.a", "Function s"])
def test_no_alias_leads_from_a_subquery_in_with_to_its_own_name(value: str, outer: str, mention: str) -> None:
    statement = Statement(text="", names=("a",), recursive=False)

    def tree(word: str) -> str:
        element = f"        SelectQuery (children 1)\n         {word}\n"
        return LEADING + element + value + outer + READ

    check_tree(tree("Identifier run"), statement)
    with pytest.raises(SqlRefused, match="an alias of what reads it"):
        check_tree(tree(mention), statement)


def test_after_in_a_table_is_not_named_by_what_is_an_alias_too() -> None:
    check_tree(f"{TOP}{IN}Identifier events\n   Identifier run (alias event)", PLAIN)
    with pytest.raises(SqlRefused, match="after IN write"):
        check_tree(f"{TOP}{IN}Identifier events\n   Identifier secrets (alias events)", PLAIN)


def test_a_line_break_within_a_literal_is_no_line_of_the_tree() -> None:
    root = parse_tree("SelectQuery (children 2)\n Literal 'a\u2028 Set'\n Literal 'b\x85 Set'")

    assert [child.kind for child in root.children] == ["Literal", "Literal"]


@pytest.mark.parametrize("text", ["", "\n", "A\nB", "A\n  B", " A"])
def test_lines_that_are_no_tree_are_not_understood(text: str) -> None:
    with pytest.raises(TreeNotUnderstood):
        parse_tree(text)
