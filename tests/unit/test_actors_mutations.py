"""Candidates for program repair."""

from __future__ import annotations

import ast
import inspect

from enchanted.actors.tools import mutations
from enchanted.actors.tools.mutations import candidates


def afters(source: str, line: int = 1) -> set[str]:
    return {one.after.strip() for one in candidates("a.py", source.encode(), {line})}


def test_comparisons_swap_for_their_neighbours() -> None:
    assert {"x = a <= b", "x = a > b", "x = a >= b"} <= afters("x = a < b\n")
    assert "x = a not in b" in afters("x = a in b\n")
    assert "x = a in b" in afters("x = a not  in b\n")


def test_identity_with_a_literal_becomes_equality() -> None:
    assert "x = a == 'text'" in afters("x = a is 'text'\n")
    assert "x = a != 3" in afters("x = a is not 3\n")
    assert "x = a == None" not in afters("x = a is None\n")


def test_whole_numbers_move_by_one() -> None:
    assert {"x = y[2]", "x = y[0]"} <= afters("x = y[1]\n")
    assert afters("x = 0x10\n") == set()


def test_and_swaps_with_or_in_the_whole_expression() -> None:
    assert "x = a or b or c" in afters("x = a and b and c\n")


def test_truth_values_and_signs_flip() -> None:
    assert "x = False" in afters("x = True\n")
    assert "x = a - b" in afters("x = a + b\n")
    assert "x -= b" in afters("x += b\n")
    assert afters("x = 'a' + b\n") == set()


def test_a_missing_not_is_added_and_a_surplus_one_removed() -> None:
    assert "if not (a == b):" in afters("if a == b:\n    pass\n")
    assert "while not ready:" in afters("while ready:\n    pass\n")
    assert "x = a" in afters("x = not a\n")
    assert "x = (a)" in afters("x = not (a)\n")


def test_a_loop_may_be_one_short_or_one_long() -> None:
    assert {"for i in range(n + 1):", "for i in range(n - 1):"} <= afters("for i in range(n):\n    pass\n")


def test_operators_in_comments_and_strings_are_left_alone() -> None:
    source = "x = (a  # a < b\n     < b)\n"
    assert {one.after for one in candidates("a.py", source.encode(), {2})} >= {"     <= b)", "     > b)"}
    assert afters("x = 'a < b'\n") == set()


def test_only_the_lines_asked_for_are_changed_and_ids_are_unique() -> None:
    source = "a = 1\nb = 2\nc = 3\n"
    found = candidates("a.py", source.encode(), {2})
    assert {one.line for one in found} == {2}
    assert len({one.id for one in found}) == len(found)
    assert found[0].before == "b = 2"


def test_columns_behind_wide_characters_are_right() -> None:
    assert "x = 'ééé', a <= b" in afters("x = 'ééé', a < b\n")


def test_windows_line_ends_and_a_missing_last_one_survive() -> None:
    assert {one.after for one in candidates("a.py", b"y = 0\r\nx = 1", {2})} == {"x = 2", "x = 0"}


def test_what_is_not_python_has_no_candidates() -> None:
    for source in (b"def broken(:\n", b"\xff\xfe", b"x = 1\0", b"(" * 10_000, b"#" * (mutations.MAX_SOURCE + 1)):
        assert candidates("a.py", source, {1}) == []


def test_every_candidate_of_a_real_module_parses_in_its_place() -> None:
    source = inspect.getsource(mutations)
    lines = source.split("\n")
    found = candidates("mutations.py", source.encode(), range(1, len(lines) + 1), limit=60)
    assert len(found) == 60
    for one in found:
        assert "\n".join(lines[one.line - 1 : one.last_line]) == one.before
        ast.parse("\n".join([*lines[: one.line - 1], one.after, *lines[one.last_line :]]))
