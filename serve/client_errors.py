"""What asking the API can end in; imports nothing, since a command tells these apart without a client of its own."""

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """Base of what asking the API can end in; the message is "cause; remedy"."""

    exit_code: ClassVar[int] = 1


class ApiUnreachable(ClientError):
    """Nothing answers, or a backend of the API does not."""

    exit_code = 4


class ApiSlow(ApiUnreachable):
    """The API took the request, and its answer does not come."""

    def __init__(self, url: str, seconds: float | None) -> None:
        super().__init__(
            f"the API at {url} did not answer within {seconds or 0:.0f} s and may still be at work; "
            "see `enchanted runs` and `enchanted status` before you ask again"
        )


class ApiBusy(ApiUnreachable):
    """Too much at once is asked of the API: it is there, but not for now."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds
        """Until it may be asked again."""


class NothingFound(ClientError):
    """The API knows no such thing."""

    exit_code = 3


class RequestRefused(ClientError):
    """The API does not take the request, or the token."""

    exit_code = 2


class ApiFailed(ClientError):
    """The API answered with an error of its own."""
