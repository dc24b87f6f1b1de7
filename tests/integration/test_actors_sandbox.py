"""The sandbox's limits and results, on the real bubblewrap."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.errors import CommandNotRun, SandboxUnavailable
from enchanted.actors.hosts import sandbox_of
from enchanted.actors.tools import sandbox as sandbox_module
from enchanted.actors.tools import sandbox_view
from enchanted.actors.tools.confinement import Confinement, Limits
from enchanted.actors.tools.sandbox import Sandbox, find_bubblewrap


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def running(marker: str) -> bool:
    """Whether any process of this machine has ``marker`` in its command line."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return any(marker.encode() in line for line in lines if b"pytest" not in line)


async def test_output_and_status_come_back_in_order(sandbox: Sandbox, folder: Path) -> None:
    result = await sandbox.run(["sh", "-c", "echo out; echo err >&2; echo again; exit 3"], folder)
    assert (result.exit_code, result.output) == (3, b"out\nerr\nagain\n")
    assert (result.timed_out, result.truncated, result.exceeded) == (False, False, "")


async def test_standard_input_is_given_and_ends(sandbox: Sandbox, folder: Path) -> None:
    data = os.urandom(300_000)
    assert (await sandbox.run(["cat"], folder, stdin=data)).output == data
    assert (await sandbox.run(["cat"], folder)).output == b""


async def test_only_the_workspace_can_be_written_and_only_when_it_may(sandbox: Sandbox, folder: Path) -> None:
    assert (await sandbox.run(["sh", "-c", "pwd; echo x > made"], folder)).output == b"/workspace\n"
    assert (folder / "made").read_text() == "x\n"
    result = await sandbox.run(["sh", "-c", "echo y > made"], folder, writable=False)
    assert result.exit_code != 0
    assert (folder / "made").read_text() == "x\n"


async def test_our_python_and_its_tools_run_inside(sandbox: Sandbox, folder: Path) -> None:
    result = await sandbox.run(["python", "-c", "import sys, pytest; print(sys.prefix)"], folder)
    assert result.output.decode().strip() == sys.prefix
    assert (await sandbox.run(["ruff", "--version"], folder)).exit_code == 0


async def test_the_workspaces_own_tools_come_first(sandbox: Sandbox, folder: Path) -> None:
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho own\n")
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    assert (await sandbox.run(["python"], folder)).output == b"own\n"


async def test_a_program_that_is_missing_fails_by_name(sandbox: Sandbox, folder: Path) -> None:
    result = await sandbox.run(["no-such-program"], folder)
    assert result.exit_code != 0
    assert b"no-such-program" in result.output


async def test_the_time_limit_ends_everything(sandbox: Sandbox, folder: Path) -> None:
    command = "trap '' TERM INT HUP; sleep 71234.5 & setsid sleep 71234.5 & wait"
    result = await sandbox.run(["sh", "-c", command], folder, Limits(seconds=0.5))
    assert result.timed_out
    assert result.exit_code == 137
    assert not running("71234.5")


async def test_a_cancelled_call_ends_everything(sandbox: Sandbox, folder: Path) -> None:
    os.mkfifo(folder / "started")
    script = "echo > started; setsid sleep 71234.6 & sleep 71234.6"
    task = asyncio.create_task(sandbox.run(["sh", "-c", script], folder))
    await asyncio.to_thread((folder / "started").read_bytes)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running("71234.6")


async def test_too_much_output_keeps_both_ends(sandbox: Sandbox, folder: Path) -> None:
    command = "echo first; yes | head -c 5000000; echo last"
    result = await sandbox.run(["sh", "-c", command], folder, Limits(output_bytes=10_000))
    assert result.truncated
    assert len(result.output) < 10_100
    assert result.output.startswith(b"first\n")
    assert result.output.endswith(b"last\n")
    assert b"bytes left out" in result.output


async def test_memory_of_one_process_and_of_many_together_is_bounded(sandbox: Sandbox, folder: Path) -> None:
    limits = Limits(memory_bytes=200 << 20)
    alone = await sandbox.run(["python", "-c", "x = bytearray(400 << 20)"], folder, limits)
    assert b"MemoryError" in alone.output
    many = "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(60 << 20)\ntime.sleep(60)"
    together = await sandbox.run(["python", "-c", many], folder, limits)
    assert together.exceeded == "memory"


async def test_large_files_and_temporary_space_are_bounded(sandbox: Sandbox, folder: Path) -> None:
    limits = Limits(file_bytes=1 << 20, temporary_bytes=1 << 20)
    script = (
        "head -c 2M /dev/zero > big; for f in 1 2 3; do head -c 900K /dev/zero > /tmp/$f || echo full; done; du -k /tmp"
    )
    result = await sandbox.run(["sh", "-c", script], folder, limits)
    assert (folder / "big").stat().st_size == 1 << 20
    assert b"full" in result.output


async def test_sandboxes_do_not_see_each_other(sandbox: Sandbox, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    results = await asyncio.gather(
        sandbox.run(["sh", "-c", "echo mine > /tmp/x; sleep 0.5; ls /proc | grep -c '^[0-9]'; cat x"], folder),
        sandbox.run(["sh", "-c", "sleep 0.2; ls /tmp/x 2>/dev/null; echo theirs > x"], tmp_path / "other"),
    )
    assert results[1].output == b""
    assert results[0].exit_code != 0
    assert int(results[0].output.split()[0]) < 6


async def test_a_launch_costs_little(sandbox: Sandbox, folder: Path) -> None:
    best = min([(await sandbox.run(["true"], folder)).duration_ms for _ in range(5)])
    assert best < 1000


async def test_without_a_sandbox_commands_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho No permissions to create new namespace >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox_module, "_bundled", lambda: str(tmp_path / "missing"))
    find_bubblewrap.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable, match=r"(?s)No permissions.*install bubblewrap"):
            Sandbox()
    finally:
        find_bubblewrap.cache_clear()


async def test_the_unsafe_flag_runs_without_and_says_so(folder: Path) -> None:
    sandbox = Sandbox(unsafe=True)
    assert not sandbox.confined
    result = await sandbox.run(["sh", "-c", "pwd; cat; exit 4"], folder, stdin=b"in")
    assert (result.exit_code, result.output) == (4, f"{folder}\nin".encode())
    started = time.monotonic()
    result = await sandbox.run(["sh", "-c", "sleep 71234.7 & sleep 71234.7"], folder, Limits(seconds=0.3))
    assert result.timed_out
    assert time.monotonic() - started < 30
    assert not running("71234.7")


ALONE = """
import asyncio, sys
from pathlib import Path
from enchanted.actors.tools.sandbox import Sandbox
asyncio.run(Sandbox(unsafe=sys.argv[3] == "unsafe").run(["sh", "-c", sys.argv[1]], Path(sys.argv[2])))
"""


@pytest.mark.parametrize("how", ["confined", "unsafe"])
async def test_a_command_ends_with_the_process_that_started_it(folder: Path, how: str) -> None:
    os.mkfifo(folder / "started")
    command = "echo > started; exec sleep 71234.8"
    actor = await asyncio.create_subprocess_exec(sys.executable, "-c", ALONE, command, str(folder), how)
    await asyncio.to_thread((folder / "started").read_bytes)
    actor.kill()
    await actor.wait()
    until = time.monotonic() + 20
    while running("71234.8"):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


async def test_further_folders_can_be_read_but_hidden_ones_never(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "shared" / "home").mkdir(parents=True)
    (tmp_path / "shared" / "fact").write_text("known")
    (tmp_path / "shared" / "home" / "token").write_text("canary")
    sandbox = Sandbox(readable=[tmp_path / "shared"], hidden=[tmp_path / "shared" / "home"])
    script = "cd $0; cat fact; cat home/token; ls -a home; touch x"
    result = await sandbox.run(["sh", "-c", script, str(tmp_path / "shared")], folder)
    assert b"known" in result.output
    assert b"canary" not in result.output
    assert not (tmp_path / "shared" / "x").exists()


READING = """
import sys
for path in sys.argv[1:]:
    try:
        print(path, repr(open(path).read()))
    except OSError as error:
        print(path, type(error).__name__)
"""


async def test_a_hidden_file_in_a_readable_folder_cannot_be_read_by_any_of_its_names(
    tmp_path: Path, folder: Path
) -> None:
    shared, named = tmp_path / "shared", tmp_path / "named"
    (shared / "keys").mkdir(parents=True)
    (shared / "keys" / "key").write_text("canary")
    (shared / "keys" / "fact").write_text("known")
    (shared / "link").symlink_to("keys/key")
    named.symlink_to(shared)
    sandbox = Sandbox(readable=[shared, named], hidden=[shared / "link", shared / "keys" / "missing"])
    places = [str(place / name) for place in (shared, named) for name in ("link", "keys/key", "keys/fact")]
    result = await sandbox.run(["python", "-c", READING, *places], folder)
    assert result.exit_code == 0, result.output
    assert result.output.count(b"known") == 2
    assert b"canary" not in result.output


async def test_a_hidden_file_in_a_hidden_folder_needs_no_cover_of_its_own(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "shared" / "home").mkdir(parents=True)
    (tmp_path / "shared" / "home" / "key").write_text("canary")
    hidden = [tmp_path / "shared" / "home", tmp_path / "shared" / "home" / "key"]
    assert sandbox_view._covered(hidden, [str(tmp_path / "shared")]) == hidden[:1]
    sandbox = Sandbox(readable=[tmp_path / "shared"], hidden=hidden)
    result = await sandbox.run(["sh", "-c", "ls -a $0; cat $0/key", str(hidden[0])], folder)
    assert b"canary" not in result.output
    assert b"Permission denied" in result.output


@pytest.fixture
def shown() -> Iterator[Path]:
    """A folder of the machine that every sandbox shows."""
    with tempfile.TemporaryDirectory(dir="/opt", prefix="enchanted-test-") as place:
        Path(place, "key").write_text("canary")
        Path(place, "fact").write_text("known")
        yield Path(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes to /opt")
@pytest.mark.parametrize("of", ["a model", "the API"])
async def test_a_secret_lies_hidden_where_the_sandbox_shows_the_machine(shown: Path, folder: Path, of: str) -> None:
    key, token = (str(shown / "key"), "") if of == "a model" else ("", str(shown / "key"))
    models = {"coder": RoleModel(url="openai:http://127.0.0.1:1", key_file=key)}
    config = SwarmConfig(nats_url="", home=str(folder.parent / "home"), token_file=token, models=models)
    command = ["python", "-c", READING, str(shown / "key"), str(shown / "fact")]
    result = await sandbox_of(config).run(command, folder)
    assert b"known" in result.output
    assert b"canary" not in result.output


async def test_a_command_that_nobody_can_watch_does_not_run(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_handle(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_handle)
    with pytest.raises(CommandNotRun, match="Too many open files"):
        await sandbox.run(["sh", "-c", "touch made; sleep 71234.9"], folder)
    assert not running("71234.9")
    assert not (folder / "made").exists()


async def test_a_sandbox_that_is_slow_to_come_up_takes_nothing_of_the_commands_time(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Confinement._start

    def slowly(self: Confinement, stdin: IO[bytes]) -> Any:
        started = start(self, stdin)
        time.sleep(1.5)
        return started

    monkeypatch.setattr(Confinement, "_start", slowly)
    assert not (await sandbox.run(["sh", "-c", "sleep 1.7"], folder, Limits(seconds=1.3))).timed_out
