"""A Ray head of our own: loopback only, token authentication, its own folder and ports.

Two homes run side by side on one machine because nothing is shared: not the session folder, not a port, and
above all not ``ray stop``, which ends every Ray it finds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from enchanted.cluster import probes
from enchanted.cluster.errors import HomeRefused
from enchanted.cluster.home import PRIVATE_FOLDER, Home
from enchanted.cluster.ports import LOOPBACK
from enchanted.cluster.probes import NotReady
from enchanted.cluster.service import Command, python
from enchanted.cluster.settings import Settings


class RayHead:
    """`ray start --head --block` as a supervised process."""

    name = "ray"
    start_seconds = 150.0
    grace_seconds = 4.0
    """Nothing in Ray is worth waiting for: what counts is on the bus."""

    def __init__(self, home: Home, port: int, dashboard_port: int, settings: Settings) -> None:
        self.port = port
        self._dashboard_port = dashboard_port
        self._home = home
        self._settings = settings

    @property
    def address(self) -> str:
        """What ``ray.init(address=…)`` takes."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def dashboard_url(self) -> str:
        """Dashboard and Jobs API."""
        return f"http://{LOOPBACK}:{self._dashboard_port}"

    def command(self) -> Command:
        """Starts a new session; what an earlier one left behind is removed."""
        folder = session_folder(self._home)
        for name in folder.iterdir():
            shutil.rmtree(name, ignore_errors=True) if name.is_dir() and not name.is_symlink() else name.unlink()
        options: dict[str, object] = {
            "--port": self.port,
            "--dashboard-host": LOOPBACK,
            "--dashboard-port": self._dashboard_port,
            "--dashboard-agent-listen-port": 0,
            "--node-ip-address": LOOPBACK,
            "--temp-dir": folder,
            "--object-store-memory": self._settings.ray_object_store_mb * 1024 * 1024,
            # 0: any port; Ray's default range would collide with the fixed ports of other homes.
            "--min-worker-port": 0,
            "--max-worker-port": 0,
            "--include-log-monitor": "false",
        }
        if self._settings.ray_num_cpus is not None:
            options["--num-cpus"] = self._settings.ray_num_cpus
        flags = [str(part) for pair in options.items() for part in pair]
        return Command(
            argv=[*python("enchanted.cluster.ray_head"), "start", "--head", "--block", *flags],
            environment={
                **environment(self._home.ray_token),
                # It would wait 30 s for leases to be returned before it ends.
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
                # A job's `python` is the one that has our packages, whether or not its environment is activated.
                "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            },
        )

    async def probe(self) -> None:
        """Ask the dashboard for the nodes: it answers when the control store does, and knows the raylet."""
        await ask(self.dashboard_url, self._home.ray_token)


async def ask(dashboard_url: str, token_file: Path | None, *, timeout: float = 2.0) -> None:
    """Return when Ray says that at least one node is alive; raise NotReady otherwise."""
    url = f"{dashboard_url}/nodes?view=summary"
    try:
        headers = authorization(token_file)
    except OSError as error:
        raise NotReady(f"Ray's token {token_file} cannot be read: {error.strerror}") from error
    answer = await probes.http_json(url, headers=headers, timeout=timeout)
    try:
        states = [node["raylet"]["state"] for node in answer["data"]["summary"] if "raylet" in node]
    except (LookupError, TypeError):
        states = []
    if "ALIVE" not in states:
        raise NotReady("Ray has no living node yet")


def authorization(token_file: Path | None) -> dict[str, str]:
    """The header that Ray's HTTP servers ask for."""
    return {"Authorization": f"Bearer {token_file.read_text().strip()}"} if token_file else {}


_SERVE = {
    # One event loop in a replica, for requests and for Serve's own work.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Parts of it that we do not want. Replicas would listen themselves, on ports that a killed one leaves unusable for
    # a minute (they are bound without SO_REUSEADDR).
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    # What is printed would be logged, also that a log cannot be written.
    "RAY_SERVE_LOG_TO_STDERR": "1",
    # A thousand lines of warnings would go with a process that is killed.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # From the proxy to the replica without Ray's calls, which put an answer of more than 100 kB into shared memory.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    # Bytes; by default gRPC's 4 MiB, and an answer that is larger would be an error.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # gRPC would ask a proxy that `http_proxy` names for the way to this machine; it reads this instead of `no_proxy`.
    "no_grpc_proxy": ",".join(
        (LOOPBACK, "localhost", *filter(None, (os.environ.get(name) for name in ("no_grpc_proxy", "no_proxy"))))
    ),
    # Seconds, three times: a proxy that starts beside much else is not to be taken for a dead one.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}
"""A request costs the proxy and the replica less than half of the CPU that it does by Serve's defaults: 3.6 and 8.0 ms
together in one measurement, 2 cores, much else at work."""


def environment(token_file: Path | None) -> Mapping[str, str]:
    """Variables that every process of our Ray has, drivers included. Ray reads them when it is imported."""
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # `uv run` would make Ray build a new virtual environment for each worker.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **_SERVE,
    }
    if token_file is not None:
        variables |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            # The name is about other systems. False makes Ray use 127.0.0.1 where it would look for the address of
            # a network interface and listen there.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Workers started in advance have no set-up hook, so ours could not use them.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
        }
    return variables


def session_path(home: Home) -> Path:
    """Where Ray's folder for this home is. Not inside the home: a socket's path may have 107 bytes at most."""
    digest = hashlib.sha256(str(home.path).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"enchanted-{os.getuid()}-{digest}"


def session_folder(home: Home) -> Path:
    """Ray's folder for this home, made private. The last session's logs stay in it until the next start.

    Raises:
        HomeRefused: somebody else made it.
    """
    folder = session_path(home)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise HomeRefused(f"{folder} belongs to another user", "remove it, or set TMPDIR")
    folder.chmod(PRIVATE_FOLDER)
    link = home.logs / "ray"
    if not link.is_symlink():
        link.symlink_to(folder / "session_latest" / "logs")
    return folder


def main() -> None:
    """`ray`, without the Ray Client server: one more open port and one more process that nothing of ours uses."""
    from ray.scripts import scripts  # the heavy half of this module, wanted only in the process that is Ray

    scripts.get_ray_client_dependency_error = lambda: "not wanted"
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
