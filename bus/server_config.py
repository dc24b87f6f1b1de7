"""The text of the embedded server's configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

Sync = Literal["always", "default"]

ACCOUNT = "APP"
"""Owns our streams."""

MAX_PAYLOAD = 2 * 1024 * 1024
"""Bytes; twice the stream's limit, so that a dead letter fits with its headers."""

MAX_FILE_STORE = 32 * 1024**3
"""Bytes; covers the default StreamLimits, which the server reserves up front."""


ROUTE_USER = "route"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterNode:
    """What makes a server one of several that hold a stream together."""

    server: str
    """Its name, unlike any other's in the cluster; its data is known by it."""
    cluster: str
    host: str
    port: int
    """Where the other servers reach it."""
    routes: Sequence[str]
    """``host:port`` of the other servers."""
    password: str
    """The same for all servers of the cluster."""


def _quoted(text: str) -> str:
    """A string of NATS's configuration language, which knows JSON's quotes but not its \\u escapes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render(
    *,
    port: int,
    store_dir: Path,
    user: str,
    password: str,
    sys_user: str,
    sys_password: str,
    sync: Sync = "always",
    max_file_store: int = MAX_FILE_STORE,
    host: str = "127.0.0.1",
    cluster: ClusterNode | None = None,
) -> str:
    """A server with an application account that owns JetStream and a system account that may read settings back.

    ``sync="always"`` flushes to the device before each acknowledgement. ``default`` does not: a power cut loses
    what was acknowledged in the last two minutes. It exists for tests that show the difference.
    ``cluster``: the server is one of several; without it, it stands alone.
    """
    sync_line = "sync_interval: always" if sync == "always" else ""
    return f"""\
server_name: {_quoted(cluster.server if cluster is not None else "enchanted")}
listen: {_quoted(f"{host}:{port}")}
max_payload: {MAX_PAYLOAD}
max_control_line: 4096
write_deadline: "10s"
jetstream {{
  store_dir: {_quoted(str(store_dir))}
  max_file_store: {max_file_store}
  {sync_line}
}}
accounts {{
  {ACCOUNT} {{ jetstream: enabled, users: [ {{ user: {_quoted(user)}, password: {_quoted(password)} }} ] }}
  SYS {{ users: [ {{ user: {_quoted(sys_user)}, password: {_quoted(sys_password)} }} ] }}
}}
system_account: SYS
{_cluster(cluster) if cluster is not None else ""}"""


def _cluster(node: ClusterNode) -> str:
    user = f"{ROUTE_USER}:{quote(node.password, safe='')}"
    routes = ", ".join(_quoted(f"nats://{user}@{route}") for route in node.routes)
    return f"""\
cluster {{
  name: {_quoted(node.cluster)}
  listen: {_quoted(f"{node.host}:{node.port}")}
  authorization {{ user: {_quoted(ROUTE_USER)}, password: {_quoted(node.password)} }}
  routes: [ {routes} ]
}}
"""
