"""How a client writes what it asks: what cannot be written is refused as the API would refuse it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from enchanted.serve.client_errors import RequestRefused


class Requests(httpx.Client):
    """Sends requests, each of them first written by ``build_request``."""

    def build_request(self, *args: Any, **kwargs: Any) -> httpx.Request:
        """The request.

        Raises:
            RequestRefused: HTTP or JSON has no way to say it.
        """
        with _writing():
            return super().build_request(*args, **kwargs)


def part(text: str) -> str:
    """A text as one part of a path.

    Raises:
        RequestRefused: it is no Unicode.
    """
    with _writing():
        return quote(text, safe="")


def given(parameters: Mapping[str, object]) -> dict[str, str]:
    """The parameters of a query that are not None."""
    return {name: str(value) for name, value in parameters.items() if value is not None}


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except (ValueError, httpx.InvalidURL) as error:  # a text that has no bytes is a ValueError too
        raise RequestRefused(
            f"this request cannot be sent ({error}); keys must be ASCII, texts Unicode without lone surrogates, "
            "numbers finite, and addresses with their filters shorter than 64 KiB"
        ) from error
