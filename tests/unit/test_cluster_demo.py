"""The demo's copy is a repository of its own, whatever git is told of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from enchanted.cluster.cli import execute
from enchanted.cluster.commands.run import copy_demo


def test_a_copy_of_the_demo_is_made_whatever_git_has_for_the_users_own_repositories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks, mine, copy = tmp_path / "hooks", tmp_path / "mine", tmp_path / "copy"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    subprocess.run(["git", "init", "-q", str(mine)], check=True)
    (tmp_path / "config").write_text(
        f"[commit]\ngpgsign = true\n[gpg]\nprogram = false\n[core]\nhooksPath = {hooks}\n", encoding="utf-8"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_DIR", str(mine / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(mine / ".git" / "index"))
    copy_demo(copy)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")

    def said(folder: Path, *arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True).stdout.strip()

    assert said(copy, "log", "--format=%s") == "The demo project"
    assert (said(copy, "status", "--porcelain"), said(mine, "log"), said(mine, "ls-files")) == ("", "", "")


@pytest.mark.parametrize("command", [["up"], ["demo"], ["demo", "--into", "elsewhere"]], ids=" ".join)
def test_a_project_is_refused_as_a_home_before_anything_is_put_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "services.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    assert execute(["--home", str(project), *command]) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {project} holds other files"
    assert [path.name for path in tmp_path.rglob("*")] == ["project", "services.json"]
