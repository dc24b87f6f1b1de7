"""`enchanted submit`: to which Ray, and with whose token; and what a Ray of our own is started without."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.job_submission

from enchanted.cluster import services, state
from enchanted.cluster.errors import CommandFailed, SubmitFailed
from enchanted.cluster.home import Home
from enchanted.cluster.processes import ProcessId
from enchanted.cluster.services import OTHER_TOKEN
from enchanted.cluster.settings import Settings
from enchanted.cluster.state import Endpoints, State
from enchanted.cluster.submit import submit

OURS = "http://127.0.0.1:18265"


@pytest.fixture
def running(tmp_path: Path) -> State:
    """The state of services that are up; this process stands for their supervisor."""
    endpoints = Endpoints(
        nats_url="", clickhouse_url="", api_url="", ray_address="", ray_dashboard_url=OURS,
        token_file=tmp_path / "token", ray_token_file=tmp_path / "ray_token", home=tmp_path,
    )  # fmt: skip
    me = ProcessId.of(os.getpid())
    assert me is not None
    return State(phase="healthy", pid=me.pid, started=me.started, endpoints=endpoints)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, str]]]]:
    """Which Ray was asked, and with which of its variables; none takes a job."""
    seen = list[tuple[str, dict[str, str]]]()

    def client(where: str) -> Any:
        seen.append((where, {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}))
        raise ConnectionError("refused")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", client)
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ[OTHER_TOKEN] = "of another Ray"
    yield seen
    os.environ.clear()
    os.environ.update(before)


def _submitted(folder: Path, found: State, address: str | None = None) -> str:
    state.write(Home(folder), found)
    with pytest.raises(SubmitFailed) as caught:
        submit(Settings(home=folder), ["run"], working_dir=folder, address=address, wait=False)
    return str(caught.value)


Asked = list[tuple[str, dict[str, str]]]


@pytest.mark.parametrize("address", [None, OURS, "http://localhost:18265"])
def test_a_job_goes_to_our_ray_with_our_token(
    tmp_path: Path, running: State, asked: Asked, address: str | None
) -> None:
    assert "does not take the job: refused" in _submitted(tmp_path, running, address)
    where = address or OURS
    assert asked == [(where, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "ray_token")})]


def test_another_ray_is_not_given_our_token(tmp_path: Path, running: State, asked: Asked) -> None:
    _submitted(tmp_path, running, "http://127.0.0.1:8265")
    assert asked == [("http://127.0.0.1:8265", {OTHER_TOKEN: "of another Ray"})]


@pytest.mark.parametrize("phase", ["stopped", "failed"])
def test_no_job_goes_to_whoever_has_the_port_of_services_that_have_ended(
    tmp_path: Path, running: State, asked: Asked, phase: Any
) -> None:
    assert "no Ray to submit to" in _submitted(tmp_path, replace(running, phase=phase))
    assert "no Ray to submit to" in _submitted(tmp_path, replace(running, started=0))
    assert asked == []


def test_a_ray_of_our_own_is_started_without_another_rays_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[dict[str, str]]()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env))
    monkeypatch.setenv(OTHER_TOKEN, "of another Ray")
    home = Home(tmp_path)
    home.prepare()
    services._spawn(home, Settings(home=tmp_path))
    services._spawn(home, Settings(home=tmp_path, ray_address="10.0.0.1:6379"))
    assert [env.get(OTHER_TOKEN) for env in started] == [None, "of another Ray"]


@pytest.mark.parametrize("address", ["foo", "http://foo", "ray://h:10001", "http://h:x", "http://[::1"])
def test_an_address_that_is_none_of_a_dashboard_is_a_usage_error_at_once(
    tmp_path: Path, asked: Asked, address: str
) -> None:
    with pytest.raises(CommandFailed, match="no address of a Ray dashboard") as caught:
        submit(Settings(home=tmp_path), ["run"], working_dir=tmp_path, address=address, wait=False)
    assert (caught.value.exit_code, asked) == (2, [])


def test_an_address_without_a_scheme_is_of_http(tmp_path: Path, running: State, asked: Asked) -> None:
    _submitted(tmp_path, running, "elsewhere:8265")
    assert [where for where, _ in asked] == ["http://elsewhere:8265"]


@pytest.mark.parametrize("error", [ValueError("too large"), PermissionError(13, "denied"), RuntimeError()])
def test_whatever_keeps_the_job_from_being_taken_is_said(
    tmp_path: Path, running: State, asked: Asked, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def client(where: str) -> Any:
        raise error

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", client)
    assert f"{OURS} does not take the job: " in _submitted(tmp_path, running)


def test_a_log_that_breaks_off_does_not_say_that_the_job_ended(
    tmp_path: Path, running: State, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        def __init__(self, where: str) -> None: ...

        def submit_job(self, **_: Any) -> str:
            return "job-7"

        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            yield "working"
            raise ConnectionError("reset")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", Client)
    state.write(Home(tmp_path), running)
    with pytest.raises(SubmitFailed, match="the job goes on; `ray job status job-7`"):
        submit(Settings(home=tmp_path), ["run"], working_dir=tmp_path, address=None, wait=True)
