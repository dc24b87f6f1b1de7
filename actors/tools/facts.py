"""What is taken for a fact: what a linter and a check say when they really ran.

One that did not run says nothing of the files, so nothing is concluded from it: it is tried once more, and then whoever
asked cannot go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from enchanted.actors.errors import ToolNotRun
from enchanted.actors.tools import lint
from enchanted.actors.tools.results import ToolResult

TRIES = 2


class Bench(Protocol):
    """Where tools are used, and their use is recorded."""

    async def use(self, tool: str, arguments: Mapping[str, Any], *, parent: str = "") -> ToolResult:
        """Use a tool; whatever comes of it is a result."""


async def check(bench: Bench, command: str, *, parent: str = "", **options: bool) -> ToolResult:
    """How a check ended: well, badly, or at one of its limits.

    Raises:
        ToolNotRun: it was not run.
    """
    arguments = {"command": command, **options}
    return await _certain(
        bench, "run_check", arguments, f"run_check {command!r}", lambda result: result.outcome != "DENIED", parent
    )


async def findings(bench: Bench) -> tuple[lint.Finding, ...] | None:
    """What the linter finds; None where it refuses the repository's own configuration, which is no fault of ours.

    Raises:
        ToolNotRun: it did not get to the end.
    """
    result = await _certain(bench, "lint", {}, "lint", lambda result: result.outcome == "OK" or _is_refused(result))
    return None if _is_refused(result) else tuple(result.data.get("findings", ()))


def _is_refused(result: ToolResult) -> bool:
    return (result.outcome, result.exit_code) == ("FAILED", lint.REFUSED) and lint.REFUSAL in result.output


async def _certain(
    bench: Bench,
    tool: str,
    arguments: Mapping[str, Any],
    name: str,
    ran: Callable[[ToolResult], bool],
    parent: str = "",
) -> ToolResult:
    for _ in range(TRIES):
        result = await bench.use(tool, arguments, parent=parent)
        if ran(result):
            return result
    raise ToolNotRun(name, TRIES, result.reason)
