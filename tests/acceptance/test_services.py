"""`enchanted up`, `status`, `doctor`, `down` as a user types them."""

from __future__ import annotations

import json
import re
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.reader import consumer_state
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.bus.testing import nats_server
from enchanted.cluster.testing import HomeUnderTest, eventually, home_under_test, kill
from enchanted.ingest.worker import DURABLE
from enchanted.schemas.events import SwarmEvent

pytestmark = pytest.mark.timeout(300)

METRIC = re.compile(r"^(ray_enchanted_\w+)\{(.*)\} (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HomeUnderTest]:
    with home_under_test(tmp_path_factory.mktemp("acceptance") / "home") as found:
        found.up()
        yield found


def answers(url: str, token: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return int(response.status)


def test_after_up_everything_is_healthy_and_reachable(home: HomeUnderTest) -> None:
    healthy = dict.fromkeys(("nats", "store", "ray", "api", "ingest-0"), "healthy")

    def states() -> dict[str, str]:
        return {service["name"]: service["state"] for service in home.status()["services"]}

    eventually(lambda: states() == healthy, seconds=60, about="all services are healthy")
    status = home.status()
    assert answers(f"{status['api_url']}/healthz") == 200
    assert answers(f"{status['ray_dashboard_url']}/api/version", Path(status["ray_token_file"]).read_text()) == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        answers(f"{status['ray_dashboard_url']}/api/version")


def test_the_pipeline_tells_what_the_ingest_actor_did(home: HomeUnderTest) -> None:
    status = home.status()

    seen: dict[str, Any] = {}

    def told() -> bool:
        (worker,) = pipeline(status)["workers"] or ({"events": None},)
        seen.update(worker)
        return bool((worker["events"] or {}).get("rows"))

    # The actor's own signals are events; and for a moment it may not answer.
    eventually(told, seconds=60, about="the actor has stored events")
    worker = seen
    assert worker["name"] == "ingest-0"
    assert 0 < worker["events"]["last_batch"] <= worker["events"]["rows"]
    assert worker["events"]["last_insert_seconds"] > 0
    assert worker["spans"]["rows"] >= 0

    def shown() -> str:
        return next((one["detail"] for one in home.status()["services"] if one["name"] == "ingest-0"), "")

    eventually(lambda: " rows, " in shown(), seconds=60, about="`enchanted status` says so too")
    assert int(shown().partition(" rows, ")[0] or 0) >= worker["events"]["rows"]


async def test_copies_with_other_bytes_and_commits_are_among_the_metrics_that_ray_exports(home: HomeUnderTest) -> None:
    status = home.status()
    events = [SwarmEvent(event_id="exported", trace_id="9" * 32, agent_id=f"agent-{n}") for n in (1, 1, 2, 3)]
    async with Bus.connect(status["nats_url"]) as bus:
        await bus.publisher.publish_many(
            [
                Outgoing(
                    subject="swarm.events.coder.decision", payload=one.SerializeToString(), event_id=f"exported-{n}"
                )
                for n, one in enumerate(events)
            ]
        )
    wanted = {
        'ray_enchanted_ingest_conflicting_total{worker="ingest-0"}': 2,
        'ray_enchanted_ingest_duplicates_total{worker="ingest-0"}': 3,
    }
    seen: dict[str, float] = {}

    def exported() -> bool:
        seen.update(metrics(status))
        return seen.items() >= wanted.items()

    await anyio.to_thread.run_sync(
        partial(eventually, exported, seconds=90, about=f"Ray exports {wanted}, not {seen}"), abandon_on_cancel=True
    )
    # The actor's signals go through a publisher of its own.
    assert seen['ray_enchanted_publisher_messages_total{role="unspecified"}'] > 0
    assert 0 < seen['ray_enchanted_publisher_mean_commit{role="unspecified"}'] < 30
    assert seen['ray_enchanted_ingest_insert_seconds_total{worker="ingest-0"}'] > 0


def metrics(status: dict[str, Any]) -> dict[str, float]:
    """Our metrics as Prometheus finds and reads them, with our own tag alone."""
    headers = {"Authorization": f"Bearer {Path(status['ray_token_file']).read_text().strip()}"}
    found: dict[str, float] = {}
    for place in read_json(f"{status['ray_dashboard_url']}/api/prometheus/sd", headers):
        for target in place["targets"]:
            try:
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as response:
                    text = response.read().decode()
            except urllib.error.URLError:  # Ray names its autoscaler too, which does not listen
                continue
            for name, tags, value in METRIC.findall(text):
                own = ",".join(tag for tag in tags.split(",") if tag.startswith(("worker=", "role=")))
                found[f"{name}{{{own}}}"] = float(value)
    return found


def pipeline(status: dict[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {Path(status['token_file']).read_text().strip()}"}
    return read_json(f"{status['api_url']}/api/v1/pipeline", headers)


def read_json(url: str, headers: dict[str, str]) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return json.load(response)


def test_secrets_are_readable_by_their_owner_only(home: HomeUnderTest) -> None:
    status = home.status()
    files = [Path(status["token_file"]), Path(status["ray_token_file"]), home.home.state]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    assert stat.S_IMODE(home.home.path.stat().st_mode) == 0o700


def test_a_second_up_returns_at_once_and_changes_nothing(home: HomeUnderTest) -> None:
    before = home.state()
    begun = time.monotonic()
    assert home.run("up").returncode == 0
    # The budget is 2 s on an idle machine. That nothing was started anew its state says, which has the pids.
    assert time.monotonic() - begun < 90
    assert home.state() == before


@pytest.mark.parametrize("name", ["nats", "store"])
def test_a_killed_service_comes_back_on_the_same_port(home: HomeUnderTest, name: str) -> None:
    before = home.service(name)
    kill(before["pid"])
    eventually(
        lambda: home.service(name)["state"] == "healthy" and home.service(name)["pid"] != before["pid"],
        seconds=90,
        about=f"{name} is restarted",
    )
    after = home.service(name)
    assert after["port"] == before["port"]
    assert after["restarts"] == before["restarts"] + 1
    eventually(lambda: home.run("status").returncode == 0, seconds=90, about="everything is healthy again")


def test_up_and_status_print_data_on_stdout_only(home: HomeUnderTest) -> None:
    document = json.loads(home.run("up", "--json").stdout)
    assert document["nats_url"].startswith("nats://enchanted:")
    assert document["api_url"] == home.status()["api_url"]
    lines = home.run("--quiet", "status").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["api", "nats", "store", "ray", "ingest-0"]


def test_doctor_finds_what_the_services_need(home: HomeUnderTest) -> None:
    done = home.run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {"python", "git", "nats-server", "sandbox", "chdb", "ray", "disk", "api_port"} <= set(checks)
    missing = [check for check in checks.values() if check["verdict"] == "missing"]
    assert done.returncode == (1 if missing else 0)
    assert all(check["remedy"] for check in missing)


def test_config_show_says_where_a_value_was_set(home: HomeUnderTest) -> None:
    done = home.run("config", "show", "--origin", "--json")
    assert json.loads(done.stdout)["settings"]["nats_port"] == {"value": 0, "origin": "environment ENCHANTED_NATS_PORT"}


@pytest.mark.slow
def test_a_submitted_job_finds_the_services_and_its_exit_code_is_the_jobs(home: HomeUnderTest, tmp_path: Path) -> None:
    done = home.run("submit", "--working-dir", str(tmp_path), "--", "--quiet", "up", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("raysubmit_")
    assert home.status()["nats_url"] in done.stderr
    failed = home.run("--quiet", "submit", "--working-dir", str(tmp_path), "--", "no-such-command")
    assert failed.returncode == 1


async def test_a_second_home_on_an_external_bus_runs_beside_the_first_and_down_ends_only_its_own(
    home: HomeUnderTest, tmp_path: Path
) -> None:
    async with nats_server(tmp_path / "bus", limits=None) as bus:
        await anyio.to_thread.run_sync(partial(second_home, home, tmp_path / "second", bus.url))
        async with Bus.connect(bus.url) as ours:
            ingest = await consumer_state(ours.link, EVENTS_STREAM, DURABLE)
    assert ingest is not None
    assert ingest.acknowledged > 0, "`down` had written what was taken, an hour before its batch was due"


def second_home(home: HomeUnderTest, folder: Path, nats_url: str) -> None:
    ingest = {"ENCHANTED_INGEST__BATCH_SECONDS": "3600", "ENCHANTED_INGEST__WORKERS": "2"}
    # Whoever works with another Ray has its token in the environment.
    with home_under_test(folder, ENCHANTED_NATS_URL=nats_url, RAY_AUTH_TOKEN="another", **ingest) as second:
        with second.popen("up") as one, second.popen("up") as other:
            (output, said), (other_output, _) = one.communicate(), other.communicate()
            outputs = {output, other_output}
        assert "note: 2 ingest workers" in said
        assert (one.returncode, other.returncode) == (0, 0)
        assert len(outputs) == 1, "of two at once, one starts the services"
        eventually(lambda: second.status()["healthy"], seconds=60, about="the second home is healthy")
        status = second.status()
        assert status["nats_url"] == nats_url
        assert {service["name"]: service["state"] for service in status["services"]}["nats"] == "external"
        ours = {process.pid for process in home.processes()}
        assert not ours & {process.pid for process in second.processes()}
        assert pipeline(status)["ingest"]["acknowledged_seq"] == 0
        eventually(lambda: pipeline(status)["ingest"]["ack_pending"] > 0, seconds=60, about="ingest holds a signal")
        assert second.run("down").returncode == 0
        assert not second.processes()
        assert second.status()["state"] == "stopped"
        assert {process.pid for process in home.processes()} == ours
    eventually(lambda: home.status()["healthy"], seconds=60, about="the first home is healthy")
