"""A run at a sequence: its state, the content of one path, the diff between two sequences, and the proof."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from enchanted.schemas.fold import MAIN_WORKSPACE, FileState, RunState, ValueState, WorkspaceState, path_key
from enchanted.serve.documents.answer import NOT_MODIFIED, JsonResponse, described, tagged
from enchanted.serve.documents.proof import PatchesDocument, VerifyDocument
from enchanted.serve.documents.state import ContentDocument, StateDocument
from enchanted.serve.errors import PathNotFound, WorkspaceNotFound
from enchanted.serve.moments.contents import Contents
from enchanted.serve.moments.patches import PatchChecks
from enchanted.serve.moments.seek import Seeker
from enchanted.serve.proof.verify import prove
from enchanted.serve.queries.events import rfc3339
from enchanted.serve.queries.runs import find_run, parsed
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import MAX_SEQ, Identifier, PathHex, RunId, Sequence

router = APIRouter(prefix="/api/v1", tags=["history"])
DEEP, SLICE = 90.0, 10.0
"""Seconds that patches are checked for in one request: beside the chain, and alone."""


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
        "files": [file_document(space.files[path]) for path in sorted(space.files)],
        "variables": [_value(one, parsed(one.value)) for _, one in sorted(space.variables.items())],
        "schema_objects": [_value(one, one.value) for _, one in sorted(space.schema_objects.items())],
    }


def file_document(file: FileState) -> dict[str, Any]:
    """A file as the API shows it."""
    return {name: getattr(file, name) for name in _FILE_FIELDS}


_FILE_FIELDS = tuple(one.name for one in fields(FileState))


def _value(one: ValueState, value: Any) -> dict[str, Any]:
    return asdict(one) | {"value": None if one.stored_apart else value}


def workspace_at(state: RunState, name: str, asked: int) -> WorkspaceState:
    """One workspace of a state that was ``asked`` for.

    Raises:
        WorkspaceNotFound: it has none of this name.
    """
    try:
        return state.workspaces[name]
    except KeyError:
        raise WorkspaceNotFound(name, None if asked == MAX_SEQ else asked) from None


def file_at(space: WorkspaceState, path: str, path_hex: str, seq: int) -> FileState:
    """The file with this name.

    Raises:
        PathNotFound: the workspace has none.
    """
    try:
        return space.files[path_key(path, path_hex)]
    except KeyError:
        raise PathNotFound(path or f"path_hex={path_hex}", seq) from None


@router.get(
    "/runs/{run}/state",
    response_model=None,
    responses={200: {"model": StateDocument | ContentDocument}, **NOT_MODIFIED},
)
async def read_state(
    run: RunId,
    request: Request,
    at: Sequence = MAX_SEQ,
    path: Annotated[str | None, Query(min_length=1, max_length=4_096)] = None,
    path_hex: PathHex = "",
    workspace: Identifier = MAIN_WORKSPACE,
) -> Response:
    """Files, variables, tasks and agents after every event up to ``at`` (by default the latest).

    With ``path``, or ``path_hex`` for a name that is not UTF-8, the content of that file.
    """
    seeker: Seeker = request.app.state.seeker
    sought = await seeker.seek(run, at)
    state = sought.state
    if path is None and not path_hex:
        if workspace != MAIN_WORKSPACE:  # main is the default, and a run without files has none
            workspace_at(state, workspace, at)
        return tagged(request, JsonResponse(state_document(run, state, sought.checkpoint)))
    space = workspace_at(state, workspace, at)
    file = file_at(space, path or "", path_hex, state.seq)
    contents: Contents = request.app.state.contents
    content = await contents.blob(run, await seeker.changes(sought), space.tree, file.blob)
    document = {
        "run_id": run,
        "workspace": workspace,
        "at": state.seq,
        **file_document(file),
        **_text_or_base64(content),
    }
    return tagged(request, JsonResponse(document))


def _text_or_base64(content: bytes) -> dict[str, str]:
    try:
        return {"encoding": "utf-8", "content": content.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "content": b64encode(content).decode()}


@router.get(
    "/runs/{run}/diff",
    response_model=None,
    responses={
        200: {"content": {"text/x-diff": {}}, "description": "A unified diff that `git apply` takes"},
        **NOT_MODIFIED,
    },
)
async def read_diff(
    run: RunId,
    request: Request,
    start: Annotated[int, Query(alias="from", ge=0, le=MAX_SEQ)],
    end: Annotated[int, Query(alias="to", ge=0, le=MAX_SEQ)] = MAX_SEQ,
    workspace: Identifier = MAIN_WORKSPACE,
) -> Response:
    """What changed in a workspace from one sequence to another; an empty diff where nothing did.

    Where ``from`` is the later one, it is the way back.
    """
    seeker: Seeker = request.app.state.seeker
    after = await seeker.seek(run, max(start, end))
    # Not beyond the later one: what comes in between the two looks belongs to neither.
    before = await seeker.seek(run, min(start, end, after.state.seq))
    new = workspace_at(after.state, workspace, max(start, end)).tree
    old = before.state.workspaces[workspace].tree if workspace in before.state.workspaces else ""
    if start > end:
        old, new = new, old
    contents: Contents = request.app.state.contents
    patch = await contents.diff(run, await seeker.changes(before, after), old, new)
    headers = {"X-Enchanted-From-Tree": old, "X-Enchanted-To-Tree": new}
    return tagged(request, Response(patch, media_type="text/x-diff; charset=utf-8", headers=headers))


@router.get("/runs/{run}/verify", response_model=None, responses=described(VerifyDocument))
async def read_verdict(run: RunId, request: Request, deps: Deps, deep: bool = False) -> JsonResponse:
    """Whether any link is wrong (intact) and whether any event is missing (complete).

    With `deep` also whether each patch leads where its change says, for a minute and a half at most.
    """
    await find_run(deps, run)
    verdict = await prove(deps, run)
    if deep:
        checks: PatchChecks = request.app.state.patch_checks
        verdict["patches"] = patches = await checks.hold(run, seconds=DEEP)
        verdict["intact"] = verdict["intact"] and patches["intact"] is not False
        verdict["first_bad"] = verdict["first_bad"] or patches["first_bad"]
    return JsonResponse(verdict)


@router.get("/runs/{run}/verify/patches", response_model=None, responses=described(PatchesDocument))
async def read_patches(run: RunId, request: Request, deps: Deps, after: Sequence = 0) -> JsonResponse:
    """The same of the patches alone, for ten seconds; what came before `after` was checked by the calls before."""
    await find_run(deps, run)
    checks: PatchChecks = request.app.state.patch_checks
    return JsonResponse(await checks.hold(run, after=after, seconds=SLICE))
