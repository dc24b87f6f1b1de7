"""Every error as ``application/problem+json`` (RFC 9457), validation and the unexpected included."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from enchanted.serve.errors import ServeError

log = logging.getLogger(__name__)


class ProblemResponse(Response):
    """A problem document."""

    media_type = "application/problem+json"


def problem(
    status: int, code: str, title: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
) -> ProblemResponse:
    """The answer for one error; ``extra`` members go beside the standard ones."""
    document = {
        "type": f"urn:enchanted:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    # ASCII: a message may quote a lone surrogate of the request, which UTF-8 cannot carry.
    content = json.dumps({**document, **extra}, ensure_ascii=True).encode()
    return ProblemResponse(content, status_code=status, headers=dict(headers or {}))


def document_of(error: ServeError) -> dict[str, Any]:
    """The problem document of one of ours."""
    head = {"type": f"urn:enchanted:problem:{error.code}", "title": error.title, "status": error.status}
    return {**head, "detail": str(error), "code": error.code, **error.members}


def problem_of(error: ServeError) -> ProblemResponse:
    """The answer for one of ours."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return problem(error.status, error.code, error.title, str(error), headers=headers, **error.members)


async def _ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServeError)
    return problem_of(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"where": [str(part) for part in item["loc"]], "why": str(item["msg"]), "kind": str(item["type"])}
        for item in error.errors()
    ]
    detail = "; ".join(f"{'.'.join(item['where'])}: {item['why']}" for item in errors)
    return problem(422, "invalid-request", "The request is not valid", detail, errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "-")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(error.status_code, code, phrase, str(error.detail), headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods of a path; each is a route, and the error knows those of one of them only."""
    there = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in there for method in getattr(route, "methods", None) or ()})


async def _unexpected(_: Request, error: Exception) -> Response:
    log.error("request failed", exc_info=error)
    return problem(500, ServeError.code, ServeError.title, "the API failed on this request; its log says why")


def install(app: FastAPI) -> None:
    """Answer every exception of ``app`` with a problem document."""
    app.add_exception_handler(ServeError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
