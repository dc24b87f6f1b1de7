"""Runs performed again from their log, for as long as a client waits: nothing is published, nothing is executed."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from enchanted.actors.errors import ActorError
from enchanted.actors.rerun.document import to_json
from enchanted.actors.rerun.driver import Verdict, rerun
from enchanted.actors.rerun.recording import Recording, recording_of
from enchanted.schemas.events import StoredEvent
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.errors import ServeError
from enchanted.serve.moments.seek import events_between
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, RunId

router = APIRouter(prefix="/api/v1", tags=["history"])
AT_ONCE = 2
"""Reruns at a time; others wait."""
DEADLINE = 240.0
"""Seconds one rerun may take."""
LOOK = 0.2
"""Seconds until a rerun that nobody waits for any more ends."""


class NotRerunnable(ServeError):
    """The run's log does not hold what a rerun needs."""

    status, code, title = 409, "not-rerunnable", "This run cannot be run again"


class RerunTooLong(ServeError):
    """The rerun did not end in time."""

    status, code, title = 409, "rerun-too-long", "The rerun takes too long"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"it is not through after {seconds:g} s; "
            "`enchanted rerun RUN --record FILE` and `python -m enchanted.actors.rerun FILE` have no limit"
        )


class RerunUnwanted(Exception):
    """Whoever asked for the rerun has gone."""


class PerformedDocument(BaseModel):
    """How much of one recorded agent was performed, and found equal."""

    name: str
    agent_id: str
    recorded: int
    equal: int


class DifferenceDocument(BaseModel):
    """One field that is not the same."""

    field: str
    """Dotted, inside JSON too."""
    recorded: str
    new: str


class SaidDocument(BaseModel):
    """An event that was recorded, or is new."""

    seq: int | None = None
    """Absent for a new event."""
    kind: str
    event: dict[str, Any]
    """Its fields; long texts are cut."""


class DivergenceDocument(BaseModel):
    """The first place where the rerun is not the recording."""

    agent: str
    why: str
    recorded: SaidDocument | None
    """Null where the recording has nothing more."""
    new: SaidDocument | None
    """Null where the rerun says nothing."""
    differences: list[DifferenceDocument]


class RerunDocument(BaseModel):
    """What performing a run again found."""

    run_id: str
    equal: bool
    after: int
    """The sequence it began after; 0 is the run's beginning."""
    compared: int
    """Events found equal."""
    recorded: int
    agents: list[PerformedDocument]
    divergence: DivergenceDocument | None
    masked: list[str]
    """Fields that differ in every performance."""
    not_compared: dict[str, int]
    model_calls: int
    """Answered from the log."""
    tool_calls: int
    """Likewise."""
    live_seconds: float
    rerun_seconds: float
    times_faster: float


class Reruns:
    """Performs runs, a few at a time, each in a loop and a thread of its own so that the API goes on answering."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._places = asyncio.Semaphore(AT_ONCE)
        # Not the loop's own threads, which states and restores need.
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rerun")

    async def verdict(self, run: str, start: int) -> Verdict:
        """Perform a run, from the last quiet point at or before a sequence; who is cancelled ends it.

        Raises:
            NotRerunnable: the log does not hold what that needs.
            RerunTooLong: it did not end in time.
        """
        unwanted = threading.Event()
        async with self._places:
            try:
                recording = await recording_of(run, self._read, self._deps.bus.blob)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._perform, recording, start, unwanted)
            except ActorError as error:
                raise NotRerunnable(str(error)) from error
            except TimeoutError as error:
                raise RerunTooLong(DEADLINE) from error
            finally:
                unwanted.set()

    async def _read(self, run: str) -> list[StoredEvent]:
        return await events_between(self._deps, run, 0, MAX_SEQ)

    def _perform(self, recording: Recording, start: int, unwanted: threading.Event) -> Verdict:
        self._deps.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._deps.cache, prefix="rerun-") as folder:
            return asyncio.run(_wanted(rerun(recording, Path(folder), start=start), unwanted))


async def _wanted(performing: Coroutine[None, None, Verdict], unwanted: threading.Event) -> Verdict:
    """What it finds, unless it takes too long or nobody waits for it."""
    async with asyncio.timeout(DEADLINE):
        task = asyncio.create_task(performing)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK))[0]:
                if unwanted.is_set():
                    raise RerunUnwanted
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})


@router.post("/runs/{run}/reruns", response_model=None, responses=described(RerunDocument))
async def rerun_run(
    run: RunId, request: Request, deps: Deps, start: Annotated[int, Query(alias="from", ge=0, le=MAX_SEQ)] = 0
) -> JsonResponse:
    """Run the swarm's code again with what models and tools answered then, and compare every event.

    It begins at the last point at or before ``from`` where no agent was in the middle of something.
    """
    await find_run(deps, run)
    reruns: Reruns = request.app.state.reruns
    verdict = await reruns.verdict(run, start)
    return JsonResponse(to_json(verdict))
