"""The roles of a rerun: the real ones, in this process, at recorded desks with recorded models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from enchanted.actors.config import RoleModel
from enchanted.actors.errors import ToolNotRun
from enchanted.actors.ledger import report_from_json
from enchanted.actors.lifecycle import RunState, TaskState
from enchanted.actors.models.model import BUNDLED
from enchanted.actors.rerun.players import RecordedFailure, RecordedModel, RecordedRepository, RecordedSite
from enchanted.actors.rerun.recording import Act, Part, Recording, details_of
from enchanted.actors.rerun.script import Cursor, Script, ScriptedLog
from enchanted.actors.roles import Manner, make_role
from enchanted.actors.team import AgentLost
from enchanted.actors.work import (
    Assignment,
    CheckReport,
    CheckRequest,
    Plan,
    PlanRequest,
    Review,
    ReviewRequest,
    RoleName,
    Submission,
)
from enchanted.bus.memory import InMemoryBus
from enchanted.schemas.events import StoredEvent


@dataclass(frozen=True, kw_only=True)
class _Player:
    role: Any
    cursor: Cursor


class ScriptedTeam:
    """The roles of one act. One whose recorded process died is replaced by its successor, as it was then."""

    def __init__(
        self,
        recording: Recording,
        act: Act,
        *,
        bus: InMemoryBus,
        script: Script,
        repository: RecordedRepository,
        orchestrator: Cursor,
        after: int,
    ) -> None:
        self._recording = recording
        self._act = act
        self._bus = bus
        self._script = script
        self._repository = repository
        self._orchestrator = orchestrator
        self._after = after
        self._players: dict[str, _Player] = {}
        self._working: set[asyncio.Task[Any]] = set()
        self.cursors = [self._cursor(part) for part in act.roles]
        # Who only said STARTING may have started too late to be asked: nothing tells that anybody waited for it.
        self._waiting = [one for one in self.cursors if one.part.events and not self._is_succeeded(one.part)]

    @property
    def coders(self) -> int:
        """How many Coders can work at once."""
        return self._recording.request.coders

    async def plan(self, request: PlanRequest) -> Plan:
        """Ask the Architect."""
        plan: Plan = await self._call("architect", "architect", "plan", request)
        return plan

    async def code(self, coder: int, job: Assignment) -> Submission:
        """Give a task to a Coder."""
        done: Submission = await self._call(f"coder-{coder + 1}", "coder", "code", job, number=coder)
        return done

    async def check(self, request: CheckRequest) -> CheckReport:
        """Have the Reviewer run the checks."""
        report: CheckReport = await self._call("reviewer", "reviewer", "check", request)
        return report

    async def review(self, request: ReviewRequest) -> Review:
        """Have the Reviewer judge a candidate."""
        review: Review = await self._call("reviewer", "reviewer", "review", request)
        return review

    async def disband(self) -> None:
        """Let the roles say what they said until they were ended, then end them."""
        await self._script.until(self._nothing_to_come)
        await self.end()

    async def end(self) -> None:
        """End every role."""
        working, self._working = self._working, set()
        for task in working:
            task.cancel()
        if working:
            await asyncio.wait(working)

    def _nothing_to_come(self) -> bool:
        return all(cursor.at_end for cursor in self.cursors) or all(task.done() for task in self._working)

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if name not in self._players:
            self._require_came(name, request.task.task_id if method == "code" else "")
            self._players[name] = self._player(name, role, number)
        player = self._players[name]
        work = asyncio.create_task(getattr(player.role, method)(request))
        self._working.add(work)
        gone = asyncio.create_task(self._script.until(lambda: player.cursor.gone))
        try:
            # Like an actor, a role goes on when its caller does not wait any longer.
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if work.done() and not self._answer_was_lost(player.cursor, method, request):
            self._working.discard(work)
            if method != "code" and work.exception() is not None:
                await self._meanwhile(method, work.exception())
            return work.result()
        work.cancel()
        del self._players[name]
        raise AgentLost(name)

    async def _meanwhile(self, method: str, failure: BaseException | None) -> None:
        """Let the tasks take the steps they took until a failure ended the run."""
        tried_again = method == "review" and isinstance(failure, ToolNotRun)
        if not tried_again and (self._recording.cut_off or not self._act.last):
            await self._script.until(lambda: not any(s.event.task_id for s in self._orchestrator.remaining))

    def _require_came(self, name: str, task_id: str) -> None:
        """Fail as the recorded call did where no process of that name ever spoke."""
        cursor, step = self._next_of(name), self._next_step(task_id)
        if step is None or (cursor is not None and cursor.part.first_seq < step.seq):
            return
        moved = step.event.run_transition
        if moved.reason == str(AgentLost(name)):
            raise AgentLost(name)
        # A task is given up for a Coder that could not come, which may come for a later one.
        if moved.to_state == TaskState.REJECTED if task_id else cursor is None and moved.to_state == RunState.FAILED:
            raise RecordedFailure(moved.reason)

    def _next_of(self, name: str) -> Cursor | None:
        return next((cursor for cursor in self._waiting if cursor.part.name == name), None)

    def _next_step(self, task_id: str) -> StoredEvent | None:
        """What the orchestrator said next, of a task where one is given."""
        steps = self._orchestrator.remaining
        return next((stored for stored in steps if not task_id or stored.event.task_id == task_id), None)

    def _player(self, name: str, role: RoleName, number: int) -> _Player:
        cursor = self._next_of(name)
        if cursor is None:
            nobody = Part(name=name, agent_id=f"new-{name}", events=(), first_seq=0, last_seq=0, stopped=True)
            cursor = Cursor(nobody, cut=not self._act.last or self._recording.cut_off)
        else:
            self._waiting.remove(cursor)
        request = self._recording.request
        log = ScriptedLog(self._bus, self._script, cursor, run_id=request.run_id, role=role)
        made = make_role(
            role,
            request,
            name=name,
            number=number,
            log=log,
            model=RecordedModel(cursor),
            manner=manner_of(self._recording, role),
            site=RecordedSite(self._repository, self._script, cursor),
            reports=self._reports(cursor.part) if role == "reviewer" else (),
        )
        return _Player(role=made, cursor=cursor)

    def _cursor(self, part: Part) -> Cursor:
        cut = not (part.stopped and self._act.last) or self._recording.cut_off
        return Cursor(part, cut=cut, dies=not part.stopped and self._was_missed(part), after=self._after)

    def _is_succeeded(self, part: Part) -> bool:
        """Whether another process had its place where this performance begins."""
        successor = self._successor(part)
        return successor is not None and successor.first_seq <= self._after

    def _reports(self, part: Part) -> Iterator[CheckReport]:
        """What a Reviewer had seen where this performance begins."""
        for stored in self._act.orchestrator.events:
            details = details_of(stored.event)
            if part.first_seq < stored.seq <= self._after and "report" in details and "forked_from" not in details:
                yield report_from_json(details["report"])

    def _was_missed(self, part: Part) -> bool:
        """Whether the orchestrator lived to see the end of a part whose process died."""
        lost = str(AgentLost(part.name))
        # The stream may take in its last words after those of whoever saw it end.
        steps = (stored for stored in self._act.orchestrator.events if stored.seq > part.first_seq)
        return self._successor(part) is not None or any(s.event.run_transition.reason == lost for s in steps)

    def _successor(self, part: Part) -> Part | None:
        later = (other for other in self._act.roles if other.name == part.name and other.first_seq > part.first_seq)
        return next(later, None)

    def _answer_was_lost(self, cursor: Cursor, method: str, request: Any) -> bool:
        """Whether a process that died had said all but given no answer: the orchestrator went on without it."""
        if not (cursor.dies and cursor.at_end):
            return False
        step = self._next_step(request.task.task_id if method in ("code", "review") else "")
        if method == "code":
            return step is not None and step.event.run_transition.reason == str(AgentLost(cursor.part.name))
        # Whom it asks again comes before the step that the answer leads to.
        successor = self._successor(cursor.part)
        return successor is not None and (step is None or successor.first_seq < step.seq)


def manner_of(recording: Recording, role: RoleName) -> Manner:
    """How a role asked its model, read off its recorded calls: the settings of the run are not in its log.

    A role that made none yet, in a run that was cancelled say, asks as the model that the run names for it is asked.
    """
    for part in recording.parts:
        for stored in part.events:
            if part.name.startswith(role) and stored.event.model_call.parameters:
                return _manner(stored)
    model = RoleModel(url=recording.request.models.get(role, BUNDLED))
    return Manner(guided=model.is_guided, temperature=model.temperature)


def _manner(stored: StoredEvent) -> Manner:
    parameters = orjson.loads(stored.event.model_call.parameters)
    # The form of a guided answer is one alternative for each option.
    return Manner(guided="anyOf" in parameters["schema"], temperature=parameters["temperature"])
