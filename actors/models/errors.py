"""What can go wrong between an agent and its model; every message names the remedy."""

from __future__ import annotations

import re

from enchanted.schemas.errors import PortableError

_QUERY = re.compile(r"\?[^#'\"]*")
LONGEST_SHOWN = 300
"""Characters of a URL in a message."""


def without_secrets(url: str) -> str:
    """A URL, or what was meant to be one, as it may be shown: no user name, no password, no query."""
    scheme, colon, rest = url.partition(":")
    before, at, after = rest.rpartition("@")
    if at:
        rest = f"{'//' if before.startswith('//') else ''}***@{after}"
    return _QUERY.sub("?***", f"{scheme}{colon}{rest}")


class ModelError(PortableError):
    """Base of everything a model can object to."""


class BadModelUrl(ModelError):
    """The text is not a model URL."""

    def __init__(self, url: str, why: str) -> None:
        shown = without_secrets(url)[:LONGEST_SHOWN]
        super().__init__(
            f"{shown!r} is not a model: {why}; write vllm:<hub id or folder>, openai:<base url>#<model>, or bundled"
        )


class ModelNotFound(ModelError):
    """The place answers, but it has no such model."""

    def __init__(self, model: str, looked_in: str, remedy: str) -> None:
        super().__init__(f"model {model!r} was not found in {looked_in}; {remedy}")


class ModelUnavailable(ModelError):
    """No answer came before the deadline, though it was asked again and again."""

    def __init__(self, model: str, waited_s: float, why: str, remedy: str) -> None:
        super().__init__(f"model {model!r} gave no answer within {waited_s:g} s ({why}); {remedy}")


class ModelRefused(ModelError):
    """The model understood the request and will not serve it; asking again gives the same."""

    def __init__(self, model: str, why: str, remedy: str = "change the request") -> None:
        super().__init__(f"model {model!r} refused the request: {why}; {remedy}")


class EngineUnusable(ModelError):
    """vLLM cannot be started here."""

    def __init__(self, model: str, why: str, remedy: str) -> None:
        super().__init__(f"no engine for {model!r}: {why}; {remedy}")


class EngineDied(ModelError):
    """The engine core ended; its actor ends too and Ray builds a new one."""

    def __init__(self, model: str, why: str) -> None:
        self.why = why
        super().__init__(f"the engine for {model!r} died ({why}); it is being restarted, ask again in a minute")
