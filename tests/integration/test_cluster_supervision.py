"""The supervisor: failures are named, and nothing outlives it, also in the middle of a start."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchanted.cluster.testing import HomeUnderTest, eventually, home_under_test, kill

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HomeUnderTest]:
    with home_under_test(tmp_path / "home") as found:
        yield found


def raylet_runs(home: HomeUnderTest) -> bool:
    names = set()
    for process in home.processes():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.add((Path("/proc") / str(process.pid) / "comm").read_text().strip())
    return home.service("nats").get("state") == "healthy" and "raylet" in names


def test_a_killed_keeper_leaves_no_process_behind(home: HomeUnderTest) -> None:
    with home.popen("up") as up:
        eventually(lambda: raylet_runs(home), seconds=60, about="Ray is starting")
        assert len(home.processes()) > 8
        # The keeper is the warden's only child.
        warden = home.state()["pid"]
        keeper = int((Path("/proc") / str(warden) / "task" / str(warden) / "children").read_text().split()[0])
        kill(keeper)
        eventually(lambda: not home.processes(), seconds=60, about="no process of this home is left")
        assert "error: the supervisor was killed" in up.communicate()[1]
    assert up.returncode == 4


def test_a_killed_warden_leaves_no_process_behind(home: HomeUnderTest) -> None:
    with home.popen("up") as up:
        eventually(lambda: raylet_runs(home), seconds=60, about="Ray is starting")
        kill(home.state()["pid"])
        eventually(lambda: not home.processes(), seconds=60, about="no process of this home is left")
        assert up.wait(timeout=60) == 4


def test_ctrl_c_in_up_ends_what_it_started(home: HomeUnderTest) -> None:
    with home.popen("up") as up:
        eventually(lambda: home.service("nats").get("state") == "healthy", seconds=60, about="nats is healthy")
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=60) == 130
    assert not home.processes()


def test_a_taken_port_is_named_with_its_setting_and_nothing_runs(home: HomeUnderTest) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = home.run("up", ENCHANTED_CLICKHOUSE_PORT=port)
    assert done.returncode == 2
    assert f"error: port {port} for store is taken by another program" in done.stderr
    assert "remedy: set ENCHANTED_CLICKHOUSE_PORT to another port" in done.stderr
    eventually(lambda: not home.processes(), seconds=10, about="the supervisor has ended")


def test_a_service_that_cannot_start_is_named_with_its_last_words(home: HomeUnderTest) -> None:
    home.home.prepare()
    (home.home.nats / "jetstream").write_text("in the way")
    done = home.run("up")
    assert done.returncode == 4
    assert "error: nats: ended with exit code 1" in done.stderr
    assert "  | " in done.stderr
    assert "jetstream" in done.stderr.lower()
    eventually(lambda: not home.processes(), seconds=10, about="the supervisor has ended")


def test_an_external_bus_that_does_not_answer_is_said_to_be_the_cause(home: HomeUnderTest) -> None:
    done = home.run("up", ENCHANTED_NATS_URL="nats://127.0.0.1:1", ENCHANTED_START_SECONDS="3")
    assert done.returncode == 4
    assert "error: not healthy after 3 s" in done.stderr
    assert not home.processes()


def test_wrong_settings_end_a_command_with_2(home: HomeUnderTest) -> None:
    done = home.run("up", ENCHANTED_NATS_PROT="1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: there is no setting ENCHANTED_NATS_PROT (environment ENCHANTED_NATS_PROT)",
        "remedy: did you mean ENCHANTED_NATS_PORT?",
    ]


def test_status_and_down_of_a_home_where_nothing_runs(home: HomeUnderTest) -> None:
    status = home.run("status", "--json")
    assert status.returncode == 4
    assert '"state": "stopped"' in status.stdout
    down = home.run("down")
    assert (down.returncode, down.stdout) == (0, "")
    assert "nothing runs" in down.stderr
