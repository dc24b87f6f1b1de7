"""Edits by line and column."""

from __future__ import annotations

from enchanted.actors.tools.text_edits import Edit, apply_edits, line_ending, line_starts


def edit(line: int, column: int, end_line: int, end_column: int, content: str) -> Edit:
    return Edit(line=line, column=column, end_line=end_line, end_column=end_column, content=content)


def test_edits_apply_from_any_order() -> None:
    edits = [edit(2, 1, 2, 2, "B"), edit(1, 1, 1, 2, "A")]
    assert apply_edits("a1\nb2\n", edits) == "A1\nB2\n"


def test_columns_count_characters_not_bytes() -> None:
    assert apply_edits('x = "é" == None\n', [edit(1, 9, 1, 11, "is")]) == 'x = "é" is None\n'


def test_overlapping_edits_are_refused() -> None:
    assert apply_edits("abcdef", [edit(1, 1, 1, 4, ""), edit(1, 3, 1, 5, "")]) is None


def test_the_same_edit_twice_counts_once() -> None:
    removal = edit(1, 1, 2, 1, "")
    assert apply_edits("import os, sys\nx\n", [removal, removal]) == "x\n"


def test_an_edit_outside_of_the_text_is_refused() -> None:
    assert apply_edits("a\n", [edit(9, 1, 9, 2, "")]) is None
    assert apply_edits("a\n", [edit(1, 0, 1, 1, "")]) is None
    assert apply_edits("a\n", [edit(1, 2, 1, 1, "")]) is None


def test_only_real_line_ends_count() -> None:
    assert line_starts("a\x0cb\u2028c\r\nd\re\n") == [0, 7, 9, 11]


def test_the_first_line_ending_is_the_files() -> None:
    assert line_ending("a\r\nb\n") == "\r\n"
    assert line_ending("none") == "\n"
