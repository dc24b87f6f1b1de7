"""The Ray that `enchanted bench query` measures through."""

from __future__ import annotations

import asyncio
import contextlib

import psutil

from enchanted.benchmarks.query import deployed
from enchanted.bus.testing import free_port


def _listening(process: psutil.Process) -> set[str]:
    """Addresses; Serve's replica has a port open to all, under `up` as well: Serve does not ask where."""
    with contextlib.suppress(psutil.NoSuchProcess):  # an idle worker may end meanwhile
        if not process.name().startswith("ray::ServeReplica"):
            connections = process.net_connections("inet")
            return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return set()


def _mode_of_head(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.name() == "gcs_server":
            return process.environ().get("RAY_AUTH_MODE", "none")
    return None


async def test_the_ray_of_a_measurement_listens_on_loopback_only_and_asks_for_a_token() -> None:
    absent = free_port()
    urls = (f"nats://127.0.0.1:{absent}", *[f"http://127.0.0.1:{absent}/x"] * 2)
    async with asyncio.timeout(220), deployed(*urls):
        family = psutil.Process().children(recursive=True)
        (mode,) = filter(None, map(_mode_of_head, family))
        assert mode == "token"
        assert set().union(*map(_listening, family)) <= {"127.0.0.1", "::ffff:127.0.0.1"}
