"""Findings out of ruff's output."""

from __future__ import annotations

from typing import Any

import orjson

from enchanted.actors.tools.lint import Fix, apply_fixes, parse
from enchanted.actors.tools.text_edits import Edit


def row(**changes: Any) -> dict[str, Any]:
    place = {"row": 1, "column": 8}
    edit = {"content": "", "location": {"row": 1, "column": 1}, "end_location": {"row": 2, "column": 1}}
    return {
        "code": "F401",
        "filename": "/workspace/pkg/a.py",
        "location": place,
        "end_location": place,
        "message": "`os` imported but unused",
        "fix": {"applicability": "safe", "message": "Remove it", "edits": [edit]},
        "cell": None,
        **changes,
    }


def output(*rows: dict[str, Any]) -> bytes:
    return b"\n".join(orjson.dumps(one) for one in rows)


def fix(line: int, end_line: int, content: str = "") -> Fix:
    edit = Edit(line=line, column=1, end_line=end_line, end_column=1, content=content)
    return Fix(message="", applicability="safe", edits=(edit,))


def test_a_finding_has_an_id_a_relative_path_and_its_fix() -> None:
    (finding,) = parse(output(row()))
    assert finding.id == "F401:pkg/a.py:1:8"
    assert finding.path == "pkg/a.py"
    assert finding.fix is not None
    assert finding.fix.applicability == "safe"


def test_ids_stay_unique_where_places_are_equal() -> None:
    found = parse(output(row(), row(message="another")))
    assert [one.id for one in found] == ["F401:pkg/a.py:1:8", "F401:pkg/a.py:1:8#2"]


def test_a_syntax_error_has_no_code_and_no_fix() -> None:
    (finding,) = parse(output(row(code=None, fix=None)))
    assert finding.code == "invalid-syntax"
    assert finding.fix is None


def test_fixes_inside_notebooks_are_not_offered() -> None:
    (finding,) = parse(output(row(cell=2)))
    assert finding.fix is None


def test_noise_and_cut_lines_are_skipped() -> None:
    assert len(parse(b'warning: x\n{"code"\n' + output(row()) + b'\n{"code": "F4')) == 1


def test_fixes_that_overlap_an_earlier_one_are_left_out() -> None:
    text = "import os\nimport sys\nx = 1\n"
    assert apply_fixes(text, [fix(1, 2), fix(1, 3, "import sys\n"), fix(2, 3)]) == ("x = 1\n", 2)


def test_fixes_that_together_break_the_syntax_are_left_out() -> None:
    text = "def f():\n    import os\n    import sys\n"
    fixed, count = apply_fixes(text, [fix(2, 3), fix(3, 4)])
    assert (fixed, count) == ("def f():\n    import sys\n", 1)
