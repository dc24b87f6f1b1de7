"""The state file, the back-off and the processes it names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enchanted.cluster import state
from enchanted.cluster.home import Home
from enchanted.cluster.keeper import LONGEST_PAUSE, Pauses
from enchanted.cluster.processes import ProcessId, descendants, end, with_variable
from enchanted.cluster.service import describe_exit
from enchanted.cluster.state import Endpoints, Failure, ServiceState, State

ENDPOINTS = Endpoints(
    nats_url="nats://u:p@127.0.0.1:1",
    clickhouse_url="http://u:p@127.0.0.1:2/d",
    api_url="http://127.0.0.1:3",
    ray_address="127.0.0.1:4",
    ray_dashboard_url="http://127.0.0.1:5",
    token_file=Path("/h/token"),
    home=Path("/h"),
)


def test_endpoints_and_state_read_back_as_written(tmp_path: Path) -> None:
    myself = ProcessId.of(os.getpid())
    assert myself is not None
    written = State(
        phase="healthy",
        pid=myself.pid,
        started=myself.started,
        services=(ServiceState(name="nats", state="healthy", pid=1, started=2, port=3),),
        endpoints=ENDPOINTS,
        failure=Failure(cause="c", remedy="r", log=("l",)),
        notes=("n",),
    )
    state.write(Home(tmp_path), written)
    assert state.read(Home(tmp_path)) == written
    assert Endpoints.from_dict(ENDPOINTS.as_dict()) == ENDPOINTS


def test_what_a_newer_version_wrote_beside_it_does_not_keep_a_state_from_being_read(tmp_path: Path) -> None:
    nats = ServiceState(name="nats", state="stopped")
    state.write(Home(tmp_path), State(phase="failed", services=(nats,), failure=Failure(cause="c", remedy="r")))
    table = json.loads(Home(tmp_path).state.read_text())
    table["new"] = table["services"][0]["new"] = table["failure"]["new"] = 1
    Home(tmp_path).state.write_text(json.dumps(table))
    assert state.read(Home(tmp_path)).services == (nats,)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"1", b"\xff", b'{"phase": "healthy"}', b"[" * 100_000])
def test_a_damaged_state_is_that_of_no_services(tmp_path: Path, content: bytes) -> None:
    Home(tmp_path).state.parent.mkdir(exist_ok=True)
    Home(tmp_path).state.write_bytes(content)
    assert state.read(Home(tmp_path)) == State()


@pytest.mark.parametrize(("code", "said"), [(0, "exit code 0"), (-9, "signal SIGKILL"), (-40, "signal 40")])
def test_every_end_of_a_process_has_words(code: int, said: str) -> None:
    assert describe_exit(code) == said


def test_services_whose_supervisor_is_gone_are_not_healthy(tmp_path: Path) -> None:
    nats = ServiceState(name="nats", state="healthy", pid=2**22, started=1)
    state.write(Home(tmp_path), State(phase="healthy", pid=2**22, started=1, services=(nats,), endpoints=ENDPOINTS))
    found = state.read(Home(tmp_path))
    assert found.phase == "stopped"
    assert [service.state for service in found.services] == ["stopped"]


def test_a_pid_that_another_process_has_now_is_not_the_same_process() -> None:
    myself = ProcessId.of(os.getpid())
    assert myself is not None
    assert myself.alive()
    assert not ProcessId(myself.pid, myself.started - 1).alive()


def test_restarts_back_off_while_a_service_dies_young_and_start_over_when_it_was_stable() -> None:
    pauses = Pauses()
    waits = [pauses.next(lived=0.0) for _ in range(12)]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == LONGEST_PAUSE
    assert pauses.next(lived=3600) == 0.1


def test_a_process_that_ignores_sigterm_is_killed_and_its_children_are_found() -> None:
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen(['sleep', '60'])\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "_ENCHANTED_TEST_MARK": "x1"}
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = {found.pid for found in with_variable("_ENCHANTED_TEST_MARK", "x1")}
        assert family == {process.pid, *(found.pid for found in descendants(process.pid))}
        assert len(family) == 2
        assert end(lambda: with_variable("_ENCHANTED_TEST_MARK", "x1"), grace=0.3) == []
        assert process.wait() in (-signal.SIGKILL, 0)


def test_a_process_whose_name_ends_within_a_character_is_found_like_any_other() -> None:
    named = "open('/proc/self/comm', 'wb').write('é'.encode() * 9); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", named], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        name = "é".encode() * 7 + "é".encode()[:1]
        assert name in Path(f"/proc/{process.pid}/stat").read_bytes()
        assert process.pid in {found.pid for found in descendants(os.getpid())}
        process.kill()
