"""Finding the first word, the format and the rows of a statement."""

from __future__ import annotations

import pytest

from enchanted.cluster.store.sql import find_insert, output_format
from enchanted.schemas.sql_text import first_word, tokens


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("SELECT 1", "SELECT"),
        ("  -- SELECT\n/* INSERT */ insert into t", "INSERT"),
        ("# comment\nWITH 1 AS x SELECT x", "WITH"),
        ("(SELECT 1)", "("),
        ("", ""),
    ],
)
def test_the_first_word_is_found_past_comments(sql: str, word: str) -> None:
    assert first_word(sql.encode()) == word


@pytest.mark.parametrize(
    ("sql", "last"),
    [
        ("SELECT 'a\\' FORMAT CSV", "'a\\' FORMAT CSV"),
        ("SELECT \"a `b` 'c'", "\"a `b` 'c'"),
        ("SELECT `a -- b\n", "`a -- b\n"),
        ("SELECT 1 /* a * / 'b' ", "/* a * / 'b' "),
    ],
)
def test_what_is_opened_and_not_closed_is_one_token_to_the_end(sql: str, last: str) -> None:
    *_, token = tokens(sql.encode())

    assert (token.kind, token.text.decode(), token.end) == ("other", last, len(sql))


def test_a_tag_that_is_not_closed_is_a_sign_and_a_word() -> None:
    found = [(token.kind, token.text) for token in tokens(b"$a$ 'x' $a$ $b$ y $a$a$")]

    assert found[:2] == [("text", b"$a$ 'x' $a$"), ("other", b"$")]
    assert found[2:5] == [("word", b"b"), ("other", b"$"), ("word", b"y")]
    assert found[5:] == [("other", b"$"), ("word", b"a"), ("other", b"$"), ("word", b"a"), ("other", b"$")]


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT 1", None),
        ("SELECT 1\n FORMAT Native", "Native"),
        ("SELECT 1 format JSON;", "JSON"),
        ("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "CSV"),
        ("SELECT 1 SETTINGS max_threads = 1 FORMAT CSV", "CSV"),
        ("SELECT ' FORMAT JSON'", None),
        ("SELECT 1 -- FORMAT JSON", None),
        ("SELECT 1 FORMAT TSV -- as text", "TSV"),
        ("SELECT format FROM t", None),
        ("SELECT * FROM (SELECT 1 FORMAT JSON)", None),
    ],
)
def test_the_output_format_is_the_trailing_clause(sql: str, name: str | None) -> None:
    assert output_format(sql.encode()) == name


def test_rows_begin_after_the_line_break_and_may_be_binary() -> None:
    sql = b"INSERT INTO t (`a b`, c) FORMAT Native\n\x00\xff'--/*"

    insert = find_insert(sql)

    assert insert is not None
    assert insert.header == "INSERT INTO t (`a b`, c) "
    assert insert.format == "Native"
    assert sql[insert.data_start :] == b"\x00\xff'--/*"


def test_rows_may_follow_on_the_same_line() -> None:
    sql = b'INSERT INTO t FORMAT JSONEachRow {"a":1}'

    insert = find_insert(sql)

    assert insert is not None
    assert sql[insert.data_start :] == b'{"a":1}'


def test_settings_before_the_format_stay_in_the_header() -> None:
    insert = find_insert(b"INSERT INTO t SETTINGS async_insert=0 FORMAT CSV\r\n1")

    assert insert is not None
    assert insert.header == "INSERT INTO t SETTINGS async_insert=0 "
    assert insert.reading("x") == "INSERT INTO t  FROM INFILE 'x' SETTINGS async_insert=0  FORMAT CSV"
    assert insert.data_start == len(b"INSERT INTO t SETTINGS async_insert=0 FORMAT CSV\r\n")


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT 1 FORMAT Native",
        b"INSERT INTO t VALUES (1)",
        b"INSERT INTO t SELECT 1 AS x FROM u",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"",
    ],
)
def test_other_statements_have_no_separate_rows(sql: bytes) -> None:
    assert find_insert(sql) is None


def test_an_insert_from_input_says_where_to_put_the_rows() -> None:
    sql = b"INSERT INTO t SELECT a + 1 FROM input('a UInt64') FORMAT Protobuf\nxyz"

    insert = find_insert(sql)

    assert insert is not None
    assert insert.input_at is not None
    start, end = insert.input_at
    assert insert.header[start:end] == "input("
    assert insert.reading("x") == "INSERT INTO t SELECT a + 1 FROM file('x', 'Protobuf', 'a UInt64') "
    assert sql[insert.data_start :] == b"xyz"
