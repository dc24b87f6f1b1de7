"""Attempts to get out of a workspace, by tool and by command: each is stopped, and is an event in the log."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.agent import Agent, Place
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.testing import make_repository
from enchanted.actors.tools import sandbox_view
from enchanted.actors.tools.confinement import Limits
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.tools.sandbox import Sandbox
from enchanted.actors.tools.toolbox import ToolBox, ToolLimits
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, nats_server

CANARY = "canary-5b1d6c"
MARKER = "86399.125"
LIMITS = Limits(
    seconds=30, memory_bytes=256 << 20, processes=64, file_bytes=64 << 20, disk_bytes=96 << 20, disk_files=5000
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A workspace where a real one lies, with things around it that nobody inside may reach."""

    home: Path
    """ENCHANTED_HOME: token, workspaces, repositories."""
    person: Path
    """A person's home folder with an SSH key."""
    workspace: Workspace
    tools: RecordedTools


class RecordedTools:
    """The tools as a role uses them: through its agent, which records each call."""

    def __init__(self, workspace: Workspace, sandbox: Sandbox, agent: Agent) -> None:
        self._workspace = workspace
        self._sandbox = sandbox
        self._agent = agent
        self.limits = LIMITS
        self.results: dict[str, ToolResult] = {}
        """Event id -> what the tool answered."""

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Use a tool and record it."""
        call = ToolBox(self._workspace, self._sandbox, ToolLimits(check=self.limits)).call(tool, arguments)
        result, event_id = await self._agent.use(tool, arguments, call, Place(), "")
        self.results[event_id] = result
        return result


@pytest.fixture(scope="module")
async def server(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def stage(tmp_path: Path, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    home, person = tmp_path / ".enchanted", tmp_path / "home" / "user"
    (person / ".ssh").mkdir(parents=True)
    (person / ".ssh" / "id_ed25519").write_text(CANARY)
    home.mkdir()
    (home / "token").write_text(CANARY)
    monkeypatch.setenv("SECRET_API_KEY", CANARY)
    make_repository(tmp_path / "user", {"a.py": "x = 1\n", "folder/b.py": "y = 2\n"})
    for name, target in (("out", home / "token"), ("up", Path("../../../token")), ("dir", home)):
        (tmp_path / "user" / name).symlink_to(target)
    make_repository(tmp_path / "user", {})
    shadow = await ShadowRepository.create(home / "runs" / "r1" / "repo.git", tmp_path / "user")
    workspace = await Workspace.checkout(shadow, home / "runs" / "r1" / "work", shadow.base_tree)
    run_id = tmp_path.name
    async with Bus.connect(server.url) as bus:
        log = AgentLog(bus, run_id=run_id, role="coder", agent_name="coder-1")
        agent = Agent(name="coder-1", run_id=run_id, log=log, model=MinimalModel())
        recorded = RecordedTools(workspace, Sandbox(hidden=[home, person]), agent)
        yield Stage(home=home, person=person, workspace=workspace, tools=recorded)
        calls = {one.event.event_id: one.event.tool_call for one in await bus.read_run(run_id)}
    assert {event_id: (call.outcome, call.reason, call.exit_code) for event_id, call in calls.items()} == {
        event_id: (result.outcome, result.reason, result.exit_code) for event_id, result in recorded.results.items()
    }
    assert (home / "token").read_text() == CANARY
    assert (person / ".ssh" / "id_ed25519").read_text() == CANARY
    workspace.mark_unknown()
    assert await workspace.snapshot() == shadow.base_tree
    await workspace.close()


async def check(stage: Stage, command: str) -> ToolResult:
    """Run a hostile command; nothing secret may be in what comes back."""
    result = await stage.tools.call("run_check", {"command": command})
    assert CANARY not in result.output
    assert result.sandboxed
    return result


def survivors() -> list[bytes]:
    """Processes of this machine that carry the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if MARKER.encode() in line:
            found.append(line)
    return found


PATHS = {
    "parent": "../token",
    "parent inside a path": "folder/../../token",
    "absolute": "/etc/passwd",
    "home": "~/.ssh/id_ed25519",
    "symlink out of the repository": "out",
    "relative symlink out": "up",
    "folder behind a symlink": "dir/token",
    "git hook": ".git/hooks/post-checkout",
    "git hook in another case": ".GIT/hooks/post-checkout",
    "git hook in a subfolder": "folder/.git/hooks/post-checkout",
    "git configuration": ".git/config",
    "the person's git configuration": ".gitconfig",
    "submodules": ".gitmodules",
    "git's short name on Windows": "GIT~1/config",
    "invisible character in .git": ".g\u200cit/config",
    "NUL": "a.py\0/../../token",
    "very long": "a/" * 4000 + "b",
    "very long name": "a" * 5000,
    "proc": "/proc/self/environ",
    "empty": "",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
async def test_no_file_tool_takes_a_path_out_of_the_workspace(stage: Stage, path: str) -> None:
    uses: list[tuple[str, dict[str, Any]]] = [
        ("read_file", {"path": path}),
        ("write_file", {"path": path, "content": "overwritten"}),
        ("edit", {"path": path, "search": CANARY, "replace": "overwritten"}),
        ("replace_lines", {"path": path, "first": 1, "last": 1, "text": "overwritten"}),
        ("candidates", {"path": path, "lines": [1]}),
    ]
    for tool, arguments in uses:
        result = await stage.tools.call(tool, arguments)
        assert (tool, result.outcome) == (tool, "DENIED")
        assert result.reason
        assert CANARY not in result.output + result.reason


async def test_a_hard_link_to_an_outside_file_is_denied(stage: Stage) -> None:
    os.link(stage.home / "token", stage.workspace.path / "hard")
    assert (await stage.tools.call("read_file", {"path": "hard"})).outcome == "DENIED"
    assert (await stage.tools.call("write_file", {"path": "hard", "content": "x"})).outcome == "DENIED"
    (stage.workspace.path / "hard").unlink()


async def test_search_and_lint_do_not_follow_links(stage: Stage) -> None:
    assert (await stage.tools.call("search", {"pattern": CANARY})).data["matches"] == ()
    assert CANARY not in (await stage.tools.call("lint", {})).output


async def test_a_linter_configuration_cannot_read_outside(stage: Stage) -> None:
    content = f'[tool.ruff]\nextend = "{stage.home}/token"\n'
    await stage.tools.call("write_file", {"path": "pyproject.toml", "content": content})
    result = await stage.tools.call("lint", {})
    assert result.outcome == "FAILED"
    assert CANARY not in result.output + result.reason
    await stage.workspace.reset(stage.workspace.repository.base_tree)


@pytest.mark.parametrize(
    "command",
    [
        "cat {home}/token",
        "cat ../token ../../../token out up dir/token",
        "cat {person}/.ssh/id_ed25519 ~/.ssh/*",
        "cp out stolen && cat stolen",
        "ln {home}/token hard && cat hard",
        "ls {home}",
        "cat /etc/shadow",
        "ls /run/. /var/. /boot/. /sys/. /srv/.",
    ],
)
async def test_secrets_outside_cannot_be_read(stage: Stage, command: str) -> None:
    result = await check(stage, command.format(home=stage.home, person=stage.person))
    assert result.outcome == "FAILED"


async def test_home_folders_hold_nothing_but_the_interpreter(stage: Stage) -> None:
    result = await check(stage, "find / -xdev -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null; true")
    seen = {line for line in result.output.splitlines() if line.startswith(("/root", "/home", str(stage.home.parent)))}
    allowed = {str(path) for place in (sys.prefix, sys.base_prefix) for path in (Path(place), *Path(place).parents)}
    assert seen <= allowed


async def test_the_environment_tells_nothing(stage: Stage) -> None:
    result = await check(stage, "env; cat /proc/*/environ | tr '\\0' '\\n'; false")
    assert result.outcome == "FAILED"
    names = {line.split("=")[0] for line in result.output.splitlines()}
    assert names <= {*sandbox_view.environment(), "PWD", "OLDPWD", "SHLVL", "_"}


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host, with a secret in its environment."""
    process = subprocess.Popen(["sleep", "300"], env={"SECRET": CANARY})
    yield process
    process.kill()
    process.wait()


async def test_host_processes_cannot_be_seen_killed_or_traced(stage: Stage, victim: subprocess.Popen[bytes]) -> None:
    script = (
        "kill -9 {pid}; kill -9 -1; cat /proc/{pid}/environ; "
        "python -c 'import ctypes,sys; sys.exit(ctypes.CDLL(None).ptrace(16,{pid},0,0) != 0)'"
    )
    result = await check(stage, script.format(pid=victim.pid))
    assert result.outcome == "FAILED"
    assert victim.poll() is None


PRIVILEGES = {
    "write to /usr": "touch /usr/bin/evil",
    "write to the interpreter": f"touch {sys.prefix}/evil || touch {sys.base_prefix}/evil",
    "write to /etc": "echo evil >> /etc/passwd",
    "write to the root": "mkdir /evil",
    "open a kernel setting": 'python -c \'open("/proc/sys/kernel/core_pattern", "r+")\'',
    "remount": "mount -o remount,rw /usr",
    "unmount": "umount /usr",
    "a new user namespace": "unshare --user --map-root-user true",
    "a device": "mknod disk b 8 0",
    "become root": "python -c 'import os; os.setuid(0)'",
    "chroot": "chroot . true",
    "enter the host": "nsenter --target 1 --mount --net true",
    "read kernel memory": "head -c 1 /proc/kcore",
    "kernel keys": "cat /proc/keys | grep .",
}


@pytest.mark.parametrize("command", PRIVILEGES.values(), ids=PRIVILEGES.keys())
async def test_no_privilege_can_be_had(stage: Stage, command: str) -> None:
    result = await check(stage, command)
    assert result.outcome == "FAILED"
    assert result.exit_code != 0


@pytest.fixture
def listeners() -> Iterator[tuple[socket.socket, socket.socket, str]]:
    """A TCP listener on the host's loopback and one on an abstract socket."""
    name = f"enchanted-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{name}")
        local.listen()
        for listener in (tcp, local):
            listener.setblocking(False)
        yield tcp, local, name


async def test_there_is_no_network(stage: Stage, listeners: tuple[socket.socket, socket.socket, str]) -> None:
    tcp, local, name = listeners
    attempts = [
        f"s.create_connection(('127.0.0.1', {tcp.getsockname()[1]}), 2)",
        f"s.socket(s.AF_UNIX).connect('\\0{name}')",
        "s.create_connection(('192.0.2.1', 80), 2)",
        "s.getaddrinfo('example.org', 80)",
        "s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ]
    for attempt in attempts:
        result = await check(stage, f'python -c "import socket as s; {attempt}"')
        assert (attempt, result.outcome) == (attempt, "FAILED")
    for listener in (tcp, local):
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_a_fork_bomb_is_ended(stage: Stage) -> None:
    result = await check(stage, "python -c 'import os\nwhile True: os.fork()'")
    assert result.outcome == "FAILED"
    assert "processes" in result.reason or result.exit_code != 0
    assert (await check(stage, "true")).outcome == "OK"


async def test_memory_cannot_be_exhausted(stage: Stage) -> None:
    script = "import os, time\nfor _ in range(4): os.fork()\nx = bytearray(60 << 20)\ntime.sleep(20)"
    result = await check(stage, f'python -c "{script}"')
    assert (result.outcome, "memory" in result.reason) == ("FAILED", True)


@pytest.mark.parametrize(
    "command",
    [
        "while :; do i=$((i+1)); head -c 16M /dev/zero > fill$i || exit 1; done",
        "mkdir ignored; while :; do i=$((i+1)); fallocate -l 16M ignored/fill$i || exit 1; done",
        'python -c "import os\nfor i in range(10**7): os.close(os.open(str(i), os.O_CREAT))"',
    ],
)
async def test_the_disk_cannot_be_filled(stage: Stage, command: str) -> None:
    result = await check(stage, command)
    assert (result.outcome, "disk" in result.reason) == ("FAILED", True)
    assert sum(path.stat().st_size for path in stage.workspace.path.rglob("*") if path.is_file()) < 1 << 20


async def test_one_gibibyte_of_output_costs_no_memory(stage: Stage) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await check(stage, "yes | head -c 1G; false")
    assert result.outcome == "FAILED"
    assert "only the ends" in result.reason
    assert len(result.output) < 30_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


async def test_an_endless_loop_is_ended(stage: Stage) -> None:
    stage.tools.limits = Limits(seconds=1)
    result = await stage.tools.call("run_check", {"command": "trap '' TERM; while :; do :; done"})
    assert result.outcome == "TIMED_OUT"


async def test_no_background_process_outlives_its_command(stage: Stage) -> None:
    daemon = (
        "import os, time, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "for fd in range(3): os.close(fd)\n"
        f"os.execvp('sleep', ['sleep', '{MARKER}'])\n"
    )
    result = await check(stage, f'python -c "{daemon}"; setsid nohup sleep {MARKER} >/dev/null 2>&1 & sleep 0.3; false')
    assert result.outcome == "FAILED"
    assert survivors() == []


async def test_git_left_behind_by_a_command_is_removed_and_named(stage: Stage) -> None:
    command = (
        "git init -q . && git config core.fsmonitor 'touch /workspace/ran' && "
        "printf '#!/bin/sh\\ntouch ran' > .git/hooks/post-index-change && chmod +x .git/hooks/post-index-change && "
        "git init -q folder/sub && echo gitdir: /etc > folder/.git; false"
    )
    result = await check(stage, command)
    assert result.outcome == "FAILED"
    assert ".git" in result.reason
    assert set(result.data["undone"]) == {".git", "folder/.git", "folder/sub/.git"}
    assert not (stage.workspace.path / "ran").exists()


async def test_attributes_and_configuration_in_the_tree_run_nothing(stage: Stage) -> None:
    await stage.tools.call("write_file", {"path": ".gitattributes", "content": "* filter=evil diff=evil merge=evil\n"})
    await stage.tools.call("write_file", {"path": "c.py", "content": "z = 3\n"})
    tree = await stage.workspace.snapshot()
    assert await stage.workspace.repository.content(tree, "c.py") == b"z = 3\n"
    await stage.workspace.reset(stage.workspace.repository.base_tree)


async def test_links_made_by_a_command_are_gone_before_the_next_edit(stage: Stage) -> None:
    command = f"rm -r folder && ln -s {stage.home} folder && ln -sf {stage.home}/token a.py; false"
    assert (await check(stage, command)).outcome == "FAILED"
    result = await stage.tools.call("write_file", {"path": "folder/token", "content": "overwritten"})
    assert result.outcome == "OK"
    assert (stage.workspace.path / "folder" / "token").read_text() == "overwritten"
    await stage.workspace.reset(stage.workspace.repository.base_tree)
