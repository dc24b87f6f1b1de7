"""What `doctor` says of ports and of services that others run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from enchanted.cluster import doctor, ports, state
from enchanted.cluster.errors import ServiceFailed
from enchanted.cluster.home import Home
from enchanted.cluster.processes import ProcessId
from enchanted.cluster.settings import Settings
from enchanted.cluster.state import Endpoints, ServiceState, State

PORTS = tuple(ports.SERVICE_OF)
EXTERNAL = {
    "nats_url": ("nats://user:hidden@host:4222", {"nats_port"}),
    "clickhouse_url": ("http://user:hidden@host:8123", {"clickhouse_port"}),
    "ray_address": ("host:6379", {"ray_port", "ray_dashboard_port"}),
}


@pytest.fixture
def taken() -> Iterator[dict[str, int]]:
    """A port for each setting that names one, all of them listened on."""
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in PORTS}
    yield {name: listener.getsockname()[1] for name, listener in sockets.items()}
    for listener in sockets.values():
        listener.close()


def running(home: Path, taken: dict[str, int]) -> State:
    """The state of a home whose services are all there; this process is their supervisor."""
    own = ProcessId.of(os.getpid())
    assert own is not None
    names = {"nats": "nats_port", "store": "clickhouse_port", "ray": "ray_port"}
    services = [
        ServiceState(name=name, state="healthy", pid=own.pid, started=own.started, port=taken[port])
        for name, port in names.items()
    ]
    endpoints = Endpoints(
        nats_url="",
        clickhouse_url="",
        api_url=f"http://127.0.0.1:{taken['api_port']}",
        ray_address=f"127.0.0.1:{taken['ray_port']}",
        ray_dashboard_url=f"http://127.0.0.1:{taken['ray_dashboard_port']}",
        token_file=home / "token",
        ray_token_file=home / "ray_token",
        home=home,
    )
    api = ServiceState(name="api", state="healthy", port=taken["api_port"])
    return State(phase="healthy", pid=own.pid, started=own.started, services=(*services, api), endpoints=endpoints)


def settings_of(home: Path, values: Mapping[str, str | int]) -> Settings:
    return Settings.model_validate({"home": home, **values})


def verdicts(settings: Settings) -> dict[str, str]:
    return {check.name: check.verdict for check in doctor.free_ports(settings)}


def test_every_port_of_running_services_is_ours_the_ray_dashboards_too(tmp_path: Path, taken: dict[str, int]) -> None:
    state.write(Home(tmp_path), running(tmp_path, taken))
    checks = doctor.free_ports(settings_of(tmp_path, taken))
    assert {check.name: check.found for check in checks} == {name: f"{taken[name]}, ours" for name in PORTS}
    assert {check.verdict for check in checks} == {"ok"}


def test_after_down_no_port_is_ours_so_that_a_stranger_on_the_apis_is_told(
    tmp_path: Path, taken: dict[str, int]
) -> None:
    before = running(tmp_path, taken)
    gone = tuple(replace(one, state="stopped", pid=None, started=None) for one in before.services)
    # What `down` leaves: the pid is that of a supervisor that has ended.
    assert before.started is not None
    state.write(Home(tmp_path), replace(before, phase="stopped", started=before.started + 1, services=gone))
    assert verdicts(settings_of(tmp_path, taken)) == dict.fromkeys(PORTS, "missing")


def test_the_dashboard_of_a_ray_that_was_joined_is_not_ours(tmp_path: Path, taken: dict[str, int]) -> None:
    before = running(tmp_path, taken)
    assert before.endpoints is not None
    joined = replace(before.endpoints, ray_token_file=None)
    state.write(Home(tmp_path), replace(before, endpoints=joined))
    assert verdicts(settings_of(tmp_path, taken))["ray_dashboard_port"] == "missing"


@pytest.mark.parametrize("setting", EXTERNAL)
def test_a_port_that_a_start_does_not_choose_is_not_missed(setting: str, tmp_path: Path, taken: dict[str, int]) -> None:
    url, unused = EXTERNAL[setting]
    settings = settings_of(tmp_path, {setting: url, **taken})
    found = verdicts(settings)
    assert {name for name, verdict in found.items() if verdict == "ok"} == unused
    # The same as a start does, which is refused no port of these.
    free = settings.model_copy(update=dict.fromkeys(PORTS, 0))
    Home(tmp_path).prepare()
    chosen = ports.choose(free, Home(tmp_path))
    assert {name for name in PORTS if getattr(chosen, name) == 0} == unused


def test_the_remedies_that_name_a_service_of_others_clear_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> Path:
        raise ServiceFailed("nats", "nats-server is not installed", "or set ENCHANTED_NATS_URL")

    monkeypatch.setattr(doctor, "binary", absent)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # a Python that cannot import chdb
    free = dict.fromkeys(PORTS, 0)
    own = settings_of(tmp_path, free)
    missing = {check.name for check in doctor.examine(own) if check.verdict == "missing"}
    assert missing >= {"nats-server", "chdb"}

    others = {name: url for name, (url, _) in EXTERNAL.items() if name != "ray_address"}
    checks = doctor.examine(own.model_copy(update=others))
    told = {check.name: check for check in checks}
    assert (told["nats-server"].verdict, told["chdb"].verdict) == ("ok", "ok")
    assert "hidden" not in json.dumps([check.as_dict() for check in checks])


def test_a_program_that_cannot_be_run_is_missing_and_the_other_checks_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_no_machine, not_ours_to_run = tmp_path / "of-no-machine", tmp_path / "not-ours-to-run"
    of_no_machine.write_bytes(b"\x7fELF nothing more")
    of_no_machine.chmod(0o755)
    not_ours_to_run.write_text("")
    monkeypatch.setattr(doctor, "binary", lambda: of_no_machine)
    monkeypatch.setattr(doctor, "bubblewrap", lambda: str(not_ours_to_run))
    found = {check.name: check for check in doctor.examine(settings_of(tmp_path, dict.fromkeys(PORTS, 0)))}
    assert (found["nats-server"].verdict, found["sandbox"].verdict) == ("missing", "missing")
    assert "Exec format error" in found["nats-server"].found
    assert "Permission denied" in found["sandbox"].found


def test_a_program_that_does_not_end_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(doctor, "SECONDS", 0.2)
    monkeypatch.setattr(doctor, "bubblewrap", lambda: str(slow))
    check = doctor.sandbox()
    assert (check.verdict, check.found) == ("missing", "slow: not done after 0 s")
