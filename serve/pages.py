"""Mission Control, the web page: the built files of ``serve/static``, open to everybody since they hold no data.

`serve/ui` has their sources; `make ui` builds them. The page asks the API for everything it shows, with the token.
"""

from __future__ import annotations

import gzip
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from enchanted.schemas.canonical import sha256_hex
from enchanted.serve.documents.answer import has_tag

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""Only what we serve runs, nothing is asked elsewhere, and no text can become markup or code."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = "index.html"
_FOREVER = "public, max-age=31536000, immutable"
"""The build puts a hash of its content into the name of every file under `assets/`."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One built file, in memory."""

    content: bytes
    zipped: bytes
    media_type: str
    etag: str
    caching: str


@cache
def static_files() -> Mapping[str, StaticFile]:
    """Every file of the built page by its name in `serve/static`."""
    root = resources.files("enchanted.serve").joinpath("static")
    return {name: _static_file(name, item.read_bytes()) for name, item in _walk(root, "")}


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _walk(item, f"{prefix}{item.name}/")
        else:
            yield f"{prefix}{item.name}", item


def _static_file(name: str, content: bytes) -> StaticFile:
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    caching = _FOREVER if name.startswith("assets/") else "no-cache"
    return StaticFile(content, gzip.compress(content, mtime=0), media_type, f'"{sha256_hex(content)[:32]}"', caching)


def _answer(request: Request, name: str) -> Response:
    file = static_files().get(name)
    if file is None:
        raise HTTPException(404, "the page has no such file; reload it to get the current ones")
    headers = {**_HEADERS, "ETag": file.etag, "Cache-Control": file.caching}
    if has_tag(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.zipped, media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.content, media_type=file.media_type, headers=headers)


@router.get("/")
@router.get("/runs/{place:path}")
@router.get("/traces/{place:path}")
@router.get("/compare/{place:path}")
@router.get("/cluster")
async def page(request: Request) -> Response:
    """The page; which part of it is shown, its own script reads from the address."""
    return _answer(request, _PAGE)


@router.get("/static/{name:path}")
async def static(request: Request, name: str) -> Response:
    """A file of the page."""
    return _answer(request, name)
