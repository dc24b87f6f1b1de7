"""What ruff reports, as values with ids, and the edits it offers."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from enchanted.actors.tools.sandbox_view import WORKSPACE
from enchanted.actors.tools.text_edits import Edit, apply_edits

_RUFF = Path(sys.prefix) / "bin" / "ruff"
REFUSED, REFUSAL = 2, "ruff failed"
"""Status and first words of ruff where a configuration is none that it takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """A change ruff offers for a finding."""

    message: str
    applicability: str
    """``safe`` keeps the code's meaning; ``unsafe`` may change it."""
    edits: tuple[Edit, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One problem in one place."""

    id: str
    """``CODE:path:line:column``, unique within one lint."""
    code: str
    path: str
    line: int
    column: int
    message: str
    fix: Fix | None

    def __str__(self) -> str:
        fix = f" [{self.fix.applicability} fix: {self.fix.message}]" if self.fix else ""
        return f"{self.path}:{self.line}:{self.column} {self.code} {self.message}{fix}"


def command() -> list[str]:
    """Lint the current folder by its own configuration; one JSON object a line, or what went wrong and its status."""
    ruff = str(_RUFF) if _RUFF.exists() else "ruff"
    script = f'"{ruff}" check --output-format json-lines --no-cache --no-fix --exit-zero . 2>"$errors"'
    # Without a sandbox several of these share one /tmp.
    end = 'status=$?; [ $status = 0 ] || cat "$errors"; rm -f "$errors"; exit $status'
    return ["sh", "-c", f"errors=/tmp/ruff-errors-$$; {script}; {end}"]


def parse(output: bytes, root: str = WORKSPACE) -> tuple[Finding, ...]:
    """The findings in ruff's output, in order of path and place; what is not a finding is skipped."""
    rows = []
    for line in output.splitlines():
        if not line.startswith(b"{"):
            continue
        try:
            rows.append(_finding(orjson.loads(line), root))
        except (ValueError, KeyError, TypeError):
            continue
    rows.sort(key=lambda row: (row.path, row.line, row.column, row.code))
    return tuple(_unique(rows))


def apply_fixes(text: str, fixes: Sequence[Fix]) -> tuple[str, int]:
    """The text after as many of the fixes as go together, in their order, and how many that were."""
    taken: list[Edit] = []
    done, result = 0, text
    for fix in fixes:
        tried = apply_edits(text, [*taken, *fix.edits])
        if tried is not None and (_parses(tried) or not _parses(text)):
            taken += fix.edits
            done, result = done + 1, tried
    return result, done


def _finding(row: dict[str, object], root: str) -> Finding:
    place, code = row["location"], str(row["code"] or "invalid-syntax")
    assert isinstance(place, dict)
    line, column = int(place["row"]), int(place["column"])
    path = str(row["filename"]).removeprefix(root.rstrip("/") + "/")
    fix = row["fix"]
    return Finding(
        id=f"{code}:{path}:{line}:{column}",
        code=code,
        path=path,
        line=line,
        column=column,
        message=str(row["message"]),
        # In a notebook lines count within a cell, so its fixes cannot be placed.
        fix=_fix(fix) if isinstance(fix, dict) and row.get("cell") is None else None,
    )


def _fix(fix: dict[str, object]) -> Fix | None:
    edits = fix["edits"]
    assert isinstance(edits, list)
    if fix["applicability"] not in ("safe", "unsafe"):
        return None
    return Fix(
        message=str(fix["message"] or "apply ruff's fix"),
        applicability=str(fix["applicability"]),
        edits=tuple(
            Edit(
                line=int(edit["location"]["row"]),
                column=int(edit["location"]["column"]),
                end_line=int(edit["end_location"]["row"]),
                end_column=int(edit["end_location"]["column"]),
                content=str(edit["content"] or ""),
            )
            for edit in edits
        ),
    )


def _unique(findings: Iterable[Finding]) -> Iterable[Finding]:
    seen: dict[str, int] = {}
    for finding in findings:
        seen[finding.id] = seen.get(finding.id, 0) + 1
        if seen[finding.id] == 1:
            yield finding
        else:
            yield Finding(
                id=f"{finding.id}#{seen[finding.id]}",
                code=finding.code,
                path=finding.path,
                line=finding.line,
                column=finding.column,
                message=finding.message,
                fix=finding.fix,
            )


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
