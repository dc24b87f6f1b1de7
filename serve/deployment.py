"""The API as a Ray Serve application: a few lines around `create_app`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import ray
from ray import serve
from ray.exceptions import RayError
from starlette.types import ASGIApp

from enchanted.actors.config import SwarmConfig
from enchanted.actors.models.engine_pool import every_engine
from enchanted.actors.swarm import NAMESPACE, Swarm
from enchanted.actors.work import RunRequest
from enchanted.serve.app import create_app
from enchanted.serve.backpressure import Backpressure
from enchanted.serve.errors import RunsUnavailable
from enchanted.serve.guard.auth import access_from
from enchanted.serve.guard.rate import Rate
from enchanted.serve.receiving import LateReceive
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import MAX_SPAN, Dependencies
from enchanted.serve.sources.store import Store

# A live stream holds its place for as long as it is open.
MAX_ONGOING_REQUESTS = 1_024
RECONCILING_ACTOR = "ingest-0"
"""Of the pool of ingest actors, the one that reconciles."""
ACTOR_SECONDS = 1.5
"""How long an ingest actor may take for an answer; less than the page waits for all of them."""


class RayRuns:
    """The swarm on this Ray cluster as the API starts runs on it."""

    def __init__(self, config: SwarmConfig) -> None:
        self._swarm = Swarm(config)

    async def start(self, request: RunRequest) -> str:
        """Begin a run."""
        try:
            return await self._swarm.start(request)
        except RayError as error:
            raise RunsUnavailable(str(error).splitlines()[0]) from error

    async def resume(self, run_id: str) -> None:
        """Make sure that somebody drives a recorded run."""
        try:
            await self._swarm.resume(run_id)
        except RayError as error:
            raise RunsUnavailable(str(error).splitlines()[0]) from error

    async def cancel(self, run_id: str) -> None:
        """Ask a run to end."""
        try:
            await self._swarm.cancel(run_id)
        except RayError as error:
            raise RunsUnavailable(str(error).splitlines()[0]) from error


@dataclass(frozen=True, kw_only=True)
class RayView:
    """This Ray cluster's machines and engines."""

    dashboard_url: str = ""

    async def nodes(self) -> list[dict[str, Any]] | None:
        """Ray's nodes, the dead ones too."""
        try:
            return [_node(node) for node in await asyncio.to_thread(ray.nodes)]
        except RayError:
            return None

    async def engines(self) -> list[dict[str, Any]] | None:
        """Every engine that answers."""
        try:
            return [asdict(one) for one in await every_engine()]
        except RayError:
            return None


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node_id": node["NodeID"],
        "host": node["NodeManagerHostname"],
        "address": node["NodeManagerAddress"],
        "alive": node["Alive"],
        "resources": node.get("Resources", {}),
    }


async def last_reconciliation() -> dict[str, Any] | None:
    """The report of the ingest actor on this Ray cluster; None while there is none, or it does not answer."""
    return await _told(RECONCILING_ACTOR, "reconciliation")


async def ingest_workers(count: int) -> list[dict[str, Any]]:
    """What each of the pool says of itself; without figures where an actor is not there or does not answer in time."""
    names = [f"ingest-{number}" for number in range(count)]
    told = await asyncio.gather(*(_told(name, "statistics") for name in names))
    return [one or {"name": name, "events": None, "spans": None} for name, one in zip(names, told, strict=True)]


async def _told(name: str, question: str) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(ACTOR_SECONDS):
            actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            answer: dict[str, Any] | None = await getattr(actor, question).remote()
    except (ValueError, RayError, TimeoutError):
        return None
    except AttributeError:
        # In a Ray that we joined an actor may be of an older version than ours.
        return None
    return answer


def dependencies_from(config: Mapping[str, Any]) -> Dependencies:
    """Dependencies for the keys nats_url, clickhouse_url, clickhouse_reader_url, token_file, home and
    ray_dashboard_url.

    ``swarm`` (a SwarmConfig) lets the API start runs; ``api_url`` or ``api_host``, ``hosts`` and ``origins`` widen who
    may ask, ``rate`` (a Rate) says how often, ``max_days`` about how much time at once; ``ingest_workers`` is how many
    ingest actors there are.
    """
    swarm: SwarmConfig | None = config.get("swarm")
    return Dependencies(
        store=Store(config["clickhouse_url"]),
        reader=Store(config.get("clickhouse_reader_url") or config["clickhouse_url"]),
        bus=BusLink(config["nats_url"]),
        access=access_from(
            Path(config["token_file"]),
            hosts=(_host_of(config), *config.get("hosts", ())),
            origins=config.get("origins", ()),
        ),
        cache=Path(config["home"], "cache", "serve"),
        starter=None if swarm is None else RayRuns(swarm),
        reconciliation=last_reconciliation,
        ingest_workers=partial(ingest_workers, config.get("ingest_workers", 1)),
        cluster=RayView(dashboard_url=config.get("ray_dashboard_url", "")),
        rate=config.get("rate", Rate()),
        max_span=timedelta(days=config.get("max_days", MAX_SPAN.days)),
    )


def _host_of(config: Mapping[str, Any]) -> str:
    return config.get("api_host") or urlsplit(config.get("api_url", "")).hostname or "127.0.0.1"


@serve.deployment(
    name="api",
    num_replicas=1,
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    ray_actor_options={"num_cpus": 0},
    # Lines are written at once (`cluster/ray_head.py`), so each request would wait for one.
    logging_config={"enable_access_log": False},
)
@serve.ingress()
class Api:
    """One replica; the app is built where it runs."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Serve mounts."""
        return LateReceive(Backpressure(create_app(dependencies_from(self._config))))


def build_app(config: Mapping[str, Any]) -> serve.Application:
    """The application for `serve.run(build_app(config), name="enchanted", route_prefix="/")`."""
    return cast("serve.Application", cast("Any", Api).bind(dict(config)))
