"""The servers of one URL setting: ``nats://user:password@a:4222,nats://user:password@b:4222``."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import ParseResult, SplitResult, unquote, urlsplit

from nats.aio.client import Server

DEFAULT_PORT = 4222


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """Any one of these will do: they are one server, or one cluster."""

    urls: list[str]
    """Without credentials where all have the same."""
    where: str
    """Hosts and ports for a message; no credentials."""
    user: str | None = None
    """Of all of them, and of those the cluster names itself; None where URLs have none, or different ones."""
    password: str | None = None
    token: str | None = None


def host_and_port(url: ParseResult | SplitResult) -> str:
    """What tells one server from another in a message; no credentials."""
    return f"{url.hostname}:{url.port or DEFAULT_PORT}"


def parse_servers(text: str) -> Servers:
    """Split a comma-separated list; spaces around a comma do not count."""
    urls = [url.strip() for url in text.split(",") if url.strip()]
    parts = [urlsplit(url) for url in urls]
    where = ", ".join(map(host_and_port, parts))
    logins = {(one.username, one.password) for one in parts}
    user, password = logins.pop() if len(logins) == 1 else (None, None)
    if user is None:
        return Servers(urls=urls, where=where)
    # What the cluster tells about itself is without credentials, and known to be the same server only then.
    urls = [one._replace(netloc=one.netloc.rpartition("@")[2]).geturl() for one in parts]
    if password is None:
        # nats://secret@host: a token, as every NATS client reads it.
        return Servers(urls=urls, where=where, token=unquote(user))
    return Servers(urls=urls, where=where, user=unquote(user), password=unquote(password))


def another(servers: Sequence[Server], last: str, wait: float) -> tuple[Server, float]:
    """Which to try next, and after how many seconds: not the last one, which may hang, nor one tried in vain.

    ``last``: host and port; ``wait``: seconds before a server is tried again.
    """
    chosen = min(servers, key=lambda server: (server.reconnects, server.uri.netloc == last, random.random()))
    return chosen, wait if chosen.reconnects else 0.0
