"""The tool box as a model uses it, in a real workspace and a real sandbox."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.errors import GitFailed, ToolNotRun
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.testing import make_repository
from enchanted.actors.tools import facts, lint
from enchanted.actors.tools.confinement import Confinement, Limits, SandboxResult
from enchanted.actors.tools.repair import find_repairs
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.tools.sandbox import Sandbox
from enchanted.actors.tools.toolbox import ToolBox, ToolLimits

SOURCE = "import os\nimport sys\n\n\ndef smaller(a, b):\n    if a == None:\n        return b\n    return a > b\n"
FILES: dict[str, str | bytes] = {
    "pkg/core.py": SOURCE,
    "pkg/windows.txt": "one\r\ntwo\r\nthree\r\n",
    "binary": b"\0\1\2",
    "no-newline": "last",
    "check.py": "from pkg.core import smaller\n\nassert smaller(1, 2)\n",
    ".gitignore": "build/\n",
    "pyproject.toml": '[tool.ruff.lint]\nselect = ["E", "F", "I"]\n',
}


@pytest.fixture
async def workspace(tmp_path: Path) -> Workspace:
    make_repository(tmp_path / "user", FILES)
    shadow = await ShadowRepository.create(tmp_path / "home" / "repo.git", tmp_path / "user")
    return await Workspace.checkout(shadow, tmp_path / "home" / "work", shadow.base_tree)


@pytest.fixture
def tools(workspace: Workspace) -> ToolBox:
    return ToolBox(workspace, Sandbox(), ToolLimits(output_chars=4000, check=Limits(seconds=60)))


async def changed(workspace: Workspace) -> list[str]:
    tree = await workspace.snapshot()
    return [entry.path for entry in (await workspace.repository.diff(workspace.repository.base_tree, tree)).files]


async def test_files_are_listed_without_junk(tools: ToolBox, workspace: Workspace) -> None:
    (workspace.path / "build").mkdir()
    (workspace.path / "build" / "x").touch()
    result = await tools.call("list_files", {})
    assert set(result.data["files"]) == set(FILES)
    assert (await tools.call("list_files", {"under": "pkg/"})).output == "pkg/core.py\npkg/windows.txt"


async def test_lines_of_a_file_are_read(tools: ToolBox) -> None:
    result = await tools.call("read_file", {"path": "pkg/core.py", "first": 5, "last": 6})
    assert result.output == "def smaller(a, b):\n    if a == None:\n"
    assert result.data == {"lines": 8, "first": 5, "last": 6}
    assert (await tools.call("read_file", {"path": "no-newline"})).output == "last"
    assert (await tools.call("read_file", {"path": "binary"})).outcome == "FAILED"
    assert (await tools.call("read_file", {"path": "pkg/core.py", "first": 99})).outcome == "FAILED"


async def test_long_output_is_cut_in_the_middle(tools: ToolBox) -> None:
    await tools.call("write_file", {"path": "long", "content": "x\n" * 5000})
    result = await tools.call("read_file", {"path": "long"})
    assert len(result.output) < 4100
    assert "characters left out" in result.output


async def test_text_and_patterns_are_found(tools: ToolBox) -> None:
    result = await tools.call("search", {"pattern": "smaller("})
    assert set(result.output.splitlines()) == {
        "check.py:3: assert smaller(1, 2)",
        "pkg/core.py:5: def smaller(a, b):",
    }
    result = await tools.call("search", {"pattern": r"^import (os|re)$", "regex": True, "under": "pkg"})
    assert result.data["matches"] == (["pkg/core.py", 1, "import os"],)
    assert (await tools.call("search", {"pattern": "(", "regex": True})).outcome == "FAILED"


async def test_a_pattern_that_never_ends_is_stopped(workspace: Workspace) -> None:
    tools = ToolBox(workspace, Sandbox(), ToolLimits(search_seconds=1))
    await tools.call("write_file", {"path": "a", "content": "a" * 60 + "!"})
    assert (await tools.call("search", {"pattern": "(a+)+$", "regex": True})).outcome == "TIMED_OUT"


async def test_an_edit_replaces_the_one_place(tools: ToolBox, workspace: Workspace) -> None:
    result = await tools.call("edit", {"path": "pkg/core.py", "search": "a > b", "replace": "a < b"})
    assert result.outcome == "OK"
    assert await changed(workspace) == ["pkg/core.py"]
    assert "a < b" in (workspace.path / "pkg/core.py").read_text()


@pytest.mark.parametrize("search", ["not there", "import", ""])
async def test_an_edit_of_no_place_or_several_fails_and_changes_nothing(
    tools: ToolBox, workspace: Workspace, search: str
) -> None:
    result = await tools.call("edit", {"path": "pkg/core.py", "search": search, "replace": "x"})
    assert result.outcome == "FAILED"
    assert "exactly once" in result.reason
    assert await changed(workspace) == []


async def test_line_ends_of_a_file_are_kept(tools: ToolBox, workspace: Workspace) -> None:
    await tools.call("edit", {"path": "pkg/windows.txt", "search": "one\ntwo", "replace": "1\n2"})
    await tools.call("replace_lines", {"path": "pkg/windows.txt", "first": 3, "last": 3, "text": "3\n4"})
    assert (workspace.path / "pkg/windows.txt").read_bytes() == b"1\r\n2\r\n3\r\n4\r\n"


@pytest.mark.parametrize(
    ("first", "last", "text", "expected"),
    [
        (1, 1, "x", "x\nb\nc\n"),
        (2, 3, "", "a\n"),
        (1, 0, "x", "x\na\nb\nc\n"),
        (4, 3, "d", "a\nb\nc\nd\n"),
        (1, 3, "", ""),
    ],
)
async def test_lines_are_replaced_removed_and_inserted(
    tools: ToolBox, workspace: Workspace, first: int, last: int, text: str, expected: str
) -> None:
    await tools.call("write_file", {"path": "abc", "content": "a\nb\nc\n"})
    result = await tools.call("replace_lines", {"path": "abc", "first": first, "last": last, "text": text})
    assert result.outcome == "OK"
    assert (workspace.path / "abc").read_text() == expected


async def test_a_range_that_is_none_fails(tools: ToolBox) -> None:
    for first, last in ((0, 1), (1, 9), (3, 1), (9, 9)):
        arguments = {"path": "check.py", "first": first, "last": last, "text": "x"}
        assert (await tools.call("replace_lines", arguments)).outcome == "FAILED"


async def test_a_new_file_in_a_new_folder_is_state_but_an_ignored_one_is_refused(
    tools: ToolBox, workspace: Workspace
) -> None:
    assert (await tools.call("write_file", {"path": "new/one.py", "content": "x"})).outcome == "OK"
    assert await changed(workspace) == ["new/one.py"]
    for path in ("build/x", "a/__pycache__/b.pyc"):
        result = await tools.call("write_file", {"path": path, "content": "x"})
        assert (result.outcome, "ignored" in result.reason) == ("FAILED", True)


async def test_findings_have_ids_and_their_fixes_apply(tools: ToolBox, workspace: Workspace) -> None:
    result = await tools.call("lint", {})
    assert (result.outcome, result.exit_code, result.sandboxed) == ("OK", 1, True)
    fixable = [one.id for one in result.data["findings"] if one.fix and one.fix.applicability == "safe"]
    assert fixable == ["F401:pkg/core.py:1:8", "F401:pkg/core.py:2:8"]
    assert "[unsafe fix: Replace with `cond is None`]" in result.output
    result = await tools.call("apply_fix", {"fix_ids": fixable})
    assert (result.outcome, result.data["applied"]) == ("OK", 2)
    assert (workspace.path / "pkg/core.py").read_text().startswith("\n\ndef smaller")
    assert await changed(workspace) == ["pkg/core.py"]
    assert (await tools.call("apply_fix", {"fix_ids": fixable})).outcome == "FAILED"
    assert (await tools.call("apply_fix", {"fix_ids": ["made:up:1:1"]})).outcome == "FAILED"


async def test_lint_of_a_broken_configuration_says_what_is_wrong(tools: ToolBox) -> None:
    await tools.call("write_file", {"path": "pyproject.toml", "content": "[tool.ruff]\nno-such-setting = 1\n"})
    result = await tools.call("lint", {})
    assert result.outcome == "FAILED"
    assert "no-such-setting" in result.output
    assert await facts.findings(Direct(tools)) is None


class Direct:
    """Tools used without a record."""

    def __init__(self, tools: ToolBox) -> None:
        self._tools = tools

    async def use(self, tool: str, arguments: Mapping[str, Any], *, parent: str = "") -> ToolResult:
        return await self._tools.call(tool, arguments)


@pytest.mark.parametrize("unsafe", [False, True])
async def test_a_linter_that_is_killed_is_none_that_refuses_the_configuration(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, unsafe: bool
) -> None:
    (workspace.path / "ruff").write_text("#!/bin/sh\necho ruff failed >&2; kill -9 $$\n")
    (workspace.path / "ruff").chmod(0o755)
    monkeypatch.setattr(lint, "_RUFF", workspace.path / "ruff")
    command = [part.replace(str(workspace.path), ".") for part in lint.command()]
    monkeypatch.setattr(lint, "command", lambda: command)
    tools = ToolBox(workspace, Sandbox(unsafe=unsafe))
    with pytest.raises(ToolNotRun, match=r"^lint did not run, in 2 tries \(exit status 137\)"):
        await facts.findings(Direct(tools))


@pytest.mark.parametrize("tool", ["run_check", "lint"])
async def test_where_the_machine_starts_no_process_the_tool_says_that_nothing_was_run(
    tools: ToolBox, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    def refused(*_: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(Confinement, "_spawn", refused)
    result = await tools.call(tool, {"command": "true"} if tool == "run_check" else {})
    assert result.outcome == "DENIED"
    assert "was not run ([Errno 11] Resource temporarily unavailable); free memory" in result.reason


async def test_a_check_says_nothing_where_the_files_cannot_be_put_back(
    tools: ToolBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise GitFailed(("write-tree",), "No space left on device")

    monkeypatch.setattr(Workspace, "_remove_nested_git", full)
    result = await tools.call("run_check", {"command": "true"})
    assert (result.outcome, "No space left on device" in result.reason) == ("DENIED", True)


async def test_a_file_that_does_not_parse_is_a_finding(tools: ToolBox) -> None:
    await tools.call("write_file", {"path": "broken.py", "content": "def f(:\n"})
    result = await tools.call("lint", {})
    assert "invalid-syntax" in {one.code for one in result.data["findings"] if one.path == "broken.py"}


async def test_a_check_reports_its_status_and_output(tools: ToolBox) -> None:
    result = await tools.call("run_check", {"command": "python check.py"})
    assert (result.outcome, result.exit_code, result.sandboxed) == ("FAILED", 1, True)
    assert "AssertionError" in result.output
    await tools.call("edit", {"path": "pkg/core.py", "search": "a > b", "replace": "a < b"})
    assert (await tools.call("run_check", {"command": "python check.py"})).outcome == "OK"


async def test_what_a_check_writes_is_put_back_and_what_was_edited_stays(tools: ToolBox, workspace: Workspace) -> None:
    await tools.call("edit", {"path": "pkg/core.py", "search": "a > b", "replace": "a < b"})
    command = "rm check.py; echo x > pkg/core.py; echo x > made; git init -q sub; chmod 000 pkg"
    result = await tools.call("run_check", {"command": command})
    assert result.data["undone"] == ("sub/.git",)
    assert await changed(workspace) == ["pkg/core.py"]
    assert "a < b" in (workspace.path / "pkg/core.py").read_text()


async def test_candidates_are_listed_and_one_of_them_repairs(tools: ToolBox) -> None:
    result = await tools.call("candidates", {"path": "pkg/core.py", "lines": [8]})
    good = next(one for one in result.data["candidates"] if one.after.strip() == "return a < b")
    arguments = {"path": good.path, "first": good.line, "last": good.last_line, "text": good.after}
    assert (await tools.call("replace_lines", arguments)).outcome == "OK"
    assert (await tools.call("run_check", {"command": "python check.py"})).outcome == "OK"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("read_file", {}),
        ("read_file", {"path": 5}),
        ("read_file", {"path": "check.py", "first": True}),
        ("read_file", {"path": "check.py", "surplus": 1}),
        ("read_file", {"path": "none"}),
        ("write_file", {"path": "a", "content": None}),
        ("write_file", {"path": "a", "content": "\ud800"}),
        ("write_file", {"path": "a", "content": "x" * (5 << 20)}),
        ("write_file", {"path": "check.py/below", "content": "x"}),
        ("search", {"pattern": "\ud800"}),
        ("apply_fix", {"fix_ids": "F401"}),
        ("apply_fix", {"fix_ids": [1]}),
        ("candidates", {"path": "pkg/core.py", "lines": ["8"]}),
        ("run_check", {"command": "a\0b"}),
        ("run_check", {"command": "\ud800"}),
        ("__class__", {}),
        ("run", {"argv": ["true"]}),
    ],
)
async def test_whatever_the_arguments_the_answer_is_a_result(
    tools: ToolBox, workspace: Workspace, tool: str, arguments: dict[str, Any]
) -> None:
    result = await tools.call(tool, arguments)
    assert result.outcome in ("FAILED", "DENIED")
    assert result.reason
    assert await changed(workspace) == []


async def test_without_a_sandbox_results_say_so(workspace: Workspace) -> None:
    tools = ToolBox(workspace, Sandbox(unsafe=True))
    assert not (await tools.call("run_check", {"command": "true"})).sandboxed
    result = await tools.call("lint", {})
    assert not result.sandboxed
    assert {one.path for one in result.data["findings"]} == {"pkg/core.py"}


OFFERS = {"LEVEL": ("debug", "a $(id) 'b'"), "OTHER": ("1",)}
SHOWN = 'printf "%s|%s" "${LEVEL-none}" "${OTHER-none}"'


@pytest.mark.parametrize("unsafe", [False, True])
async def test_a_variable_that_is_set_is_seen_by_every_later_check_word_for_word(
    workspace: Workspace, unsafe: bool
) -> None:
    tools = ToolBox(workspace, Sandbox(unsafe=unsafe), offers=OFFERS)
    seen = [(await tools.call("run_check", {"command": SHOWN})).output]
    for name, value in (("LEVEL", "debug"), ("OTHER", "1"), ("LEVEL", "a $(id) 'b'")):
        result = await tools.call("set_variable", {"name": name, "value": value})
        assert (result.outcome, result.output) == ("OK", f"{name}={value}")
        seen.append((await tools.call("run_check", {"command": SHOWN})).output)
    assert seen == ["none|none", "debug|none", "debug|1", "a $(id) 'b'|1"]
    assert (await tools.call("lint", {})).outcome == "OK"
    assert await changed(workspace) == []


async def test_a_plain_check_the_search_for_repairs_and_the_linter_see_no_variable(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = ToolBox(workspace, Sandbox(), offers=OFFERS)
    await tools.call("set_variable", {"name": "LEVEL", "value": "debug"})
    assert (await tools.call("run_check", {"command": SHOWN, "plain": True})).output == "none|none"
    assert (await tools.call("run_check", {"command": SHOWN})).output == "debug|none"
    found = await find_repairs(tools, 'test "$LEVEL" = debug', ["check.py"])
    assert (found.data["tried"] > 5, found.data["repairs"]) == (True, ())
    seen: list[object] = []
    run = Sandbox.run

    async def watched(sandbox: Sandbox, *arguments: Any, **options: Any) -> SandboxResult:
        seen.append(options.get("variables"))
        return await run(sandbox, *arguments, **options)

    monkeypatch.setattr(Sandbox, "run", watched)
    assert (await tools.call("lint", {})).outcome == "OK"
    assert seen == [None]


async def test_a_variable_is_set_in_its_own_workspace_alone(workspace: Workspace) -> None:
    one, other = (ToolBox(workspace, Sandbox(), offers=OFFERS) for _ in range(2))
    await one.call("set_variable", {"name": "OTHER", "value": "1"})
    assert (await other.call("run_check", {"command": SHOWN})).output == "none|none"


async def test_without_an_offer_there_is_no_tool_that_sets_variables(tools: ToolBox) -> None:
    assert "set_variable" not in tools.names
    result = await tools.call("set_variable", {"name": "LEVEL", "value": "debug"})
    assert (result.outcome, "there is no tool" in result.reason) == ("DENIED", True)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("LEVEL", "trace", "there is 'LEVEL' with the values debug"),
        ("NONE", "1", "there is LEVEL, OTHER, PATH"),
        ("PATH", "/workspace", "the sandbox sets it itself"),
        ("LD_PRELOAD", "/workspace/x.so", "kept from checks"),
    ],
)
async def test_what_is_not_on_offer_or_never_may_be_is_denied_and_no_check_sees_it(
    workspace: Workspace, name: str, value: str, word: str
) -> None:
    forged = {**OFFERS, "PATH": ("/workspace",), "LD_PRELOAD": ("/workspace/x.so",)}
    tools = ToolBox(workspace, Sandbox(), offers=forged)
    before = (await tools.call("run_check", {"command": "env"})).output
    result = await tools.call("set_variable", {"name": name, "value": value})
    assert (result.outcome, word in result.reason) == ("DENIED", True), result.reason
    assert (await tools.call("run_check", {"command": "env"})).output == before


async def test_the_sandbox_keeps_its_own_variables_whatever_it_is_given(workspace: Workspace) -> None:
    for unsafe in (False, True):
        result = await Sandbox(unsafe=unsafe).run(
            ["sh", "-c", 'printf "%s" "$HOME"'], workspace.path, variables={"HOME": "/elsewhere"}
        )
        assert result.output == b"/tmp"
