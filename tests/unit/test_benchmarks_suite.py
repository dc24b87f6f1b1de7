"""Several benchmarks in one go: what one found is not lost with another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from enchanted.benchmarks import __main__ as suite

FOUND: dict[str, Any] = {
    "benchmark": "publish",
    "question": "?",
    "machine": "2",
    "smoke": True,
    "rows": [],
    "notes": [],
}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str, fails: str = "") -> int:
    monkeypatch.setattr(suite, "heed_signals", lambda: None)
    monkeypatch.setattr(suite, "run_fresh", lambda name, **_: None if name == fails else {**FOUND, "benchmark": name})
    monkeypatch.setattr(sys, "argv", ["enchanted bench", *arguments])
    return suite.main()


def test_one_that_fails_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    assert call(monkeypatch, "publish", "ingest", "storage", "--json", "--save", fails="ingest") == 1
    assert [one["benchmark"] for one in json.loads(capsys.readouterr().out)] == ["publish", "storage"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["publish.json", "storage.json"]


def test_all_that_succeed_are_a_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "publish", "storage", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_small_runs_are_not_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, "publish", "--smoke", "--save")
    assert "leave out --smoke" in capsys.readouterr().err


def test_without_a_plotter_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert call(monkeypatch, "publish", "--plot", str(tmp_path / "plots")) == 1
    assert "pip install 'matplotlib" in capsys.readouterr().err
