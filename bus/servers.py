"""The servers of one URL setting: ``nats://user:password@a:4222,nats://user:password@b:4222``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

DEFAULT_PORT = 4222


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """Any one of these will do: they are one server, or one cluster."""

    urls: list[str]
    where: str
    """Hosts and ports for a message; no credentials."""
    user: str | None
    """Of all of them, so that servers which the cluster names itself, without credentials, can be used too; None where
    the URLs have none, or different ones."""
    password: str | None
    token: str | None


def parse_servers(text: str) -> Servers:
    """Split a comma-separated list; spaces around a comma do not count."""
    urls = [url.strip() for url in text.split(",") if url.strip()]
    parts = [urlsplit(url) for url in urls]
    logins = {(one.username, one.password) for one in parts}
    (user, password) = logins.pop() if len(logins) == 1 else (None, None)
    return Servers(
        urls=urls,
        where=", ".join(_where(one) for one in parts),
        user=unquote(user) if user and password is not None else None,
        password=unquote(password) if user and password is not None else None,
        # nats://secret@host: a token, as every NATS client reads it.
        token=unquote(user) if user and password is None else None,
    )


def _where(parts: SplitResult) -> str:
    return f"{parts.hostname}:{parts.port or DEFAULT_PORT}"
