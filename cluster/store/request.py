"""One HTTP request of the ClickHouse protocol, taken apart."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from enchanted.cluster.store.credentials import DATABASE
from enchanted.cluster.store.errors import AuthenticationFailed, NotSupported
from enchanted.cluster.store.sessions import DEFAULT_TIMEOUT

_PROTOCOL = frozenset(
    {
        "query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check",
        "user", "password", "quota_key", "compress", "decompress", "wait_end_of_query", "buffer_size",
        "client_protocol_version", "enable_http_compression", "http_zlib_compression_level", "role",
        "send_progress_in_http_headers", "http_headers_progress_interval_ms", "add_http_cors_header",
        "cancel_http_readonly_queries_on_client_close", "http_wait_end_of_query", "close_session",
    }
)  # fmt: skip
"""Parameters the front itself acts on or has no use for; every other one is a setting of the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What was asked, apart from the body."""

    method: str
    path: str
    user: str
    password: str
    query: str
    """From the URL; the body follows it."""
    database: str
    settings: Mapping[str, str]
    params: Mapping[str, str]
    default_format: str
    query_id: str
    session_id: str
    session_timeout: float
    session_check: bool
    wait: bool
    """Send nothing before the statement has ended, so that its status is known."""
    accept_encoding: tuple[str, ...]
    """Compressions the client takes; empty unless it asked for one."""
    content_encoding: str
    content_type: str


def parse(method: str, path: str, query_string: bytes, raw_headers: Iterable[tuple[bytes, bytes]]) -> Request:
    """Take a request apart.

    Raises:
        AuthenticationFailed: the Authorization header cannot be read.
        NotSupported: ClickHouse's own block compression is asked for.
    """
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw_headers}
    given = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, encoding="utf-8"))
    for name in ("compress", "decompress"):
        if given.get(name, "0") not in ("0", ""):
            raise NotSupported(f"{name}=1 (ClickHouse's own blocks); use HTTP compression: lz4, zstd, gzip")
    user, password = _login(headers, given)
    compress = given.get("enable_http_compression", "0") == "1"
    return Request(
        method=method,
        path=path,
        user=user,
        password=password,
        query=given.get("query", ""),
        database=given.get("database") or headers.get("x-clickhouse-database", ""),
        settings=settings_of(given),
        params=params_of(given),
        default_format=given.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated",
        query_id=given.get("query_id") or str(uuid.uuid4()),
        session_id=given.get("session_id", ""),
        session_timeout=_seconds(given.get("session_timeout", "")),
        session_check=given.get("session_check", "0") == "1",
        wait=given.get("wait_end_of_query", "0") == "1",
        accept_encoding=_encodings(headers.get("accept-encoding", "")) if compress else (),
        content_encoding=headers.get("content-encoding", "").strip().lower(),
        content_type=headers.get("content-type", ""),
    )


def settings_of(given: Mapping[str, str]) -> dict[str, str]:
    """The engine's settings among a request's parameters."""
    return {name: value for name, value in given.items() if name not in _PROTOCOL and not name.startswith("param_")}


def params_of(given: Mapping[str, str]) -> dict[str, str]:
    """The bound parameters: ``param_x=1`` is ``{x:...}`` in the statement."""
    return {name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")}


def database_of(request: Request) -> str:
    """The database a request runs in."""
    return request.database or DATABASE


def _login(headers: Mapping[str, str], given: Mapping[str, str]) -> tuple[str, str]:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except ValueError as error:
            raise AuthenticationFailed("(unreadable Authorization header)") from error
        return user, password
    if "x-clickhouse-user" in headers:
        return headers["x-clickhouse-user"], headers.get("x-clickhouse-key", "")
    return given.get("user", "default"), given.get("password", "")


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else DEFAULT_TIMEOUT


def _encodings(header: str) -> tuple[str, ...]:
    names = (part.split(";")[0].strip().lower() for part in header.split(","))
    return tuple(name for name in names if name)
