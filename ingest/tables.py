"""The connection to ClickHouse, and the tables in it."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, DataError

from enchanted.ingest.errors import BadUrl, RowRefused, SchemaChanged, TableForbidden, TableUnavailable
from enchanted.schemas.ddl import MIGRATIONS, migrations

CONNECT_DEADLINE = 5
REQUEST_DEADLINE = 35
"""Seconds; longer than EXECUTION_DEADLINE, so that the server gives up first."""
EXECUTION_DEADLINE = 30
"""Seconds a statement may run on the server: less than the consumer's ack_wait, so that a late insert has ended
before its messages are delivered again."""

_ACCESS_DENIED = 497
_ABOUT_DATA = frozenset({6, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 436, 444, 691})


async def connect(url: str) -> AsyncClient:
    """An asynchronous client for ``http://user:password@host:port/database``.

    Raises:
        BadUrl: the URL cannot be read.
        TableUnavailable: nothing answers there, or it refuses the login.
    """
    try:
        return await clickhouse_connect.get_async_client(
            **_options(url), autogenerate_session_id=False, query_retries=0
        )
    except (ClickHouseError, aiohttp.ClientError, OSError) as error:
        raise TableUnavailable(reason(error)) from error


def connect_blocking(url: str) -> Client:
    """The same without asyncio, for scripts and notebooks.

    Raises:
        BadUrl, TableUnavailable: as `connect`.
    """
    try:
        return clickhouse_connect.get_client(**_options(url), autogenerate_session_id=False)
    except (ClickHouseError, OSError) as error:
        raise TableUnavailable(reason(error)) from error


async def apply_ddl(client: AsyncClient) -> list[str]:
    """Make every table and view that is missing; returns the names of the files applied now.

    Raises:
        SchemaChanged: a file differs from the one that was applied.
        TableUnavailable: ClickHouse went away in the middle; call it again.
    """
    try:
        await client.command(MIGRATIONS)
        rows = (await client.query("SELECT number, sha256 FROM schema_migrations FINAL")).result_rows
        applied = {int(number): str(digest) for number, digest in rows}
        new = []
        for migration in migrations():
            if migration.number in applied:
                if applied[migration.number] != migration.sha256:
                    raise SchemaChanged(migration.number, migration.name)
                continue
            await client.command(migration.sql)
            await client.insert(
                "schema_migrations",
                [[migration.number, migration.name, migration.sha256]],
                column_names=["number", "name", "sha256"],
                column_type_names=["UInt32", "String", "String"],
            )
            new.append(f"{migration.number:03d}_{migration.name}")
        return new
    except (ClickHouseError, aiohttp.ClientError, OSError) as error:
        raise TableUnavailable(reason(error)) from error


def unavailable(error: Exception) -> TableUnavailable:
    """A client's error, where nothing asked for is about rows of ours."""
    denied = isinstance(error, DatabaseError) and error.code == _ACCESS_DENIED
    return TableForbidden(reason(error)) if denied else TableUnavailable(reason(error))


def understood(error: Exception) -> RowRefused | TableUnavailable:
    """A client's error as one of ours: about the rows themselves, or about the server."""
    if isinstance(error, DataError) or (isinstance(error, DatabaseError) and error.code in _ABOUT_DATA):
        return RowRefused(reason(error))
    return unavailable(error)


def reason(error: Exception) -> str:
    """The first line, without the URL and its credentials."""
    text = str(error) or type(error).__name__
    return text.splitlines()[0].split(" (for url")[0][:400]


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    port = None
    with suppress(ValueError):
        port = parts.port
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadUrl(url)
    return {
        "interface": parts.scheme,
        "host": parts.hostname,
        "port": port or (8443 if parts.scheme == "https" else 8123),
        "username": unquote(parts.username or "default"),
        "password": unquote(parts.password or ""),
        "database": parts.path.strip("/") or "default",
        "connect_timeout": CONNECT_DEADLINE,
        "send_receive_timeout": REQUEST_DEADLINE,
        "settings": {"max_execution_time": EXECUTION_DEADLINE},
        # Within one machine compression costs more than it saves.
        "compress": not is_local(url),
    }
