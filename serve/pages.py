"""`GET /`: one static page that lists runs through the API. It is open and holds no data."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from importlib import resources

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)


@cache
def page() -> tuple[str, str]:
    """The page and the content policy that lets exactly its own script and style run."""
    text = resources.files("enchanted.serve").joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hash(text: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    inner = found[1] if found else ""
    return f"'sha256-{b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"


@router.get("/")
async def home() -> HTMLResponse:
    """The page."""
    text, policy = page()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(text, headers=headers)
