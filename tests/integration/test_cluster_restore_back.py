"""`enchanted restore --back`, as it is typed: shown first, like every act."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path

import pytest

from enchanted.actors.repository.restore import Target
from enchanted.actors.repository.tree_store import TreeStore
from enchanted.cluster import cli

NUMBERS = count()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """A folder that two states were restored into, one after the other."""
    store = TreeStore.create(tmp_path / "repo.git")
    for content in (b"first\n", b"second\n"):
        files = {
            b"a.py": ("100644", content),
            os.fsencode("line\nbreak"): ("100644", content),
            b"\xff": ("100644", content),
        }
        tree = store.writer.with_files("", files)
        assert tree is not None
        Target(tmp_path / "into").restore(store, tree, label="a state", operation=f"{next(NUMBERS)}")
    return tmp_path / "into"


def test_going_back_is_shown_first_and_done_when_told(into: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["restore", "--back", "--into", str(into)]) == 2
    shown = capsys.readouterr()
    assert (into / "a.py").read_text() == "second\n"
    assert "write a.py" in shown.err
    assert "--yes" in shown.err
    assert cli.execute(["restore", "--back", "--into", str(into), "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (into / "a.py").read_text() == "first\n"
    assert (document["write"], document["delete"]) == (["a.py", "line\nbreak", "\\xff"], [])


def test_going_back_over_work_is_refused_in_the_preview(into: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (into / "a.py").write_text("work of a day")
    for arguments in ([], ["--yes"]):
        assert cli.execute(["restore", "--back", "--into", str(into), *arguments]) == 1
        assert "--force" in capsys.readouterr().err
    assert (into / "a.py").read_text() == "work of a day"
    assert cli.execute(["restore", "--back", "--into", str(into), "--yes", "--force"]) == 0
    assert (into / "a.py").read_text() == "first\n"


def test_a_folder_without_restores_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["restore", "--back", "--into", str(tmp_path / "x")]) == 1
    assert "nothing was ever restored here" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
