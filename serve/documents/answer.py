"""What any answer may be: plain JSON, a problem, a state of health; and whether the client has it already."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel
from starlette.responses import Response


class JsonResponse(Response):
    """A document of plain values."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """UTF-8 JSON."""
        return orjson.dumps(content)


def has_tag(if_none_match: str, etag: str) -> bool:
    """Whether a client that sent this `If-None-Match` has ``etag``, by the weak comparison (RFC 9110, 13.1.2)."""
    sent = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in sent or etag.removeprefix("W/") in sent


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class Health(BaseModel):
    """Alive."""

    status: Literal["ok"]


class DependencyState(BaseModel):
    """One service the API leans on."""

    ok: bool
    detail: str = ""
    milliseconds: float


class Readiness(BaseModel):
    """Every dependency's state."""

    ready: bool
    dependencies: dict[str, DependencyState]


def described(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route that renders its own JSON tells OpenAPI."""
    return {status: {"model": model, "description": model.__doc__ or ""}}
