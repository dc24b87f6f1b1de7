"""Program repair for any Python repository: which small change turns a failing check green?

Generate-and-validate over single mutations (after GenProg, Le Goues et al. 2012, without the genetic search): the
candidates are `mutations.candidates` of the modules a failing test reaches, each tried against the check itself.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from enchanted.actors.tools.mutations import Candidate
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.tools.toolbox import ToolBox

MAX_TRIALS = 80
MAX_SECONDS = 90.0
ENOUGH = 3
"""Repairs found, after which the search ends: the Coder chooses among them."""
_DEPTH = 3
_FAILED_TEST = re.compile(r"(^|/)(tests?/.*|test_[^/]*|[^/]*_test)\.py$")


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairBudget:
    """What a search may spend."""

    trials: int = MAX_TRIALS
    seconds: float = MAX_SECONDS


def files_of_failure(output: str, files: Iterable[str]) -> tuple[str, ...]:
    """The files of the repository that a check's output names, in order of path."""
    return tuple(sorted(path for path in files if path.endswith(".py") and path in output))


def is_test(path: str) -> bool:
    """By its name, the file is a test: a repair must not bend it."""
    return bool(_FAILED_TEST.search(path))


def imported_files(source: str, files: Sequence[str]) -> list[str]:
    """The repository's files that a module imports, as far as their names say so."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    endings = {PurePosixPath(*module.split(".")).as_posix() + ".py" for module in modules}
    return [path for path in files if path in endings or any(path.endswith("/" + ending) for ending in endings)]


async def suspects(tools: ToolBox, named: Sequence[str]) -> list[str]:
    """The modules a failing test reaches by its imports, nearest first; tests themselves are none."""
    files = list((await tools.call("list_files", {})).data.get("files", ()))
    found, ring = list[str](), list(named)
    for _ in range(_DEPTH):
        found += [path for path in ring if path not in found]
        reached: list[str] = []
        for path in ring:
            reached += imported_files((await tools.call("read_file", {"path": path})).output, files)
        ring = [path for path in dict.fromkeys(reached) if path not in found]
    return [path for path in found if not is_test(path) and path.endswith(".py")]


async def find_repairs(
    tools: ToolBox, command: str, named: Sequence[str], budget: RepairBudget | None = None
) -> ToolResult:
    """Try candidates one by one against ``command``; data ``repairs`` are those that made it pass.

    The workspace is as before when this returns.
    """
    budget = budget or RepairBudget()
    give_up = time.monotonic() + budget.seconds
    tried, repairs = 0, list[Candidate]()
    for path in await suspects(tools, named):
        for candidate in await _candidates(tools, path):
            if tried == budget.trials or len(repairs) == ENOUGH or time.monotonic() > give_up:
                break
            tried += 1
            if await _passes_with(tools, command, candidate):
                repairs.append(candidate)
    lines = [f"{one.path}:{one.line}: {one.before.strip()} -> {one.after.strip()}" for one in repairs]
    output = "\n".join([f"{tried} candidates tried, {len(repairs)} make {command!r} pass", *lines])
    return ToolResult(outcome="OK", output=output, data={"repairs": tuple(repairs), "tried": tried})


async def _candidates(tools: ToolBox, path: str) -> Sequence[Candidate]:
    lines = (await tools.call("read_file", {"path": path})).data.get("lines", 0)
    found: Sequence[Candidate] = (
        await tools.call("candidates", {"path": path, "lines": list(range(1, lines + 1))})
    ).data.get("candidates", ())
    return found


async def _passes_with(tools: ToolBox, command: str, candidate: Candidate) -> bool:
    place = {"path": candidate.path, "first": candidate.line}
    changed = await tools.call("replace_lines", {**place, "last": candidate.last_line, "text": candidate.after})
    if changed.outcome != "OK":
        return False
    # As the reviewer runs it: what passes only with variables set is no repair.
    result = await tools.call("run_check", {"command": command, "plain": True})
    last = candidate.line + candidate.after.rstrip("\n").count("\n")
    await tools.call("replace_lines", {**place, "last": last, "text": candidate.before})
    return result.outcome == "OK"
