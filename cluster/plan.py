"""What one start of a home consists of: which services are ours, where they listen, how they are reached."""

from __future__ import annotations

from dataclasses import dataclass

from enchanted.cluster import ports
from enchanted.cluster.clickhouse import StoreServer
from enchanted.cluster.home import Home
from enchanted.cluster.nats import NatsServer
from enchanted.cluster.ray_head import RayHead
from enchanted.cluster.service import Service
from enchanted.cluster.settings import Settings
from enchanted.cluster.state import Endpoints


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The services to start, the ones that others run, and the resulting endpoints."""

    services: tuple[Service, ...]
    external: tuple[str, ...]
    endpoints: Endpoints
    api_port: int


def plan(settings: Settings, home: Home) -> Plan:
    """Choose ports and decide what is ours.

    Raises:
        PortTaken: a fixed port is in use.
    """
    chosen = ports.choose(settings, home)
    nats = NatsServer(home, chosen.nats_port, settings.stream)
    store = StoreServer(home, chosen.clickhouse_port)
    ray = RayHead(home, chosen.ray_port, chosen.ray_dashboard_port, settings)
    given: dict[str, str | None] = {
        nats.name: settings.nats_url,
        store.name: settings.clickhouse_url,
        ray.name: settings.ray_address,
    }
    own: tuple[Service, ...] = (nats, store, ray)
    endpoints = Endpoints(
        nats_url=settings.nats_url or nats.url,
        clickhouse_url=settings.clickhouse_url or store.url,
        clickhouse_reader_url=settings.clickhouse_reader_url or ("" if settings.clickhouse_url else store.reader_url),
        api_url=f"http://{ports.LOOPBACK}:{chosen.api_port}",
        ray_address=settings.ray_address or ray.address,
        ray_dashboard_url="" if settings.ray_address else ray.dashboard_url,
        token_file=settings.token_file or home.token,
        home=home.path,
        ray_token_file=None if settings.ray_address else home.ray_token,
    )
    return Plan(
        services=tuple(service for service in own if not given[service.name]),
        external=tuple(name for name, url in given.items() if url),
        endpoints=endpoints,
        api_port=chosen.api_port,
    )
