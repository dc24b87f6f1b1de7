"""The driver that puts our part into Ray: ``python -m enchanted.cluster.deploy VERB --home FOLDER``.

The verbs: ``deploy``; ``drain``, before our Ray ends; ``remove``, from a Ray that goes on.

Prints one JSON line: what it found, or cause and remedy. It starts together with the services and waits for each
when it needs it, so that its imports cost no time of their own. Running it twice changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusAccessDenied, BusNotTrusted, StreamDiffers
from enchanted.bus.streams import Durability, StreamLimits
from enchanted.cluster import probes, ray_head, registry, state
from enchanted.cluster.composition import swarm_config
from enchanted.cluster.errors import ClusterError, DurabilityMissing, RayTaken, RayUnreachable, ServiceFailed
from enchanted.cluster.home import Home
from enchanted.cluster.nats import NatsServer
from enchanted.cluster.probes import NotReady
from enchanted.cluster.ray_head import RayHead
from enchanted.cluster.settings import ApiSettings, Settings
from enchanted.cluster.state import Endpoints
from enchanted.cluster.telemetry import WORKER_HOOK, worker_environment
from enchanted.ingest import tables
from enchanted.ingest.errors import BadUrl, SchemaChanged

NAMESPACE = "enchanted"
APPLICATION = "enchanted"
PROXY_PATH = "/"
WAIT_SECONDS = RayHead.start_seconds
API_SECONDS = 60.0

LASTING = (ClusterError, BusAccessDenied, BusNotTrusted, StreamDiffers, BadUrl, SchemaChanged)
"""What a second try meets as well, or what was waited for already."""
DURABILITY_SECONDS = 30.0
"""Until a server that does not say how durable it is counts as one that is not."""

log = logging.getLogger("enchanted.deploy")


def main() -> int:
    """Run the verb; the exit code is 1 when the report is an error."""
    parser = argparse.ArgumentParser(prog="enchanted.cluster.deploy")
    parser.add_argument("verb", choices=("deploy", "drain", "remove"))
    parser.add_argument("--home", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home(options.home)
    settings = Settings.model_validate_json(home.settings.read_text())
    try:
        report = run(options.verb, home, settings)
    except Exception as error:  # the process boundary: whatever it is, the supervisor must be told
        log.exception("%s failed", options.verb)
        cause, _, remedy = str(error).partition("; ")
        remedy = remedy or f"read {home.logs}/deploy.log"
        report = {"cause": cause or type(error).__name__, "remedy": remedy, "final": isinstance(error, LASTING)}
        if isinstance(error, ClusterError):
            report |= {"cause": error.cause, "remedy": error.remedy, "exit_code": error.exit_code}
    print(json.dumps(report), flush=True)
    return 1 if "cause" in report else 0


def run(verb: str, home: Home, settings: Settings) -> dict[str, Any]:
    """Deploy, drain or remove; returns the report."""
    endpoints = state.read(home).endpoints
    if endpoints is None:
        raise ServiceFailed("deploy", f"{home.state} names no endpoints")
    if verb == "remove":
        connect(endpoints)
        remove(endpoints, settings)
        return {}
    if verb == "drain":
        connect(endpoints)
        drain_ingest(settings)
        return {}
    import_heavy()
    notes = [*asyncio.run(prepare_bus_and_store(endpoints, home, settings)), *crowded(settings)]
    if settings.ray_address is None:
        asyncio.run(_ready(partial(ray_head.ask, endpoints.ray_dashboard_url, home.ray_token)))
    connect(endpoints)
    asyncio.run(refuse_second_home(endpoints))
    start_ingest(endpoints, settings)
    api_url = start_api(endpoints, settings)
    endpoints = Endpoints.from_dict({**endpoints.as_dict(), "api_url": api_url, "ray_dashboard_url": dashboard_url()})
    registry.register(endpoints)
    resume_runs(endpoints, settings)
    asyncio.run(_ready(partial(_healthy, api_url), API_SECONDS))
    return {"api_url": api_url, "ray_dashboard_url": endpoints.ray_dashboard_url, "notes": notes}


def import_heavy() -> None:
    """Pay for the imports while Ray starts."""
    import enchanted.serve.deployment  # noqa: F401


async def prepare_bus_and_store(endpoints: Endpoints, home: Home, settings: Settings) -> list[str]:
    """Streams and tables exist, and the bus is as durable as we say; returns what a person should know."""
    await _ready(partial(probes.nats, endpoints.nats_url))
    system_url = None
    if settings.nats_url is None:
        system_url = NatsServer(home, int(endpoints.nats_url.rpartition(":")[2]), settings.stream).system_url
    async with Bus.connect(endpoints.nats_url, name="enchanted-deploy", sys_url=system_url) as bus:
        stream = settings.stream
        await bus.ensure_streams(StreamLimits(events_max_bytes=stream.max_bytes, replicas=stream.replicas))
        durability = await _durability(bus, verifiable=system_url is not None)
    await _ready(partial(probes.clickhouse, endpoints.clickhouse_url))
    client = await tables.connect(endpoints.clickhouse_url)
    try:
        await tables.apply_ddl(client)
    finally:
        await client.close()
    if durability.sync_always:
        return []
    if system_url is not None and settings.stream.sync == "always":
        raise DurabilityMissing(
            f"the bus does not write before it acknowledges: {durability.detail}", "run `enchanted doctor`"
        )
    return [f"events may be lost in a power cut: {durability.detail}"]


async def _durability(bus: Bus, *, verifiable: bool) -> Durability:
    until = time.monotonic() + DURABILITY_SECONDS
    while True:
        found = await bus.durability()
        if found.sync_always is not None or not verifiable or time.monotonic() > until:
            return found
        await asyncio.sleep(0.5)


def crowded(settings: Settings) -> list[str]:
    """What a person should know who has several workers fill the embedded store. They work, so it is not refused."""
    workers = settings.ingest.workers
    if workers == 1 or settings.clickhouse_url is not None:
        return []
    return [
        f"{workers} ingest workers fill the embedded store, which one alone keeps busy, and an event that is published "
        "twice may be visible twice for a minute; set ingest.workers to 1, or clickhouse_url to a ClickHouse server"
    ]


async def _healthy(api_url: str) -> None:
    await probes.http(f"{api_url}/healthz")


async def _ready(probe: probes.ProbeFunction, seconds: float = WAIT_SECONDS) -> None:
    try:
        await probes.until_ready(probe, deadline=seconds)
    except NotReady as error:
        raise ServiceFailed("deploy", str(error)) from error


def connect(endpoints: Endpoints) -> None:
    """Connect this process to Ray as a driver; workers of ours export spans where this process would."""
    import ray

    variables = worker_environment(os.environ)
    if "PYTHONPATH" in os.environ:  # a joined Ray's workers do not have what a job was started with
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    try:
        ray.init(
            address=endpoints.ray_address,
            namespace=NAMESPACE,
            runtime_env={"worker_process_setup_hook": WORKER_HOOK, "env_vars": variables},
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayUnreachable(endpoints.ray_address, str(error).splitlines()[0]) from error


async def refuse_second_home(endpoints: Endpoints) -> None:
    """Raise RayTaken when the joined Ray serves another home, whose actors have the names ours would."""
    known = registry.registered()
    if known is None or known.home == endpoints.home:
        return
    with contextlib.suppress(NotReady):
        await _healthy(known.api_url)
        raise RayTaken(endpoints.ray_address, known.home)


def start_ingest(endpoints: Endpoints, settings: Settings) -> None:
    """The pool of detached ingest actors; those that run stay as they are."""
    import ray

    from enchanted.cluster.ingest_actor import IngestActor

    actor = ray.remote(IngestActor)
    for number in range(settings.ingest.workers):
        name = f"ingest-{number}"
        actor.options(
            name=name, lifetime="detached", get_if_exists=True, max_restarts=-1, max_task_retries=0, num_cpus=0
        ).remote(name, endpoints.nats_url, endpoints.clickhouse_url, settings.ingest)


def drain_ingest(settings: Settings) -> None:
    """Have the ingest actors write and acknowledge what they took; returns in time, whatever they meet."""
    import ray

    from enchanted.cluster.ingest_actor import DRAIN_SECONDS

    asked = []
    for number in range(settings.ingest.workers):
        try:
            asked.append(ray.get_actor(f"ingest-{number}").drain.remote())
        except (ValueError, AttributeError):  # there is none, or it is of an older version
            continue
    if asked:
        drained, _ = ray.wait(asked, num_returns=len(asked), timeout=DRAIN_SECONDS + 1)
        log.info("%d of %d ingest actors are drained", len(drained), len(asked))


def start_api(endpoints: Endpoints, settings: Settings) -> str:
    """The Serve application; returns the URL it is served on."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import LoggingConfig

    from enchanted.serve.deployment import build_app

    host, _, port = endpoints.api_url.rpartition("//")[2].partition(":")
    # A joined Ray may serve other applications already: then its own HTTP address holds, not ours.
    logs = LoggingConfig(enable_access_log=False)
    serve.start(http_options={"host": host, "port": int(port)}, proxy_location="HeadOnly", logging_config=logs)
    config = {
        **endpoints.as_dict(),
        "ray_dashboard_url": dashboard_url(),
        "swarm": swarm_config(settings, endpoints),
        "ingest_workers": settings.ingest.workers,
        **_who_may_ask(settings.api),
    }
    serve.run(build_app(config), name=APPLICATION, route_prefix=PROXY_PATH)
    options = _get_global_client().http_config
    return f"http://{options.host}:{options.port}"


def _who_may_ask(api: ApiSettings) -> dict[str, Any]:
    from enchanted.serve.guard.rate import Rate

    rate = Rate(per_second=api.requests_per_second, burst=api.burst)
    return {"hosts": api.hosts, "origins": api.origins, "rate": rate, "max_days": api.max_days}


def resume_runs(endpoints: Endpoints, settings: Settings) -> None:
    """Runs that a stop or a crash of Ray left without an orchestrator go on from their logs."""
    from enchanted.actors.swarm import Swarm

    for run_id in asyncio.run(Swarm(swarm_config(settings, endpoints)).adopt()):
        log.info("run %s goes on", run_id)


def remove(endpoints: Endpoints, settings: Settings) -> None:
    """Take our actors and our application out of a Ray that goes on; those of another home, which has it now, stay."""
    from ray import serve

    known = registry.registered()
    if known is not None and known.home != endpoints.home:
        return
    registry.unregister(endpoints)
    # The application comes last: it may take all of the time there is, and what is left of it takes no events.
    try:
        drain_ingest(settings)
    finally:
        kill_ingest(settings)
    serve.delete(APPLICATION)
    if not serve.status().applications:
        serve.shutdown()


def kill_ingest(settings: Settings) -> None:
    """End the ingest actors, for good."""
    import ray

    for number in range(settings.ingest.workers):
        try:
            ray.kill(ray.get_actor(f"ingest-{number}"))
        except ValueError:
            continue


def dashboard_url() -> str:
    """Where the connected Ray has its dashboard; empty when it has none."""
    import ray

    url: str = ray._private.worker.global_worker.node.webui_url or ""
    return f"http://{url}" if url else ""


if __name__ == "__main__":
    sys.exit(main())
