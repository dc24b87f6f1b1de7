"""`GET /runs/{run}/export.html`: a run as one file for people, written page by page while it is sent.

The chains are checked and the state is folded on the way, so that the run is read once and never held whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from enchanted.actors.repository.rebuild import is_object_id
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import ChainVerifier
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.fold import MAIN_WORKSPACE, FileState, Folding, WorkspaceState
from enchanted.serve.errors import ServeError
from enchanted.serve.export import page
from enchanted.serve.export.data import ExportQuery, ExportResponse, name_of, pieces
from enchanted.serve.export.formats import Page, read_page
from enchanted.serve.moments.contents import Contents
from enchanted.serve.moments.file_history import contents_of
from enchanted.serve.moments.seek import Seeker
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, RunId
from enchanted.serve.sources.store import EventRow, Store

router = APIRouter(prefix="/api/v1", tags=["query"])

LARGEST_FILE = 64 << 10
"""Bytes of a file whose content is shown."""
MOST_CONTENT = 16 << 20
"""Bytes of all contents together; what the run changed comes first."""
FILES_AT_ONCE = 500
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


class Log:
    """The log as it is written, and what it amounts to."""

    def __init__(self, run: str) -> None:
        self.folding = Folding()
        self.chains = ChainVerifier(run)
        self.heads: dict[str, tuple[str, int, str]] = {}
        """Agent id -> its name, its last number and the SHA-256 of that event."""
        self.damaged = False
        self._began: float | None = None

    async def page(self, store: Store, bound: Mapping[str, Any]) -> Page:
        """Read and write one page."""
        return await read_page(store, bound, self._written)

    def end(self) -> bytes:
        """Nothing: the files come next."""
        return b""

    def _written(self, rows: list[EventRow]) -> bytes:
        return "".join(map(self._event, rows)).encode("utf-8", "replace")

    def _event(self, row: EventRow) -> str:
        digest = sha256_hex(row.raw)
        sound = digest == row.sha256
        self.damaged = self.damaged or not sound
        try:
            stored = row.stored()
        except NotAnEvent:
            self.damaged = True
            return page.unreadable(row.seq, row.event_id)
        self.chains.add(stored, digest=digest)
        self.folding.add(stored)
        said = stored.event
        self.heads[said.agent_id] = (said.agent_name, said.agent_seq, digest)
        self._began = page.time_of(stored) if self._began is None else self._began
        return page.event(stored, self._began, sound)


async def html(deps: Dependencies, seeker: Seeker, contents: Contents, run: str) -> AsyncGenerator[bytes, None]:
    """The file, piece by piece.

    Raises:
        RunNotFound: there is no event of the run.
        StoreUnavailable: the table does not answer; what was sent before is not whole.
    """
    log = Log(run)
    head = page.head(await find_run(deps, run)).encode("utf-8", "replace")
    rows = pieces(deps.store, ExportQuery(run=run), log)
    # Before anything is sent: a run of this moment is found in the stream, and the table has nothing of it yet.
    first = await anext(rows, b"")
    yield head
    yield first
    async for piece in rows:
        yield piece
    space = log.folding.state().workspaces.get(MAIN_WORKSPACE)
    files = sorted(space.files.values(), key=lambda one: one.path) if space else []
    shown, why = await _contents(seeker, contents, run, space, files)
    yield page.files_begin(len(files), why).encode()
    for at in range(0, len(files), FILES_AT_ONCE):
        parts = (page.file(one, _decoded(shown.get(one.blob))) for one in files[at : at + FILES_AT_ONCE])
        yield "".join(parts).encode("utf-8", "replace")
    verdict = log.chains.verdict()
    yield page.tail(verdict, log.heads, log.damaged).encode("utf-8", "replace")


async def _contents(
    seeker: Seeker, contents: Contents, run: str, space: WorkspaceState | None, files: list[FileState]
) -> tuple[dict[str, bytes], str]:
    """What the files hold, or why that cannot be told."""
    if space is None:
        return {}, ""
    sizes = dict(_fitting(files))
    try:
        changes = await seeker.changes(await seeker.seek(run, MAX_SEQ))
        async with contents.trees(run, changes, [space.tree]) as repository:
            return await asyncio.to_thread(contents_of, repository.store.git, sizes), ""
    except ServeError as error:
        return {}, f"Their contents are not here: {error}"


def _fitting(files: list[FileState]) -> Iterator[tuple[str, int]]:
    room = MOST_CONTENT
    for one in sorted(files, key=lambda file: -file.seq):
        if 0 < one.size <= min(LARGEST_FILE, room) and is_object_id(one.blob) and one.mode != "160000":
            room -= one.size
            yield one.blob, one.size


def _decoded(content: bytes | None) -> str | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None


@router.get(
    "/runs/{run}/export.html",
    response_model=None,
    responses={
        200: {
            "content": {"text/html": {"schema": {"type": "string"}}},
            "description": "One file that needs nothing else; a file that breaks off has no last chunk",
        }
    },
)
async def export_html(run: RunId, request: Request, deps: Deps) -> Response:
    """A run as one HTML file: log, changes, files at the end, verdict and chain heads. It runs nothing."""
    rest = html(deps, request.app.state.seeker, request.app.state.contents, run)
    first = await anext(rest)
    media_type = "text/html; charset=utf-8"
    answer = ExportResponse(first, rest, media_type=media_type, name=f"{name_of(run)}.html", slow=deps.slow_client)
    answer.headers["Content-Security-Policy"] = _POLICY
    return answer
