"""Ports: fixed by a setting, or a free one that the home remembers."""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import asdict, dataclass

from enchanted.cluster.errors import PortTaken
from enchanted.cluster.home import Home, write_atomic
from enchanted.cluster.settings import Settings

LOOPBACK = "127.0.0.1"
LASTING = range(20_000, 32_768)
"""Ports that Linux gives to nobody by itself (its `ip_local_port_range` begins at 32,768): one that is free now will be
when its service, seconds later, listens."""
TRIES = 100
SERVICE_OF = {
    "nats_port": "nats",
    "clickhouse_port": "store",
    "ray_port": "ray",
    "ray_dashboard_port": "the Ray dashboard",
    "api_port": "the API",
}
EXTERNAL = {
    "nats_port": "nats_url",
    "clickhouse_port": "clickhouse_url",
    "ray_port": "ray_address",
    "ray_dashboard_port": "ray_address",
}
"""The setting with which a start leaves a port alone: others run the service."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where each service of a home listens; 0 for one that is not ours to start."""

    nats_port: int
    clickhouse_port: int
    ray_port: int
    ray_dashboard_port: int
    api_port: int


def choose(settings: Settings, home: Home) -> Ports:
    """The ports of this start: the setting, or where it is 0 the port of the last start if free, or a new one.

    Raises:
        PortTaken: a fixed port is in use.
    """
    before = _remembered(home)
    chosen: dict[str, int] = {}
    for name, service in SERVICE_OF.items():
        if name in EXTERNAL and getattr(settings, EXTERNAL[name]) is not None:
            chosen[name] = 0
        elif fixed := getattr(settings, name):
            if is_free(fixed):
                chosen[name] = fixed
            elif name == "api_port" and settings.ray_address is not None:
                # What serves there may be that Ray, which then serves us as well.
                chosen[name] = free(0, taken=set(chosen.values()))
            else:
                raise PortTaken(service, fixed, name)
        else:
            chosen[name] = free(before.get(name, 0), taken=set(chosen.values()))
    ports = Ports(**chosen)
    write_atomic(home.ports, json.dumps(asdict(ports)))
    return ports


def _remembered(home: Home) -> dict[str, int]:
    try:
        table = json.loads(home.ports.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    known = table.items() if isinstance(table, dict) else ()
    return {name: port for name, port in known if isinstance(port, int) and 0 <= port <= 65_535}


def free(wish: int, taken: set[int]) -> int:
    """A port nobody listens on and that is not in ``taken``: ``wish`` if it can be had."""
    if wish and wish not in taken and is_free(wish):
        return wish  # also another one than these: a port that the last start had is known to others
    for _ in range(TRIES):
        port = LASTING.start + secrets.randbelow(len(LASTING))
        if port not in taken and is_free(port):
            return port
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
