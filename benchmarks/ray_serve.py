"""The API as it is deployed: a replica on Ray behind Ray Serve's proxy, each a process of its own.

``python -m enchanted.benchmarks.ray_serve api NATS STORE READER PORT``, as `players`; it has a Ray of its own.
Its environment is that of a Ray with a token: whoever reaches one without may run code as this user.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import ray
from ray import serve

from enchanted.benchmarks.listeners import TOKEN
from enchanted.benchmarks.players import Role, begin, play
from enchanted.cluster import deploy
from enchanted.cluster.ports import LOOPBACK
from enchanted.cluster.settings import Settings
from enchanted.cluster.state import Endpoints


async def api(nats_url: str, store_url: str, reader_url: str, port: str) -> None:
    """Ray Serve and the API on it, until input ends; it is there when it answers."""
    # Not below a folder with a long name: a socket's path may have 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="eb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "token").write_text(TOKEN)
        endpoints = Endpoints(
            nats_url=nats_url, clickhouse_url=store_url, clickhouse_reader_url=reader_url,
            api_url=f"http://127.0.0.1:{port}", ray_address="", ray_dashboard_url="", token_file=folder / "token",
            home=folder,
        )  # fmt: skip
        begin()
        # Ray and Serve say this and that; what this process prints is what it found.
        with redirect_stdout(sys.stderr):
            await asyncio.to_thread(_start, endpoints)
            await asyncio.to_thread(sys.stdin.read)
            await asyncio.to_thread(_stop)


def _start(endpoints: Endpoints) -> None:
    ray.init(
        address="local", namespace=deploy.NAMESPACE, include_dashboard=False, log_to_driver=False,
        logging_level=logging.WARNING, _temp_dir=str(endpoints.home / "ray"), _node_ip_address=LOOPBACK,
    )  # fmt: skip
    deploy.start_api(endpoints, Settings())


def _stop() -> None:
    serve.shutdown()
    ray.shutdown()


ROLES: dict[str, Role] = {"api": api}


if __name__ == "__main__":
    play(ROLES)
