"""`POST /api/v1/sessions`: a one-time code for the token, so that no token is in a link."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.errors import CodeRefused
from enchanted.serve.guard.codes import Codes
from enchanted.serve.sources.dependencies import Deps

router = APIRouter(tags=["access"])

PATH = "/api/v1/sessions"


class CodeBody(BaseModel):
    """What a link carried."""

    model_config = ConfigDict(extra="forbid")
    code: str = Field(max_length=128)


class SessionDocument(BaseModel):
    """What opens the API."""

    token: str


@router.post(PATH, response_model=None, responses=described(SessionDocument))
async def open_session(body: CodeBody, request: Request, deps: Deps) -> JsonResponse:
    """The bearer token, for a code that was not used yet; needs no token of its own."""
    codes: Codes = request.app.state.codes
    if not codes.redeem(body.code, time.time()):
        raise CodeRefused
    answer = JsonResponse({"token": deps.access.token})
    answer.headers["Cache-Control"] = "no-store"
    return answer
