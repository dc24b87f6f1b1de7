"""The tool box of one workspace: whatever a model asks for, the answer is a result, never an exception."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

import orjson

from enchanted.actors.errors import (
    ActorError,
    CommandNotRun,
    GitFailed,
    SandboxUnavailable,
    ToolRefused,
    UnsafePath,
)
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.tools import lint, mutations
from enchanted.actors.tools.confined_files import split_path
from enchanted.actors.tools.confinement import Limits, SandboxResult
from enchanted.actors.tools.file_tools import FileTools
from enchanted.actors.tools.results import ToolResult, cut
from enchanted.actors.tools.sandbox import Sandbox
from enchanted.actors.tools.sandbox_view import WORKSPACE
from enchanted.actors.tools.search_script import SEARCH
from enchanted.actors.tools.variables import SET_VARIABLE, BadVariable, Offers, require_offerable
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import ToolOutcome

_MAX_MATCHES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolLimits:
    """What one use of a tool may take and give."""

    output_chars: int = 20_000
    file_bytes: int = 4 << 20
    """Largest file that is read, searched or written."""
    listed_files: int = 2_000
    search_seconds: float = 10.0
    check: Limits = field(default_factory=lambda: Limits(seconds=600.0))
    """For `run_check` and `lint`."""


class ToolBox:
    """The tools of one workspace, used one at a time through `call`.

    Tools and their arguments:

    - ``list_files(under="")``: data ``files``
    - ``read_file(path, first=1, last=0)``: data ``lines``, ``first``, ``last``
    - ``search(pattern, regex=False, under="")``: data ``matches``, each ``[path, line, text]``
    - ``edit(path, search, replace)``: ``search`` must stand there exactly once
    - ``write_file(path, content)``, ``replace_lines(path, first, last, text)``
    - ``lint()``: data ``findings`` (`lint.Finding`)
    - ``apply_fix(fix_ids)``: ids of findings of the last lint; data ``applied``
    - ``run_check(command, plain=False)``: by ``sh -c``; what it writes is put back afterwards; ``plain``: without the
      variables that are set; data ``undone``
    - ``candidates(path, lines)``: data ``candidates`` (`mutations.Candidate`)
    - ``set_variable(name, value)``: for every later ``run_check`` here; only where ``offers`` has some, and only
      what it has
    """

    def __init__(
        self, workspace: Workspace, sandbox: Sandbox, limits: ToolLimits | None = None, offers: Offers | None = None
    ) -> None:
        self._workspace = workspace
        self._sandbox = sandbox
        self._limits = limits or ToolLimits()
        self._files = FileTools(workspace.path, max_bytes=self._limits.file_bytes)
        self._findings: dict[str, tuple[lint.Finding, str]] = {}
        self._offers = offers or {}
        self._variables: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._tools: dict[str, Callable[..., Awaitable[ToolResult]]] = {
            "list_files": self._list_files,
            "read_file": self._read_file,
            "search": self._search,
            "edit": self._edit,
            "write_file": self._write_file,
            "replace_lines": self._replace_lines,
            "lint": self._lint,
            "apply_fix": self._apply_fix,
            "run_check": self._run_check,
            "candidates": self._candidates,
        }
        if self._offers:
            self._tools[SET_VARIABLE] = self._set_variable
        workspace.track()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tool there is."""
        return tuple(self._tools)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Use a tool. DENIED: off limits, or nothing could be run; FAILED: it did not work; TIMED_OUT: stopped."""
        started = time.monotonic()
        async with self._turn:
            result = await self._answer(tool, arguments)
        return replace(
            result,
            output=cut(result.output, self._limits.output_chars),
            reason=cut(result.reason, 2_000),
            duration_ms=(time.monotonic() - started) * 1000,
        )

    async def _answer(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        method = self._tools.get(tool) if isinstance(tool, str) else None
        if method is None:
            return ToolResult(
                outcome="DENIED", reason=f"there is no tool {tool!r:.80}; there is {', '.join(self.names)}"
            )
        try:
            if problem := _misfit(method, arguments):
                return ToolResult(outcome="FAILED", reason=problem)
            return await method(**arguments)
        except (UnsafePath, SandboxUnavailable, CommandNotRun) as error:
            return ToolResult(outcome="DENIED", reason=str(error))
        except (ActorError, OSError) as error:
            return ToolResult(outcome="FAILED", reason=str(error))

    async def _list_files(self, under: str = "") -> ToolResult:
        files = await self._paths(under)
        shown = files[: self._limits.listed_files]
        more = f"\n[... {len(files) - len(shown)} more files ...]" if len(files) > len(shown) else ""
        return ToolResult(outcome="OK", output="\n".join(shown) + more, data={"files": tuple(shown)})

    async def _read_file(self, path: str, first: int = 1, last: int = 0) -> ToolResult:
        return await asyncio.to_thread(self._files.read_file, path, first, last)

    async def _search(self, pattern: str, regex: bool = False, under: str = "") -> ToolResult:
        ask = {
            "pattern": pattern,
            "regex": regex,
            "paths": await self._paths(under),
            "limit": _MAX_MATCHES,
            "max_bytes": self._limits.file_bytes,
        }
        argv = [sys.executable, "-I", "-S", "-c", SEARCH]
        limits = Limits(seconds=self._limits.search_seconds)
        result = await self._sandboxed(argv, limits, stdin=orjson.dumps(ask), writable=False)
        if result.exit_code != 0 or result.timed_out:
            return self._report(result)
        matches = [orjson.loads(line) for line in result.output.splitlines() if line.startswith(b"[")]
        output = "\n".join(f"{path}:{line}: {text}" for path, line, text in matches)
        return ToolResult(
            outcome="OK", output=output, sandboxed=self._sandbox.confined, data={"matches": tuple(matches)}
        )

    async def _edit(self, path: str, search: str, replace: str) -> ToolResult:
        return await self._change(path, self._files.edit, path, search, replace)

    async def _write_file(self, path: str, content: str) -> ToolResult:
        split_path(path)
        if not await asyncio.to_thread((self._workspace.path / path).exists) and await self._workspace.ignores(path):
            raise ToolRefused(f"{path} is ignored by .gitignore and would be lost; choose another name")
        return await self._change(path, self._files.write_file, path, content)

    async def _replace_lines(self, path: str, first: int, last: int, text: str) -> ToolResult:
        return await self._change(path, self._files.replace_lines, path, first, last, text)

    async def _change(self, path: str, change: Callable[..., ToolResult], *arguments: Any) -> ToolResult:
        result = await asyncio.to_thread(change, *arguments)
        self._workspace.mark("/".join(split_path(path)))
        return result

    async def _lint(self) -> ToolResult:
        limits = replace(self._limits.check, output_bytes=64 << 20)
        result = await self._sandboxed(lint.command(), limits, writable=False)
        report = self._report(result)
        if report.outcome != "OK":
            return report
        root = WORKSPACE if self._sandbox.confined else str(self._workspace.path)
        findings = lint.parse(result.output, root)
        digests = {path: await self._digest(path) for path in {finding.path for finding in findings}}
        self._findings = {finding.id: (finding, digests[finding.path]) for finding in findings}
        return ToolResult(
            outcome="OK",
            output="\n".join(map(str, findings)) or "no findings",
            exit_code=1 if findings else 0,
            sandboxed=self._sandbox.confined,
            data={"findings": findings},
        )

    async def _apply_fix(self, fix_ids: list[str]) -> ToolResult:
        chosen: dict[str, list[lint.Finding]] = {}
        for fix_id in fix_ids:
            finding, digest = self._findings.get(fix_id, (None, ""))
            if finding is None or finding.fix is None:
                raise ToolRefused(
                    f"no fix {fix_id!r:.100} in the last lint; lint again and give ids of findings with a fix"
                )
            if digest != await self._digest(finding.path):
                raise ToolRefused(f"{finding.path} has changed since the last lint; lint again")
            chosen.setdefault(finding.path, []).append(finding)
        applied = 0
        for path, findings in chosen.items():
            applied += await asyncio.to_thread(self._fix_file, path, findings)
            self._workspace.mark(path)
        outcome: ToolOutcome = "OK" if applied else "FAILED"
        reason = (
            "" if applied == len(fix_ids) else f"{len(fix_ids) - applied} fixes overlap others; lint again for them"
        )
        return ToolResult(outcome=outcome, output=f"applied {applied} fixes", reason=reason, data={"applied": applied})

    def _fix_file(self, path: str, findings: list[lint.Finding]) -> int:
        try:
            text = self._files.files.read(path).decode()
        except UnicodeDecodeError as error:
            raise ToolRefused(f"{path} is not UTF-8 text") from error
        fixed, count = lint.apply_fixes(text, [finding.fix for finding in findings if finding.fix])
        if count:
            self._files.files.write(path, fixed.encode(), create=False)
        return count

    async def _run_check(self, command: str, plain: bool = False) -> ToolResult:
        if "\0" in command:
            raise ToolRefused("a command has no NUL")
        try:
            result, undone = await self._checked(command, {} if plain else self._variables)
        except (GitFailed, OSError) as error:
            # Neither the files it would have seen nor those it left are known: no word about the check.
            raise CommandNotRun(str(error)) from error
        report = self._report(result)
        reason = "; ".join(filter(None, (report.reason, f"removed {', '.join(undone[:5])}" if undone else "")))
        return replace(report, reason=reason, data={"undone": tuple(undone)})

    async def _checked(self, command: str, variables: Mapping[str, str]) -> tuple[SandboxResult, list[str]]:
        before = await self._workspace.snapshot()
        try:
            result = await self._sandboxed(["sh", "-c", command], self._limits.check, variables=variables)
        finally:
            undone = await self._put_back(before)
        return result, undone

    async def _put_back(self, tree: str) -> list[str]:
        """A check observes: restore what it changed. Gives the `.git` folders it made."""
        self._workspace.mark_unknown()
        nested = await self._workspace.remove_nested_git()
        try:
            changed = await self._workspace.snapshot() != tree
        except ActorError:
            changed = True
        if changed:
            await self._workspace.reset(tree)
        return nested

    async def _candidates(self, path: str, lines: list[int]) -> ToolResult:
        source = await asyncio.to_thread(self._files.files.read, path)
        found = await asyncio.to_thread(mutations.candidates, path, source, frozenset(lines))
        output = "\n".join(f"{one.id}: {one.before.strip()} -> {one.after.strip()}" for one in found)
        return ToolResult(outcome="OK", output=output or "no candidates", data={"candidates": tuple(found)})

    async def _paths(self, under: str) -> list[str]:
        files = await self._workspace.files()
        if not under:
            return files
        prefix = "/".join(split_path(under.rstrip("/")))
        return [path for path in files if path == prefix or path.startswith(f"{prefix}/")]

    async def _digest(self, path: str) -> str:
        try:
            return sha256_hex(await asyncio.to_thread(self._files.files.read, path))
        except ActorError:
            return ""

    async def _set_variable(self, name: str, value: str) -> ToolResult:
        values = self._offers.get(name, ())
        if value not in values:
            what = f"{name!r:.100} with the values {', '.join(values)}" if values else ", ".join(self._offers)
            return ToolResult(outcome="DENIED", reason=f"{name!r:.100}={value!r:.100} is not on offer; there is {what}")
        try:
            # A log that somebody else wrote may offer what no operator here could.
            require_offerable({name: values})
        except BadVariable as error:
            return ToolResult(outcome="DENIED", reason=str(error))
        self._variables[name] = value
        return ToolResult(outcome="OK", output=f"{name}={value}")

    async def _sandboxed(
        self,
        argv: list[str],
        limits: Limits,
        *,
        stdin: bytes = b"",
        writable: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> SandboxResult:
        return await self._sandbox.run(
            argv, self._workspace.path, limits, stdin=stdin, writable=writable, variables=variables
        )

    def _report(self, result: SandboxResult) -> ToolResult:
        outcome: ToolOutcome = "OK" if result.exit_code == 0 else "FAILED"
        reason = "" if result.exit_code == 0 else f"exit status {result.exit_code}"
        if result.truncated:
            reason = "; ".join(
                filter(None, (reason, f"only the ends of the output are kept, {len(result.output)} bytes"))
            )
        if result.exceeded:
            outcome, reason = "FAILED", f"ended: over its limit of {result.exceeded}"
        if result.timed_out:
            outcome, reason = "TIMED_OUT", f"ended: still running after {result.duration_ms / 1000:.0f} s"
        return ToolResult(
            outcome=outcome,
            output=result.output.decode("utf-8", "replace"),
            exit_code=result.exit_code,
            reason=reason,
            sandboxed=self._sandbox.confined,
        )


def _misfit(method: Callable[..., Awaitable[ToolResult]], arguments: Mapping[str, Any]) -> str:
    """What is wrong with a model's arguments, or nothing."""
    try:
        bound = inspect.signature(method).bind(**arguments)
    except TypeError as error:
        return f"bad arguments: {error}"
    hints = get_type_hints(method)
    for name, value in bound.arguments.items():
        if not _fits(value, hints[name]):
            return f"bad arguments: {name} must be {getattr(hints[name], '__name__', hints[name])}"
    try:
        orjson.dumps(bound.arguments)
    except TypeError as error:
        return f"bad arguments: {error}"
    return ""


def _fits(value: object, kind: Any) -> bool:
    if kind == list[str] or kind == list[int]:
        inner = str if kind == list[str] else int
        return isinstance(value, list | tuple) and all(_fits(item, inner) for item in value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
