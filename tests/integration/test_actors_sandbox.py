"""The sandbox's limits and results, on the real bubblewrap."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from enchanted.actors.errors import SandboxUnavailable
from enchanted.actors.tools import sandbox as sandbox_module
from enchanted.actors.tools.confinement import Limits
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
