"""The command line's conventions: two-line errors, exit codes, and imports that cost nothing."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from enchanted.cluster import cli, console, doctor
from enchanted.cluster.commands import acting
from enchanted.cluster.commands.run import copy_demo
from enchanted.cluster.errors import CommandFailed, RepositoryRefused
from enchanted.cluster.settings import Settings


def test_help_does_not_import_what_is_heavy() -> None:
    heavy = ("ray", "vllm", "torch", "chdb", "pydantic", "nats", "clickhouse_connect", "fastapi", "httpx")
    code = f"import sys, enchanted.cluster.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_but_those_that_hand_over_can_answer_in_json() -> None:
    def without(command: Any, *names: str) -> Iterator[str]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from without(inner, *names, name)
        elif not any("--json" in parameter.opts for parameter in command.params):
            yield " ".join(names)

    # `down` has nothing to tell, `submit` is `ray job submit`, `bench` has formats of its own.
    assert set(without(typer.main.get_command(cli.app))) == {"down", "submit", "bench"}


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


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["run", "fix \udcff", "--repo", "."], "the argument 'fix \\udcff' is not UTF-8"),
        (["run", "x", "--repo", "/tmp/\udce9"], "the argument '/tmp/\\udce9' is not UTF-8"),
        (["run-info", ""], "'' is no id"),
        (["verify", ""], "'' is no id"),
        (["trace", ""], "'' is no id"),
        (["run-info", "../.."], "'../..' is no id"),
        (["run-info", ".."], "'..' is no id"),
        (["events", ""], "'' is no id"),
    ],
)
def test_an_argument_nothing_can_be_done_with_is_refused_before_anything_is_asked(
    arguments: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(arguments) == 2
    first, remedy = capsys.readouterr().err.splitlines()
    assert first == f"error: {cause}"
    assert remedy.startswith("remedy: ")
    assert "--debug" not in remedy


@pytest.mark.parametrize(
    "arguments",
    [["events", "--limit", "9" * 20], ["run", "x", "--budget", "inf"], ["run", "x", "--budget", "nan"]],
    ids=" ".join,
)
def test_a_number_out_of_range_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(arguments) == 2
    assert f"Invalid value for '{arguments[-2]}'" in capsys.readouterr().err


def test_the_help_of_a_run_says_that_0_is_no_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["run", "--help"]) == 0
    assert "0 is no limit" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [["up"], ["status"], ["down"], ["run", "x", "--repo", "."]], ids=" ".join)
@pytest.mark.parametrize("home", ["file", "file/home", "/dev/null/home"])
def test_a_home_that_is_no_folder_is_refused_by_every_command(
    command: list[str], home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENCHANTED_HOME", str(tmp_path / home))
    assert cli.execute(command) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"error: the home {tmp_path / home} cannot be used: Not a directory",
        "remedy: set ENCHANTED_HOME to a folder of yours",
    ]


def test_a_command_whose_reader_went_away_ends_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "enchanted", "config", "show"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_were_closed_does_its_work(closed: str) -> None:
    ask = f"exec {sys.executable} -m enchanted config show --json {closed}"
    done = subprocess.run(["/bin/sh", "-c", ask], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert ">&-" in closed.split() or json.loads(done.stdout)


def test_programs_that_a_command_starts_have_the_streams_that_were_closed() -> None:
    code = "import os, enchanted.__main__ as m; m._open_what_is_closed(); os.execlp('sh', 'sh', '-c', 'echo')"
    ask = f'exec {sys.executable} -c "{code}" >&-'
    assert subprocess.run(["/bin/sh", "-c", ask], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("key", "ends"), [(KeyboardInterrupt, KeyboardInterrupt), (EOFError, CommandFailed)])
def test_a_question_is_answered_by_ctrl_c_with_an_interrupt_and_by_ctrl_d_with_no(
    key: type[BaseException], ends: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def typed(_: str) -> str:
        raise key

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.modules[typer.confirm.__module__], "visible_prompt_func", typed)
    with pytest.raises(ends):
        acting.confirm("restore")


def test_an_interrupt_while_modules_are_imported_ends_without_a_traceback() -> None:
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == "enchanted.cluster.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from enchanted.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_table_on_a_terminal_takes_its_headings_and_cells_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.emit_table(["[/]", "[red]a"], [["[/b]", "[link=x]y"]])
    shown = re.sub(r"\x1b\[[0-9]*m", "", capsys.readouterr().out)
    assert shown.split() == ["[/]", "[red]a", "[/b]", "[link=x]y"]


def test_an_error_is_two_lines_whatever_is_in_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report(RuntimeError("a file\n\x1b[31mred\ud800; rename\x9b it")) == 1
    assert capsys.readouterr().err.splitlines() == ["error: a file \ufffd[31mred\ufffd", "remedy: rename\ufffd it"]


def test_a_reader_that_goes_away_in_the_middle_of_a_list_ends_the_command() -> None:
    code = "from enchanted.cluster.commands.reading_text import emit_lines; emit_lines(['line'] * 1_000_000)"
    listing = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert listing.stdout is not None
    assert listing.stdout.readline() == b"line\n"
    listing.stdout.close()
    assert b"BrokenPipeError" in listing.communicate()[1]


@pytest.mark.parametrize("url", ["http://h:notaport", "http://[::1", "ftp://x", "h:8000", ""])
def test_an_address_that_is_none_of_an_api_is_a_usage_error(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("a-token-of-the-api")
    assert cli.execute(["runs", "--url", url, "--token-file", str(tmp_path / "token")]) == 2
    assert "is none of an API" in capsys.readouterr().err


def test_a_file_is_no_place_for_the_demo(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryRefused, match="is no folder"):
        copy_demo(tmp_path / "file")
