"""What an answer of the API says to a client: a document, a live stream, or the error it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

import httpx

from enchanted.serve.client_errors import (
    ApiBusy,
    ApiFailed,
    ApiUnreachable,
    ClientError,
    NothingFound,
    RequestRefused,
)

BUSY = 10.0
"""Seconds until a server is asked again that is busy and does not say for how long."""
_BY_STATUS: dict[int, type[ClientError]] = {
    404: NothingFound,
    408: ApiUnreachable,
    502: ApiUnreachable,
    503: ApiUnreachable,
    504: ApiUnreachable,
}


def document(response: httpx.Response, *, also: Collection[int] = ()) -> dict[str, Any]:
    """The JSON object of an answer; ``also`` are statuses that have one though they are errors.

    Raises:
        ClientError: it is an error, or none of our answers.
    """
    answer = response if response.status_code in also else checked(response)
    with suppress(ValueError):
        found = answer.json()
        if isinstance(found, dict):
            return found
    raise _not_ours(response)


def live_pieces(response: httpx.Response) -> Iterator[bytes]:
    """The bytes of a stream of server-sent events.

    Raises:
        ClientError: it is an error, or no such stream.
    """
    yield from of_type("text/event-stream", response).iter_bytes()


def file_pieces(response: httpx.Response) -> Iterator[bytes]:
    """The bytes of a file.

    Raises:
        ClientError: it is an error, or a page to be shown.
    """
    if not checked(response).headers.get("Content-Disposition", "").startswith("attachment"):
        raise _not_ours(response)
    yield from response.iter_bytes()


def of_type(media_type: str, response: httpx.Response) -> httpx.Response:
    """The answer, if it is of this type.

    Raises:
        ClientError: it is an error, or of another type.
    """
    if checked(response).headers.get("Content-Type", "").partition(";")[0].strip() != media_type:
        raise _not_ours(response)
    return response


def checked(response: httpx.Response) -> httpx.Response:
    """The answer, if it is none of the errors.

    Raises:
        ClientError: what the answer says went wrong.
    """
    if response.is_success:
        return response
    try:
        problem = response.json()
        message = f"{problem['title']}; {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        # Ray Serve answers so while it starts and does not know the API yet.
        message = ""
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        wait = response.headers.get("Retry-After", "")
        raise ApiBusy(message or str(_not_ours(response)), float(wait) if wait.isdecimal() else BUSY)
    if not message:
        raise _not_ours(response)
    kind = _BY_STATUS.get(response.status_code, RequestRefused if response.is_client_error else ApiFailed)
    raise kind(message)


def _not_ours(response: httpx.Response) -> ApiUnreachable:
    elsewhere = response.headers.get("Location", "")
    # An address that is sent elsewhere is often one of http:// that should be https://.
    sent = f" and sent us to {elsewhere[:200]}" if response.is_redirect and elsewhere else ""
    return ApiUnreachable(f"the API answered {response.status_code}{sent}; is this address Enchanted's?")
