"""Runs: listed and read from their transitions, started and cancelled through whoever runs the swarm."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from fastapi import APIRouter, Header, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from enchanted.actors.models.errors import BadModelUrl
from enchanted.actors.models.model import parse_model_url
from enchanted.actors.tools.variables import BadVariable, require_offerable
from enchanted.actors.work import Budget, RoleName, RunRequest
from enchanted.bus.errors import BusError
from enchanted.schemas.canonical import canonical_json, sha256_hex
from enchanted.schemas.chain import CLOSED_STATES
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of, parse_event
from enchanted.schemas.foreign import foreign_json
from enchanted.schemas.gen.events_pb2 import RunTransition
from enchanted.serve.documents.answer import NOT_MODIFIED, JsonResponse, described, tagged
from enchanted.serve.documents.runs import RunDocument, StartedRun
from enchanted.serve.errors import BusUnavailable, KeyReused, RunNotFound, RunsUnavailable
from enchanted.serve.queries.events import rfc3339
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, RunId
from enchanted.serve.sources.store import Store

router = APIRouter(prefix="/api/v1", tags=["runs"])
START_DEADLINE = 60.0
"""Seconds the swarm may take to accept a run."""
REMEMBERED_KEYS = 10_000
ROLES: tuple[RoleName, ...] = get_args(RoleName)

T = TypeVar("T")
Step = tuple[RunTransition, int]
"""A run's own transition, and nanoseconds since 1970 by its own clock."""


def repository_path(text: str) -> str:
    """``text``, if it is the absolute path of a git repository; for pydantic."""
    path = Path(text)
    if "\0" in text or not path.is_absolute():
        raise ValueError("give the absolute path of a git repository on the server")
    try:
        known = path.joinpath(".git").exists() or path.joinpath("HEAD").is_file()
    except OSError as error:
        raise ValueError(f"the path cannot be read: {error.strerror}") from error
    if not known:
        raise ValueError("there is no git repository at this path on the server; run `git init` there")
    return text


def _model_url(text: str) -> str:
    try:
        parse_model_url(text)
    except BadModelUrl as error:
        raise ValueError(str(error)) from error
    return text


def _offerable(offers: dict[str, list[str]]) -> dict[str, list[str]]:
    try:
        require_offerable(offers)
    except BadVariable as error:
        raise ValueError(str(error)) from error
    return offers


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("NUL is not allowed")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_no_nul)]
VariableOffers = Annotated[dict[str, list[str]], AfterValidator(_offerable)]
"""Name -> the values that a Coder may give the variable for the checks of its workspace."""
ModelUrl = Annotated[Text, StringConstraints(max_length=1_000), AfterValidator(_model_url)]


class BudgetBody(BaseModel):
    """What the run may spend; 0 switches a limit off."""

    model_config = ConfigDict(extra="forbid")

    model_calls_per_task: int = Field(default=Budget.model_calls_per_task, ge=0, le=10_000)
    reworks_per_task: int = Field(default=Budget.reworks_per_task, ge=0, le=1_000)
    seconds: float = Field(default=Budget.seconds, ge=0, le=7 * 86_400, allow_inf_nan=False)


class RunBody(BaseModel):
    """A run to start."""

    model_config = ConfigDict(extra="forbid")

    task: Text = Field(max_length=20_000)
    repo: Annotated[str, StringConstraints(max_length=4_096), AfterValidator(repository_path)]
    """Absolute path of a git repository on the server."""
    checks: list[Annotated[Text, StringConstraints(max_length=4_000)]] = Field(default=[], max_length=20)
    """Commands that must exit 0 for a merge."""
    model: ModelUrl | None = None
    """Model URL for every role; the settings' models by default."""
    models: dict[RoleName, ModelUrl] = {}
    """Role -> model URL, where it differs."""
    apply: bool = False
    """Fast-forward the repository's current branch to a merged result."""
    coders: int = Field(default=RunRequest.coders, ge=1, le=64)
    seed: int = Field(default=RunRequest.seed, ge=0, le=2**31 - 1)
    budget: BudgetBody = BudgetBody()
    variables: VariableOffers = {}
    """Name -> the values that a Coder may give this variable for the checks of its workspace."""

    def request(self, run_id: str) -> RunRequest:
        """The same for the swarm."""
        models: dict[str, str] = {} if self.model is None else dict.fromkeys(ROLES, self.model)
        for role, url in self.models.items():
            models[role] = url
        return RunRequest(
            run_id=run_id,
            task=self.task,
            repo=self.repo,
            checks=tuple(self.checks),
            coders=self.coders,
            seed=self.seed,
            models=models,
            apply=self.apply,
            budget=Budget(**self.budget.model_dump()),
            variables=offers_of(self.variables),
        )


def offers_of(variables: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """What a body offers, each value once, as the swarm takes it."""
    return {name: tuple(dict.fromkeys(values)) for name, values in variables.items()}


class Starts:
    """Starts runs, each Idempotency-Key once; the run's id comes from the key, so a restart forgets nothing."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._bodies: OrderedDict[str, str] = OrderedDict()
        self._starting = asyncio.Lock()

    async def start(
        self, make: Callable[[str], RunRequest], asked: Mapping[str, Any], key: str | None
    ) -> tuple[str, bool]:
        """The run's id, and whether it was begun just now; ``asked`` is what a key belongs to."""
        if self._deps.starter is None:
            raise RunsUnavailable
        if key is None:
            return await self._begin(make(f"run-{secrets.token_hex(6)}")), True
        run_id, digest = f"run-{sha256_hex(key)[:12]}", sha256_hex(canonical_json(dict(asked)))
        async with self._starting:
            if self._bodies.setdefault(run_id, digest) != digest:
                raise KeyReused
            while len(self._bodies) > REMEMBERED_KEYS:
                self._bodies.popitem(last=False)
            if known := await self._deps.bus.read_run(run_id):
                if not any(stored.event.run_transition.heads for stored in known):
                    # Whoever recorded it may have ended before it was handed on.
                    await _answered(self._deps.starter.resume(run_id))
                return run_id, False
            return await self._begin(make(run_id)), True

    async def cancel(self, run_id: str) -> None:
        """Ask the run to end."""
        if self._deps.starter is None:
            raise RunsUnavailable
        await _answered(self._deps.starter.cancel(run_id))

    async def _begin(self, request: RunRequest) -> str:
        assert self._deps.starter is not None
        return await _answered(self._deps.starter.start(request))


async def _answered(asked: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(START_DEADLINE):
            return await asked
    except TimeoutError as error:
        raise RunsUnavailable(f"the swarm did not answer within {START_DEADLINE:g} s") from error
    except BusError as error:
        raise BusUnavailable(str(error)) from error


def summary(row: Mapping[str, Any], steps: Sequence[Step]) -> dict[str, Any]:
    """A run as the API shows it, from its counts and its own transitions in order."""
    first = steps[0][0] if steps else RunTransition()
    closing = next((step for step in steps if step[0].to_state in CLOSED_STATES), None)
    # What comes after the close (a late wish to cancel) changes nothing.
    current = closing[0] if closing else steps[-1][0] if steps else RunTransition()
    return {
        "run_id": row["run"],
        "trace_id": row["trace"],
        "state": current.to_state,
        "closed": closing is not None,
        "reason": current.reason,
        "details": parsed(current.details),
        "request": parsed(first.details),
        "started_at": rfc3339(row["started_at"]),
        "updated_at": rfc3339(row["updated_at"]),
        "seconds": _took(row, steps[0], closing) if closing else _seen(row),
        "first_seq": row["first_seq"],
        "last_seq": row["last_seq"],
        "events": row["total"],
        **{name: row[name] for name in ("agents", "decisions", "changes", "model_calls", "tool_calls")},
        "input_tokens": row["total_input_tokens"],
        "output_tokens": row["total_output_tokens"],
    }


def _took(row: Mapping[str, Any], first: Step, closing: Step) -> float:
    """By the clocks of who wrote: an import has other times in the stream, and an undo comes after the close."""
    begun, ended = first[1], closing[1]
    return (ended - begun) / 1e9 if ended >= begun > 0 else _seen(row)


def _seen(row: Mapping[str, Any]) -> float:
    return float((row["updated_at"] - row["started_at"]).total_seconds())


def parsed(text: str) -> Any:
    """The JSON of a details field; text that is none, or that nobody could show, as it is; nothing for empty."""
    if not text:
        return None
    try:
        return foreign_json(text)
    except ValueError:
        return text


async def read_runs(
    store: Store, *, run: str = "", before: int = MAX_SEQ, limit: int = 1, words: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Runs by their begin, the newest first; only ``run``, or those with all ``words``, where given.

    ``before``: those that began earlier, as microseconds since 1970 << 64 | first sequence; ``run`` goes before it.
    """
    rows = await store.rows("runs_page", run=run, before=before, limit=limit, words=list(words))
    names = [row["run"] for row in rows]
    found = await store.rows("run_transitions", runs=names) if names else []
    steps: dict[str, list[Step]] = {name: [] for name in names}
    lasts = {row["run"]: row["last_seq"] for row in rows}
    for row in found:
        # One that came in between the two questions would close a run whose last events are not counted.
        if row["stream_seq"] > lasts[row["run"]]:
            continue
        with suppress(NotAnEvent):
            _add_step(steps[row["run"]], parse_event(bytes(row["raw"])))
    return [summary(row, steps[row["run"]]) for row in rows]


def _add_step(steps: list[Step], event: SwarmEvent) -> None:
    if kind_of(event) == "run_transition" and event.run_transition.subject != "task":
        steps.append((event.run_transition, event.timestamp.ToNanoseconds()))


def summary_of(run: str, events: Iterable[StoredEvent]) -> dict[str, Any]:
    """The same for a run the table does not hold yet, from the stream."""
    found = list(events)
    kinds = [kind_of(stored.event) for stored in found]
    steps: list[Step] = []
    for stored in found:
        _add_step(steps, stored.event)
    row = {
        "run": run,
        "trace": next((stored.event.trace_id for stored in found if stored.event.trace_id), ""),
        "started_at": found[0].time,
        "updated_at": found[-1].time,
        "first_seq": found[0].seq,
        "last_seq": found[-1].seq,
        "total": len(found),
        "agents": len({stored.event.agent_id for stored in found}),
        "decisions": kinds.count("decision"),
        "changes": kinds.count("state_change"),
        "model_calls": kinds.count("model_call"),
        "tool_calls": kinds.count("tool_call"),
        "total_input_tokens": sum(stored.event.model_call.input_tokens for stored in found),
        "total_output_tokens": sum(stored.event.model_call.output_tokens for stored in found),
    }
    return summary(row, steps)


async def find_run(deps: Dependencies, run: str) -> dict[str, Any]:
    """One run, from the table, or from the stream while it is younger than the last flush.

    Raises:
        RunNotFound: neither knows it.
        BusUnavailable: the table does not know it, and the stream could not be asked.
    """
    if found := await read_runs(deps.store, run=run):
        return found[0]
    events = await deps.bus.read_run(run)
    if not events:
        raise RunNotFound(run)
    return summary_of(run, events)


STARTED: dict[int | str, dict[str, Any]] = {
    200: {"model": StartedRun, "description": "This Idempotency-Key has started it before"}
}


@router.get("/runs/{run}", response_model=None, responses=described(RunDocument) | NOT_MODIFIED)
async def read_run(run: RunId, request: Request, deps: Deps) -> Response:
    """Where a run stands."""
    found = await find_run(deps, run)
    return tagged(request, JsonResponse(found))


@router.post("/runs", status_code=202, response_model=None, responses=described(StartedRun, 202) | STARTED)
async def start_run(
    body: RunBody,
    request: Request,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=256)] = None,
) -> JsonResponse:
    """Start a run; the same Idempotency-Key with the same body starts it once and answers 200 from then on."""
    starts: Starts = request.app.state.starts
    return started(*await starts.start(body.request, body.model_dump(), idempotency_key))


def started(run_id: str, begun: bool) -> JsonResponse:
    """The answer to a run that was asked for."""
    url = f"/api/v1/runs/{run_id}"
    content = {"run_id": run_id, "url": url}
    return JsonResponse(content, status_code=202 if begun else 200, headers={"Location": url})


@router.post("/runs/{run}/cancel", status_code=202, response_model=None, responses=described(StartedRun, 202))
async def cancel_run(run: RunId, request: Request, deps: Deps) -> JsonResponse:
    """Ask a run to end as ``cancelled``."""
    await find_run(deps, run)
    starts: Starts = request.app.state.starts
    await starts.cancel(run)
    return JsonResponse({"run_id": run, "url": f"/api/v1/runs/{run}"}, status_code=202)
