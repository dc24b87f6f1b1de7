"""A Ray that others run: joined, never stopped; the services outlive the job that started them."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchanted.actors.testing import make_repository
from enchanted.cluster.ports import LOOPBACK, free
from enchanted.cluster.processes import end, with_variable
from enchanted.cluster.testing import FREE_PORTS, HomeUnderTest, eventually, home_under_test

pytestmark = pytest.mark.timeout(300)

MARK = "_ENCHANTED_TEST_RAY"


class PlainRay:
    """`ray start --head` as anybody types it, but for folder and ports."""

    def __init__(self, folder: Path, auth: dict[str, str]) -> None:
        self.auth = auth
        self.port, self.dashboard_port = free(0, set()), free(0, set())
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment |= {MARK: str(folder), "RAY_USAGE_STATS_ENABLED": "0", **auth}
        self.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        options = {
            "--port": self.port,
            "--dashboard-port": self.dashboard_port,
            "--dashboard-agent-listen-port": 0,
            "--node-ip-address": LOOPBACK,
            "--temp-dir": folder,
            "--object-store-memory": 100 * 1024 * 1024,
            "--min-worker-port": 0,
            "--max-worker-port": 0,
        }
        flags = [str(part) for pair in options.items() for part in pair]
        argv = [sys.executable, "-m", "enchanted.cluster.ray_head", "start", "--head", "--block", *flags]
        self.process = subprocess.Popen(
            argv, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def dashboard_url(self) -> str:
        return f"http://{LOOPBACK}:{self.dashboard_port}"

    def get(self, path: str) -> object:
        token = self.auth.get("RAY_AUTH_TOKEN_PATH")
        headers = {"Authorization": f"Bearer {Path(token).read_text()}"} if token else {}
        request = urllib.request.Request(f"{self.dashboard_url}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def ready(self) -> bool:
        try:
            nodes = self.get("/nodes?view=summary")
        except (OSError, ValueError):
            return False
        return "ALIVE" in json.dumps(nodes)

    def actors(self, *states: str) -> set[str]:
        """Names of the actors the dashboard shows, in these states or any."""
        found = self.get("/api/v0/actors?detail=true&limit=1000")
        assert isinstance(found, dict)
        return {row["name"] for row in found["data"]["result"]["result"] if not states or row["state"] in states}

    def submit(self, folder: Path, *arguments: str, **variables: str) -> str:
        """`ray job submit` and wait; returns its output."""
        runtime = json.dumps({"env_vars": variables})
        argv = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.dashboard_url]
        argv += ["--working-dir", str(folder), "--runtime-env-json", runtime, "--", sys.executable, "-m", "enchanted"]
        done = subprocess.run([*argv, *arguments], env=self.environment, capture_output=True, text=True, timeout=220)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(params=["disabled", pytest.param("token", marks=pytest.mark.slow)])
def auth(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Ray's own default, and tokens."""
    if request.param == "disabled":
        return {"RAY_AUTH_MODE": "disabled"}
    token = tmp_path / "ray_token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


@pytest.fixture
def ray(tmp_path_factory: pytest.TempPathFactory, auth: dict[str, str]) -> Iterator[PlainRay]:
    # A socket's path may have 107 bytes; pytest's folders are too deep for Ray's.
    folder = Path("/tmp") / tmp_path_factory.getbasetemp().name / f"ray-{os.getpid()}"
    folder.mkdir(parents=True)
    cluster = PlainRay(folder, auth)
    try:
        eventually(cluster.ready, seconds=120, about="Ray has started")
        yield cluster
    finally:
        end(lambda: with_variable(MARK, str(folder)), grace=2.0)
        cluster.process.wait()


@pytest.fixture
def home(tmp_path: Path, auth: dict[str, str]) -> Iterator[HomeUnderTest]:
    with home_under_test(tmp_path / "home", **auth, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0") as found:
        yield found


def test_a_job_runs_the_swarm_and_its_services_outlive_it_in_a_ray_that_goes_on(
    ray: PlainRay, home: HomeUnderTest, tmp_path: Path
) -> None:
    upload = tmp_path / "upload"
    upload.mkdir()
    variables = {**FREE_PORTS, "ENCHANTED_HOME": str(home.home.path)}
    ray.submit(upload, "up", **variables)
    eventually(lambda: home.status()["healthy"], seconds=60, about="all services are healthy")
    status = home.status()
    assert {service["name"]: service["state"] for service in status["services"]}["ray"] == "external"
    eventually(lambda: "ingest-0" in ray.actors("ALIVE"), seconds=60, about="ingest runs as an actor")

    # A second job knows nothing of the home and finds the services in the cluster.
    git = make_repository(tmp_path / "shop", {"shop.py": "import os\n"})
    command = ("run", "make the linter pass", "--repo", str(tmp_path / "shop"), "--check", "ruff check .")
    log = ray.submit(upload, *command, ENCHANTED_MODEL="minimal")
    verdict = re.search(r"(run-\w+) merged, branch (\S+), (\S+)/runs/", log)
    assert verdict, log
    assert "coder-1 decided: " in log
    assert verdict[3] == status["api_url"]
    assert git.run("branch", "--list", verdict[2]).decode().split() == [verdict[2]]
    roles = ("orchestrator", "architect", "coder-1", "reviewer")
    assert {f"{role}:{verdict[1]}" for role in roles} <= ray.actors()

    assert home.run("down").returncode == 0
    assert not home.processes()
    assert ray.ready()
    eventually(lambda: "ingest-0" not in ray.actors("ALIVE"), seconds=60, about="ingest is no actor any more")
