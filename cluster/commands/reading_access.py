"""Where the API is and which token opens it: flags first, else what the home's services say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from enchanted.cluster import console
from enchanted.cluster.errors import USAGE, CommandFailed

if TYPE_CHECKING:
    from enchanted.serve.client import ApiClient

TOKEN = re.compile(rb"[\x21-\x7e]{8,}")
MAX_TOKEN = 4096
"""Bytes."""

UrlOption = Annotated[str | None, typer.Option("--url", help="API of another machine.", show_default=False)]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the API's bearer token.", show_default=False)
]


@contextmanager
def api(url: str | None, token_file: Path | None) -> Iterator[ApiClient]:
    """A client for the API the flags name, or the home's own.

    Raises:
        NotRunning: no services run for the home.
        CommandFailed: the token cannot be read, or an URL came without one.
    """
    from enchanted.serve.client import ApiClient  # httpx costs a tenth of a second of every `--help`

    if url is None:
        url, known = _own()
        token_file = token_file or known
    elif token_file is None:
        raise CommandFailed("--url names another API", "give its token with --token-file", USAGE)
    else:
        _require_http(url)
    with ApiClient(url, _token(token_file), lost=say_lost) as client:
        yield client


def say_lost(error: Exception) -> None:
    """What follows a run goes on by itself once the API is back."""
    console.say(f"{error}; asking again for a minute")


def _own() -> tuple[str, Path]:
    from enchanted.cluster import services  # pydantic costs a tenth of a second of every `--help`

    home = services.home_of(console.settings())
    endpoints = services.endpoints_in_cluster() or services.read_endpoints(home.path)
    return endpoints.api_url, endpoints.token_file


def _require_http(url: str) -> None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise CommandFailed(f"--url {url} is none of an API", "write http://HOST:PORT or https://HOST:PORT", USAGE)


def _token(path: Path) -> str:
    remedy = "`enchanted status --json` names the right one"
    try:
        token = path.read_bytes()[:MAX_TOKEN].strip()
    except OSError as error:
        raise CommandFailed(f"the token file {path} cannot be read: {error.strerror}", remedy, USAGE) from error
    # What is in a wrong file is nobody's business: it must not get into a header, nor into a message.
    if not TOKEN.fullmatch(token):
        raise CommandFailed(f"{path} holds no token", remedy, USAGE)
    return token.decode()
