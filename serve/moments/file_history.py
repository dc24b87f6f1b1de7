"""One file of a run: every change of it, and the change behind each of its lines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from enchanted.actors.repository.git import Git
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.rebuild import is_object_id
from enchanted.schemas.events import StoredEvent, run_of
from enchanted.schemas.fold import MAIN_WORKSPACE, path_key
from enchanted.serve.documents.answer import NOT_MODIFIED, JsonResponse, described, tagged
from enchanted.serve.documents.history import BlameDocument, FileHistoryDocument
from enchanted.serve.errors import (
    BadRequest,
    BinaryFile,
    BusUnavailable,
    ContentDelayed,
    ContentUnavailable,
    PathNotFound,
    TooLargeToBlame,
)
from enchanted.serve.moments.blame import blame
from enchanted.serve.moments.contents import Contents
from enchanted.serve.moments.lineage import ancestry
from enchanted.serve.moments.seek import events_between
from enchanted.serve.moments.tracks import Tracks, Version, version_document
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, Identifier, PathHex, RunId, Sequence

router = APIRouter(prefix="/api/v1", tags=["history"])

LARGEST = 1 << 20
"""Bytes of a file whose lines are looked up."""
MOST_BYTES = 64 << 20
"""Of all versions of it together."""
MOST_VERSIONS = 5_000
MOST_LINES = 5_000_000
"""Of all versions of it together; each takes a pointer of memory."""
_GIT_DIFF = ("diff", "--text", "-U0", "--no-color", "--no-ext-diff", "--no-textconv", "--diff-algorithm=histogram")


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedFile:
    """The file a request is about."""

    path: str
    path_hex: str
    workspace: str
    at: int

    @property
    def named(self) -> dict[str, Any]:
        """As the answer repeats it."""
        return {"path": self.path, "path_hex": self.path_hex, "workspace": self.workspace}


async def _wanted(
    path: Annotated[str, Query(max_length=4_096)] = "",
    path_hex: PathHex = "",
    workspace: Identifier = MAIN_WORKSPACE,
    at: Sequence = MAX_SEQ,
) -> WantedFile:
    if not path and not path_hex:
        raise BadRequest("no file is named; give `path`, or `path_hex` for a name that is not UTF-8")
    return WantedFile(path=path, path_hex=path_hex, workspace=workspace, at=at)


Wanted = Annotated[WantedFile, Depends(_wanted)]


async def _events(deps: Dependencies, run: str, until: int) -> list[StoredEvent]:
    events = await events_between(deps, run, 0, until)
    if not events:
        await find_run(deps, run)
    return events


@router.get("/runs/{run}/history", response_model=None, responses=described(FileHistoryDocument) | NOT_MODIFIED)
async def read_file_history(run: RunId, request: Request, deps: Deps, wanted: Wanted) -> Response:
    """Every change of a file up to ``at``, the newest last; also of one that was removed.

    It goes on under the name the file had before it was renamed, and before its workspace began.
    """
    events = await _events(deps, run, wanted.at)
    tracks, version = await _tracked(events, wanted)
    changes = [version_document(tracks, one) for one in version.history()]
    document = {"run_id": run, "at": _last_seq(events), **wanted.named, "data": changes}
    return tagged(request, JsonResponse(document))


@router.get("/runs/{run}/blame", response_model=None, responses=described(BlameDocument) | NOT_MODIFIED)
async def read_blame(run: RunId, request: Request, deps: Deps, wanted: Wanted) -> Response:
    """For each line of a file at ``at`` the change that wrote it, with its decision, agent and span.

    A merge, a rollback, an undo or a fork moves lines and writes none: they stay those of the change that wrote them,
    of a fork those of its parents' changes, where the table has their logs.
    """
    events = await _events(deps, run, wanted.at)
    contents: Contents = request.app.state.contents
    logs = [*await ancestry(deps, events), events]
    try:
        found = await _blame(contents, run, logs, wanted)
    except (BusUnavailable, ContentDelayed, ContentUnavailable, TooLargeToBlame):
        if len(logs) == 1:
            raise
        # With the runs before it is too much, or those cannot be rebuilt (now): then its own changes have to do.
        found = await _blame(contents, run, [events], wanted)
    return tagged(request, JsonResponse({"run_id": run, "at": _last_seq(events), **wanted.named, **found}))


async def _blame(contents: Contents, run: str, logs: list[list[StoredEvent]], wanted: WantedFile) -> dict[str, Any]:
    """The blob and its lines; the last of the logs is the run's own, the others are those it was forked from."""
    tracks, version = await _tracked(logs[-1], wanted, logs[:-1])
    if not version.blob:
        raise PathNotFound(wanted.path or f"path_hex={wanted.path_hex}", _last_seq(logs[-1]))
    origins = version.origins()
    if len(origins) > MOST_VERSIONS:
        raise TooLargeToBlame(f"it has {len(origins)} versions", f"{MOST_VERSIONS} are looked at")
    trees = list(dict.fromkeys(one.tree for one in reversed(origins) if one.blob))
    async with contents.trees(run, [stored for log in logs for stored in log], trees) as repository:
        lines = await asyncio.to_thread(_blamed, repository, version, origins)
    return {"blob": version.blob, "lines": await asyncio.to_thread(_lines, tracks, lines)}


async def _tracked(
    events: list[StoredEvent], wanted: WantedFile, parents: Iterable[list[StoredEvent]] = ()
) -> tuple[Tracks, Version]:
    tracks: Tracks | None = None
    for log in parents:
        tracks = await asyncio.to_thread(Tracks, log, tracks)
    tracks = await asyncio.to_thread(Tracks, events, tracks)
    version = tracks.version(wanted.workspace, path_key(wanted.path, wanted.path_hex))
    if version is None:
        raise PathNotFound(wanted.path or f"path_hex={wanted.path_hex}", _last_seq(events))
    return tracks, version


def _last_seq(events: list[StoredEvent]) -> int:
    return events[-1].seq if events else 0


def _blamed(repository: ShadowRepository, version: Version, origins: list[Version]) -> list[tuple[bytes, Version]]:
    git = repository.store.git
    blobs = list(dict.fromkeys(one.blob for one in origins if one.blob))
    sizes = _sizes(git, blobs)
    if sizes[version.blob] > LARGEST or sum(sizes.values()) > MOST_BYTES:
        found = f"it has {sizes[version.blob]} bytes, its versions {sum(sizes.values())}"
        raise TooLargeToBlame(found, f"{LARGEST} and {MOST_BYTES} are looked at")
    contents = contents_of(git, sizes)
    if b"\0" in contents[version.blob]:
        raise BinaryFile(version.entry.path)
    counts = {blob: content.count(b"\n") for blob, content in contents.items()}
    if (lines := sum(counts[one.blob] for one in origins if one.blob)) > MOST_LINES:
        raise TooLargeToBlame(f"its versions have {lines} lines", f"{MOST_LINES} are looked at")
    return blame(version, contents, partial(git.run, *_GIT_DIFF))


def _sizes(git: Git, blobs: Iterable[str]) -> dict[str, int]:
    wanted = list(blobs)
    # An event says what it likes.
    if not all(map(is_object_id, wanted)):
        raise ContentUnavailable("a change of it names no git blob")
    output = git.run("cat-file", "--batch-check", stdin=_asked(wanted)).split(b"\n")
    heads = [line.split() for line in output[: len(wanted)]]
    if not all(len(head) == 3 and head[1] == b"blob" for head in heads):
        raise ContentUnavailable("a version of it is in no tree of the run")
    return {blob: int(head[2]) for blob, head in zip(wanted, heads, strict=True)}


def contents_of(git: Git, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """What blobs of these sizes hold, by one git process."""
    output, at, found = git.run("cat-file", "--batch", stdin=_asked(sizes)), 0, {}
    for blob, size in sizes.items():
        at = output.index(b"\n", at) + 1
        found[blob] = output[at : at + size]
        at += size + 1
    return found


def _asked(blobs: Iterable[str]) -> bytes:
    return "".join(f"{blob}\n" for blob in blobs).encode()


def _lines(tracks: Tracks, lines: list[tuple[bytes, Version]]) -> list[dict[str, Any]]:
    decisions = {id(version): tracks.decision_of(version.change.event) for _, version in lines}
    return [
        {
            "line": number,
            "run_id": run_of(version.change.event),
            "seq": version.seq,
            "event_id": version.change.event.event_id,
            "decision_id": decisions[id(version)],
            "agent_id": version.change.event.agent_id,
            "agent_name": version.change.event.agent_name,
            "trace_id": version.change.event.trace_id,
            "span_id": version.change.event.span_id,
            "text": text.decode("utf-8", "backslashreplace"),
        }
        for number, (text, version) in enumerate(lines, start=1)
    ]
