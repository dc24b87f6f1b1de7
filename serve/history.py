"""A run at a sequence: its state, the content of one path, the diff between two sequences, and the proof."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from enchanted.schemas.fold import MAIN_WORKSPACE, FileState, RunState, WorkspaceState
from enchanted.serve.contents import Contents
from enchanted.serve.dependencies import Deps
from enchanted.serve.documents import ContentDocument, StateDocument, VerifyDocument, described
from enchanted.serve.errors import BadRequest, PathNotFound, WorkspaceNotFound
from enchanted.serve.events import JsonResponse, rfc3339
from enchanted.serve.parameters import MAX_SEQ, Identifier, RunId, Sequence
from enchanted.serve.proof import prove
from enchanted.serve.runs import find_run, parsed, tagged
from enchanted.serve.seek import Seeker

router = APIRouter(prefix="/api/v1", tags=["history"])


def state_document(run: str, state: RunState, checkpoint: int = 0) -> dict[str, Any]:
    """A folded state as the API shows it."""
    return {
        "run_id": run,
        "at": state.seq,
        "time": rfc3339(state.time) if state.time else None,
        "state": state.state,
        "reason": state.reason,
        "details": parsed(state.details),
        "checkpoint": checkpoint,
        "workspaces": {name: _workspace(space) for name, space in sorted(state.workspaces.items())},
        "tasks": [asdict(task) | {"details": parsed(task.details)} for task in _by_seq(state)],
        "agents": [asdict(agent) for agent in state.agents.values()],
    }


def _by_seq(state: RunState) -> Iterable[Any]:
    return sorted(state.tasks.values(), key=lambda task: task.task_id)


def _workspace(space: WorkspaceState) -> dict[str, Any]:
    return {
        "tree": space.tree,
        "files": [_file(space.files[path]) for path in sorted(space.files)],
        "variables": {name: parsed(value) for name, value in sorted(space.variables.items())},
        "schema_objects": dict(sorted(space.schema_objects.items())),
    }


def _file(file: FileState) -> dict[str, Any]:
    return {"path": file.path, "mode": file.mode, "size": file.size, "blob": file.blob, "seq": file.seq}


def workspace_of(state: RunState, name: str, asked: int) -> WorkspaceState:
    """One workspace of a state that was ``asked`` for.

    Raises:
        WorkspaceNotFound: it has none of this name.
    """
    try:
        return state.workspaces[name]
    except KeyError:
        raise WorkspaceNotFound(name, None if asked == MAX_SEQ else asked) from None


@router.get("/runs/{run}/state", response_model=None, responses={200: {"model": StateDocument | ContentDocument}})
async def read_state(
    run: RunId,
    request: Request,
    at: Sequence = MAX_SEQ,
    path: Annotated[str | None, Query(min_length=1, max_length=4_096)] = None,
    workspace: Identifier = MAIN_WORKSPACE,
) -> Response:
    """Files, tasks and agents after every event up to ``at`` (by default the latest); with ``path`` its content."""
    seeker: Seeker = request.app.state.seeker
    found, sought = await asyncio.gather(seeker.head(run), seeker.seek(run, at))
    state = sought.state
    if path is None:
        if workspace != MAIN_WORKSPACE:  # main is the default, and a run without files has none
            workspace_of(state, workspace, at)
        return tagged(request, found, JsonResponse(state_document(run, state, sought.checkpoint)))
    space = workspace_of(state, workspace, at)
    if path not in space.files:
        raise PathNotFound(path, state.seq)
    contents: Contents = request.app.state.contents
    file = space.files[path]
    content = await contents.blob(run, sought.events, space.tree, file.blob)
    document = {"run_id": run, "workspace": workspace, "at": state.seq, **_file(file), **_text_or_base64(content)}
    return tagged(request, found, JsonResponse(document))


def _text_or_base64(content: bytes) -> dict[str, str]:
    try:
        return {"encoding": "utf-8", "content": content.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "content": b64encode(content).decode()}


@router.get(
    "/runs/{run}/diff",
    response_model=None,
    responses={200: {"content": {"text/x-diff": {}}, "description": "A unified diff that `git apply` takes"}},
)
async def read_diff(
    run: RunId,
    request: Request,
    start: Annotated[int, Query(alias="from", ge=0, le=MAX_SEQ)],
    end: Annotated[int, Query(alias="to", ge=0, le=MAX_SEQ)] = MAX_SEQ,
    workspace: Identifier = MAIN_WORKSPACE,
) -> Response:
    """What changed in a workspace from one sequence to a later one; an empty one where nothing did."""
    if end < start:
        raise BadRequest(f"from={start} is after to={end}; give the earlier sequence as `from`")
    seeker: Seeker = request.app.state.seeker
    found, after, before = await asyncio.gather(seeker.head(run), seeker.seek(run, end), seeker.seek(run, start))
    new = workspace_of(after.state, workspace, end).tree
    old = before.state.workspaces[workspace].tree if workspace in before.state.workspaces else ""
    contents: Contents = request.app.state.contents
    patch = await contents.diff(run, [*before.events, *after.events], old, new)
    headers = {"X-Enchanted-From-Tree": old, "X-Enchanted-To-Tree": new}
    return tagged(request, found, Response(patch, media_type="text/x-diff; charset=utf-8", headers=headers))


@router.get("/runs/{run}/verify", response_model=None, responses=described(VerifyDocument))
async def read_verdict(run: RunId, deps: Deps) -> JsonResponse:
    """Whether any link is wrong (intact) and whether any event is missing (complete)."""
    await find_run(deps, run)
    return JsonResponse(await prove(deps, run))
