"""How a home's services are ended when nothing can be written any more."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from enchanted.cluster import keeper
from enchanted.cluster import service as service_of
from enchanted.cluster.errors import ServiceFailed
from enchanted.cluster.home import Home
from enchanted.cluster.keeper import Keeper
from enchanted.cluster.nats import NatsServer
from enchanted.cluster.plan import plan
from enchanted.cluster.processes import ProcessId
from enchanted.cluster.service import Child, Command
from enchanted.cluster.settings import Settings

SERVICE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(flush=True)
signal.pause()
"""
DRIVER = "import os; os.mkdir('drained'); print('{}')"
WARDEN = """
import os, sys
from pathlib import Path
from typing import cast
from enchanted.cluster import state, supervisor
from enchanted.cluster.home import Home
from enchanted.cluster.processes import ProcessId

def refuse(home, state):
    raise OSError(30, "Read-only file system")

home = Home(Path(sys.argv[1]))
warden = ProcessId.of(os.getpid())
state.write(home, state.State(phase="healthy", pid=warden.pid, started=warden.started))
state.write = refuse
keeper = os.fork() or os._exit(0)
print(supervisor._watch(home, keeper))
"""


class Ending:
    """A service that says by its exit code that it was let end by itself."""

    grace_seconds = 10.0


async def test_where_no_log_can_be_written_ingest_is_drained_and_every_service_has_its_time_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, settings, this = Home(tmp_path), Settings(), ProcessId.of(os.getpid())
    assert this is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keeper, "python", lambda _: [sys.executable, "-c", DRIVER])
    made, server, cleaned = Keeper(home, settings, this), NatsServer(home, 1, settings.stream), []
    monkeypatch.setattr(server, "clean", lambda: cleaned.append(True))
    made._nats, made._deployed = server, True
    home.logs.mkdir()
    for name in ("ray", "nats", "store"):
        made._services[name] = Ending()  # type: ignore[assignment]
        child = await made._start(name, Command(argv=[sys.executable, "-c", SERVICE], pipes=True))
        assert child.process.stdout is not None
        await child.process.stdout.readline()
    home.logs.rename(tmp_path / "former")
    home.logs.write_text("no folder")

    await made._end_children()

    assert (tmp_path / "drained").is_dir()
    assert [made._children[name].process.returncode for name in ("ray", "nats", "store")] == [7, 7, 7]
    assert cleaned == [True]


FAILS = """
import json, sys
from pathlib import Path
from typing import cast
with Path("asked").open("a") as asked:
    asked.write("x")
print(json.dumps({"cause": "no", "remedy": "none", "final": sys.argv[1] == "final"}))
"""


@pytest.mark.parametrize(("how", "tries"), [("final", 1), ("passing", keeper.FIRST_TRIES)])
async def test_a_first_deployment_is_tried_again_unless_the_next_one_would_fail_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, tries: int
) -> None:
    home, settings, this = Home(tmp_path), Settings(), ProcessId.of(os.getpid())
    assert this is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keeper, "python", lambda _: [sys.executable, "-c", FAILS, how])
    home.prepare()
    with pytest.raises(ServiceFailed, match="deploy: no"):
        await Keeper(home, settings, this)._keep_deployed(plan(settings, home))
    assert (tmp_path / "asked").read_text() == "x" * tries


DEPLOYS = """
import json
from pathlib import Path
from typing import cast
with Path("asked").open("a") as asked:
    asked.write("x")
while not Path("go").exists():
    pass
print(json.dumps({"api_url": "http://127.0.0.1:1", "ray_dashboard_url": "", "notes": []}))
"""


async def until(what: Callable[[], bool]) -> None:
    while not what():  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.01)


async def test_a_ray_that_was_restarted_is_deployed_into_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, settings, this = Home(tmp_path), Settings(), ProcessId.of(os.getpid())
    assert this is not None
    home.prepare()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keeper, "python", lambda _: [sys.executable, "-c", DEPLOYS])
    made, asked = Keeper(home, settings, this), tmp_path / "asked"
    former, live = Command(argv=["true"]), Command(argv=["sleep", "60"])
    await (await made._start("ray", former)).process.wait()
    keeping = asyncio.create_task(made._keep_deployed(plan(settings, home)))
    try:
        async with asyncio.timeout(60):
            await until(asked.exists)
            ray = await made._start("ray", live)
            (tmp_path / "go").touch()
            await until(lambda: made._state.phase == "healthy")
            await asyncio.sleep(0.5)
            assert asked.read_text() == "x"
            ray.process.kill()
            await made._start("ray", live)
            await until(lambda: asked.read_text() == "xx" and made._children["deploy"].process.returncode == 0)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        for child in made._children.values():
            await child.end(grace=0)


class Blocked:
    """A service that ends at once, and whose second start the disk has no room for."""

    name, port = "blocked", 0
    start_seconds = grace_seconds = 10.0

    def __init__(self) -> None:
        self.starts = 0
        self.third = asyncio.Event()

    def command(self) -> Command:
        self.starts += 1
        if self.starts == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.starts == 3:
            self.third.set()
        return Command(argv=["true"])

    async def probe(self) -> None:
        """It is well until it ends."""


async def test_a_service_that_cannot_be_started_again_for_want_of_room_is_tried_until_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    this, service = ProcessId.of(os.getpid()), Blocked()
    assert this is not None
    home = Home(tmp_path)
    home.prepare()
    keeping = asyncio.create_task(Keeper(home, Settings(), this)._keep(service))
    try:
        async with asyncio.timeout(60):
            await service.third.wait()
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
    assert "blocked: cannot be started: [Errno 28] No space left on device" in caplog.text


class Hanging:
    """A bus that does not end when it is asked to."""

    name, port = "nats", 0
    start_seconds, grace_seconds = 10.0, 0.2

    def command(self) -> Command:
        return Command(argv=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])

    async def probe(self) -> None:
        """It is well until it ends."""

    def tend(self) -> None:
        """It has nothing to look after."""


async def test_a_bus_that_hangs_after_its_disk_was_full_is_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this, bus = ProcessId.of(os.getpid()), Hanging()
    assert this is not None
    home = Home(tmp_path)
    home.prepare()
    made, troubles = Keeper(home, Settings(), this), iter(["is full", ""])
    monkeypatch.setattr(keeper, "DISK_SECONDS", 0.1)
    monkeypatch.setattr(home, "disk_trouble", lambda _: next(troubles, ""))
    keeping = asyncio.create_task(made._keep(bus))
    try:
        await until(lambda: "nats" in made._children)
        first = made._children["nats"].process.pid
        watching = asyncio.create_task(made._watch_disk(cast("NatsServer", bus)))
        await until(lambda: made._children["nats"].process.pid != first)
        watching.cancel()
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        for child in made._children.values():
            await child.end(grace=0)


async def test_what_had_the_number_of_a_process_that_ended_is_not_taken_for_its_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = await Child.start("gone", Command(argv=["true"]), tmp_path / "gone.log")
    await child.process.wait()
    with subprocess.Popen(["sleep", "60"]) as other:  # noqa: ASYNC220
        mine = ProcessId.of(other.pid)
        monkeypatch.setattr(service_of, "descendants", lambda pid: [mine])
        await child.end(grace=0.1)
        assert other.poll() is None
        other.kill()


def test_a_warden_that_cannot_write_the_state_ends_without_an_error_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WARDEN, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
