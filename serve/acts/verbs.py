"""The acting verbs: restore a state into a folder or onto a branch, undo a change, fork a run."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Self

from fastapi import APIRouter, Header, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from enchanted.actors.errors import ActorError, NotARepository
from enchanted.actors.fork import CannotFork, ForkPoint, read_fork_point
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.restore import Preview, Restored, Target
from enchanted.actors.tools.variables import BadVariable, require_offerable
from enchanted.actors.work import RoleName, RunRequest
from enchanted.bus.agent_log import new_id
from enchanted.bus.errors import BlobUnusable
from enchanted.schemas.fold import MAIN_WORKSPACE, fold
from enchanted.serve.acts.run_facts import read_facts
from enchanted.serve.acts.undo import undone
from enchanted.serve.documents.acts import RestoreDocument, UndoDocument
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.runs import StartedRun
from enchanted.serve.errors import ForkRefused, RestoreRefused
from enchanted.serve.moments.contents import Contents
from enchanted.serve.moments.history import workspace_at
from enchanted.serve.moments.seek import Seeker
from enchanted.serve.queries.runs import (
    ROLES,
    BudgetBody,
    ModelUrl,
    Starts,
    Text,
    VariableOffers,
    find_run,
    offers_of,
    repository_path,
    started,
)
from enchanted.serve.sources.arrival import arrived
from enchanted.serve.sources.buslink import RUN_DEADLINE
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, RunId
from enchanted.serve.sources.store import Store

router = APIRouter(prefix="/api/v1", tags=["acts"])
FORKED: dict[int | str, dict[str, Any]] = {
    200: {"model": StartedRun, "description": "This Idempotency-Key has started it before, or it was a dry run"}
}


def _absolute(text: str) -> str:
    if "\0" in text or not Path(text).is_absolute():
        raise ValueError("give an absolute path on the server")
    return text


_REQUEST = TypeAdapter(RunRequest)
Folder = Annotated[str, StringConstraints(min_length=1, max_length=4_096), AfterValidator(_absolute)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


class RestoreBody(BaseModel):
    """Which state, and where to."""

    model_config = ConfigDict(extra="forbid")

    at: int = Field(default=MAX_SEQ, ge=0, le=MAX_SEQ)
    """Stream sequence; the latest by default."""
    into: Folder | None = None
    """A folder on the server, made where it is missing."""
    branch: Name | None = None
    """Or a new branch of ``repo``: one commit on top of the one the run began with."""
    repo: Annotated[str, StringConstraints(max_length=4_096), AfterValidator(repository_path)] | None = None
    """By default the run's repository."""
    workspace: Name = MAIN_WORKSPACE
    dry_run: bool = False
    """Only say what would be written."""
    force: bool = False
    """Overwrite files that only the folder has; they are in the snapshot then."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.into is None) == (self.branch is None):
            raise ValueError("give either `into` or `branch`")
        return self


class UndoBody(BaseModel):
    """Which change to take back."""

    model_config = ConfigDict(extra="forbid")

    event_id: Name
    dry_run: bool = False
    """Only say what would change."""


class ForkBody(BaseModel):
    """Where to begin, and what is to be different; what is left out is as in the parent."""

    model_config = ConfigDict(extra="forbid")

    at: int = Field(default=MAX_SEQ, ge=0, le=MAX_SEQ)
    """Stream sequence; the latest by default."""
    task: Text | None = Field(default=None, max_length=20_000)
    checks: list[Annotated[Text, StringConstraints(max_length=4_000)]] | None = Field(default=None, max_length=20)
    model: ModelUrl | None = None
    models: dict[RoleName, ModelUrl] = {}
    coders: int | None = Field(default=None, ge=1, le=64)
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    repo: Annotated[str, StringConstraints(max_length=4_096), AfterValidator(repository_path)] | None = None
    apply: bool = False
    budget: BudgetBody | None = None
    """Limits that are left out are the parent's too."""
    variables: VariableOffers | None = None
    """In place of what the parent offers."""
    dry_run: bool = False
    """Only say whether it can be forked there."""

    def request(self, run_id: str, point: ForkPoint) -> RunRequest:
        """The run to start."""
        parent = point.ledger.request
        assert parent is not None
        models: dict[str, str] = dict(parent.models) if self.model is None else dict.fromkeys(ROLES, self.model)
        for role, url in self.models.items():
            models[role] = url
        return RunRequest(
            run_id=run_id,
            task=self.task or parent.task,
            repo=self.repo or parent.repo,
            checks=parent.checks if self.checks is None else tuple(self.checks),
            coders=self.coders or parent.coders,
            seed=parent.seed if self.seed is None else self.seed,
            models=models,
            apply=self.apply,
            budget=parent.budget if self.budget is None else replace(parent.budget, **_given(self.budget)),
            forked_from=point.run,
            forked_at=point.at,
            variables=offers_of(parent.variables if self.variables is None else self.variables),
        )


def _given(body: BaseModel) -> dict[str, Any]:
    return body.model_dump(exclude_unset=True)


@router.post("/runs/{run}/restores", response_model=None, responses=described(RestoreDocument))
async def restore(run: RunId, body: RestoreBody, request: Request, deps: Deps) -> JsonResponse:
    """Put a state's files into a folder or onto a new branch; with ``dry_run`` only say what that would do."""
    seeker: Seeker = request.app.state.seeker
    await arrived(deps, run, body.at)
    sought = await seeker.seek(run, body.at)
    state = sought.state
    tree = workspace_at(state, body.workspace, body.at).tree
    contents: Contents = request.app.state.contents
    document: dict[str, Any] = {"run_id": run, "at": state.seq, "workspace": body.workspace, "tree": tree}
    async with contents.trees(run, await seeker.changes(sought), [tree]) as repository:
        try:
            if body.branch is not None:
                document |= await _onto_branch(body, repository, tree, deps.store, run)
            else:
                label = f"{run} at {state.seq} ({body.workspace})"
                document |= await asyncio.to_thread(_into_folder, body, repository, tree, label)
        except (ActorError, OSError) as error:
            raise RestoreRefused(str(error)) from error
    return JsonResponse(document | {"dry_run": body.dry_run})


def _into_folder(body: RestoreBody, repository: ShadowRepository, tree: str, label: str) -> dict[str, Any]:
    assert body.into is not None
    target = Target(Path(body.into))
    if body.dry_run:
        preview = target.preview(repository.store, tree)
        return {"into": body.into, **_shown(preview), "unfinished": target.unfinished(), "snapshot": ""}
    done: Restored = target.restore(repository.store, tree, label=label, operation=new_id(), force=body.force)
    return {"into": body.into, **_shown(done.preview), "unfinished": "", "snapshot": done.snapshot}


def _shown(preview: Preview) -> dict[str, Any]:
    found = asdict(preview)
    names = ("write", "delete", "keep", "dirty", "blocked")
    return found | {name: [_readable(path) for path in found[name]] for name in names}


def _readable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


async def _onto_branch(
    body: RestoreBody, repository: ShadowRepository, tree: str, store: Store, run: str
) -> dict[str, Any]:
    # What the run began with is told behind its base, and any of its states may be asked for.
    facts = await read_facts(store, run)
    repo = body.repo or facts.repo
    assert body.branch is not None
    if not Path(repo).is_absolute():
        raise NotARepository(repo or "what the run began with")
    patch = await repository.diff(repository.base_tree, tree)
    if body.dry_run:
        commit = await repository.try_branch(repo, body.branch, tree, base_commit=facts.base_commit)
    else:
        message = f"{run} restored\n\nEnchanted-Run: {run}"
        commit = await repository.export_branch(repo, body.branch, tree, message, base_commit=facts.base_commit)
    return {"branch": body.branch, "repo": repo, "commit": commit, "write": [file.path for file in patch.files]}


@router.post("/runs/{run}/undos", response_model=None, responses=described(UndoDocument))
async def undo(run: RunId, body: UndoBody, request: Request, deps: Deps) -> JsonResponse:
    """Take one change back and keep later work; recorded as a change of its own."""
    await find_run(deps, run)
    contents: Contents = request.app.state.contents
    return JsonResponse(await undone(deps, contents, run, body.event_id, dry_run=body.dry_run))


@router.post("/runs/{run}/forks", status_code=202, response_model=None, responses=described(StartedRun, 202) | FORKED)
async def fork(
    run: RunId,
    body: ForkBody,
    request: Request,
    deps: Deps,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=256)] = None,
) -> JsonResponse:
    """Start a new run from another one's state at a sequence; an Idempotency-Key as when a run is started.

    With ``dry_run`` nothing is started, and what would be refused is.
    """
    await find_run(deps, run)
    point = await _fork_point(deps, run, body.at)
    if body.variables is None:
        _require_offers(point)
    if body.dry_run:
        return JsonResponse({"run_id": "", "url": ""})
    starts: Starts = request.app.state.starts
    asked = body.model_dump(exclude={"dry_run"}) | {"forked_from": run}
    return started(*await starts.start(lambda run_id: body.request(run_id, point), asked, idempotency_key))


def _require_offers(point: ForkPoint) -> None:
    """Return where a fork may offer what its parent does; anybody may have written that one's log."""
    assert point.ledger.request is not None
    try:
        require_offerable(point.ledger.request.variables)
    except BadVariable as error:
        raise ForkRefused(f"{error}; or give the fork `variables` of its own, {{}} for none") from error


async def _fork_point(deps: Dependencies, run: str, at: int) -> ForkPoint:
    await deps.bus.stream_info()
    async with deps.bus.use(RUN_DEADLINE) as bus:
        try:
            point = await read_fork_point(bus, run, at)
        except (CannotFork, BlobUnusable) as error:
            raise ForkRefused(str(error)) from error
    assert point.ledger.request is not None
    try:
        point.ledger.request = _REQUEST.validate_python(asdict(point.ledger.request))
    except ValidationError as error:
        raise ForkRefused(f"what was asked for in {run} is not such as the swarm takes") from error
    last = fold(point.events).seq
    return ForkPoint(**{**{name: getattr(point, name) for name in point.__slots__}, "at": last})
