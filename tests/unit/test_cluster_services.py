"""What `up` and `status` say where something does not answer as it should."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from enchanted.cluster import services
from enchanted.cluster.errors import SettingsInvalid, StartTimedOut
from enchanted.cluster.processes import with_variable
from enchanted.cluster.service import LOG_LIMIT, MARKER
from enchanted.cluster.services import _actors, _figures
from enchanted.cluster.settings import Settings
from enchanted.cluster.state import Endpoints


def endpoints(url: str, token_file: Path) -> Endpoints:
    return Endpoints(
        nats_url="",
        clickhouse_url="",
        api_url=url,
        ray_address="",
        ray_dashboard_url=url,
        token_file=token_file,
        ray_token_file=token_file,
        home=token_file.parent,
    )


async def test_a_token_that_cannot_be_read_costs_the_figures_and_no_more(tmp_path: Path) -> None:
    where = endpoints("http://127.0.0.1:1", tmp_path)
    assert (await _figures(where), await _actors(where)) == ({}, ())


BODIES = (
    b"<html>",
    b"\xff\xff",
    b"[]",
    b'"ok"',
    b'{"workers": 3, "data": 3}',
    b'{"workers": [{}], "data": {"result": {"result": [{}]}}}',
    b'{"workers": [{"name": "a", "events": {"rows": 1}}], "data": {"result": {"result": [{"name": "ingest-0"}]}}}',
)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:20])
async def test_an_answer_that_is_none_of_ours_costs_the_figures_and_no_more(tmp_path: Path, body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        writer.close()

    (tmp_path / "token").write_text("secret")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        where = endpoints(f"http://127.0.0.1:{port}", tmp_path / "token")
        assert (await _figures(where), await _actors(where)) == ({}, ())


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that starts and never says so."""
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(services, "python", lambda module: sleeping)


@pytest.mark.usefixtures("silent")
async def test_a_supervisor_that_never_says_that_it_started_is_ended_at_the_deadline(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, start_seconds=0.5)
    with pytest.raises(StartTimedOut, match="still waiting for the supervisor"):
        await services.up(settings)
    assert with_variable(MARKER, str(tmp_path)) == []


@pytest.mark.usefixtures("silent")
async def test_a_supervisors_log_that_has_grown_past_the_limit_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "supervisor.log"
    log.parent.mkdir()
    log.touch()
    os.truncate(log, LOG_LIMIT + 1)
    with pytest.raises(StartTimedOut):
        await services.up(Settings(home=tmp_path, start_seconds=0.5))
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size == LOG_LIMIT + 1


@pytest.mark.usefixtures("silent")
async def test_a_token_file_that_is_set_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    token = tmp_path / "of-the-api"
    settings = Settings(home=tmp_path / "home", token_file=token, start_seconds=0.1)
    with pytest.raises(StartTimedOut):
        await services.up(settings)
    made = token.read_text()
    with pytest.raises(StartTimedOut):
        await services.up(settings)
    assert (len(made), token.read_text(), token.stat().st_mode & 0o777) == (48, made, 0o600)


@pytest.mark.parametrize(
    ("place", "why"), [("empty", "is empty"), ("nowhere/token", "No such file"), (".", "director")]
)
async def test_a_token_file_that_is_none_is_refused_before_anything_starts(
    tmp_path: Path, place: str, why: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsInvalid, match=why):
        await services.up(Settings(home=tmp_path / "home", token_file=tmp_path / place))
