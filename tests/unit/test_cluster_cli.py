"""The command line's conventions: two-line errors, exit codes, and imports that cost nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from enchanted.cluster import cli, doctor
from enchanted.cluster.settings import Settings


def test_help_does_not_import_what_is_heavy() -> None:
    heavy = ("ray", "vllm", "torch", "chdb", "pydantic", "nats", "clickhouse_connect", "fastapi", "httpx")
    code = f"import sys, enchanted.cluster.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_is_one_line_of_cause_and_one_of_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCHANTED_CODERS", "none")
    assert cli.execute(["config", "show"]) == 2
    captured = capsys.readouterr()
    cause, remedy = captured.err.splitlines()
    assert cause.startswith("error: coders = 'none' (environment ENCHANTED_CODERS)")
    assert remedy == "remedy: correct coders in environment ENCHANTED_CODERS"
    assert captured.out == ""


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCHANTED_CODERS", "none")
    assert cli.execute(["--debug", "config", "show"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["no-such-command"], ["up", "--no-such-option"], ["submit"]])
def test_a_usage_error_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage: enchanted" in captured.err
    assert captured.out == ""


def test_the_version_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["--version"]) == 0
    assert capsys.readouterr().out.startswith("enchanted ")


def test_doctor_names_a_missing_program_and_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor.git()
    assert (check.verdict, check.found) == ("missing", "not found")
    assert "install git" in check.remedy


def test_doctor_names_the_setting_of_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = Settings(home=tmp_path, api_port=other.getsockname()[1], nats_port=0)
        checks = {check.name: check for check in doctor.free_ports(settings)}
    assert checks["api_port"].verdict == "missing"
    assert "ENCHANTED_API_PORT" in checks["api_port"].remedy
    assert checks["nats_port"].verdict == "ok"
