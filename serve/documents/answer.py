"""What any answer may be: plain JSON, a problem, a state of health; and whether the client has it already."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from enchanted.schemas.canonical import sha256_hex

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The client has it, as `If-None-Match` says"}}
"""What a tagged route may answer besides."""


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


def tagged(request: Request, content: Response) -> Response:
    """``content`` with an ETag, or 304 when the client has it.

    The tag is the hash of the answer itself. One of the run's head would not do: rows come into the table while an
    answer is made, and behind later ones, so the same head may stand for different answers.
    """
    etag = f'"{sha256_hex(bytes(content.body))}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if has_tag(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    content.headers.update(headers)
    return content


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
