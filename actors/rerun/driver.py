"""Run a recorded run again and say whether it is the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from enchanted.actors.errors import OutOfTime
from enchanted.actors.ledger import read_ledger
from enchanted.actors.lifecycle import RunState
from enchanted.actors.orchestrator import Orchestrator
from enchanted.actors.rerun.errors import as_the_swarm_writes
from enchanted.actors.rerun.players import RecordedRepository
from enchanted.actors.rerun.recording import ORCHESTRATOR, Act, Recording, details_of
from enchanted.actors.rerun.script import Cursor, Divergence, Script, ScriptedLog
from enchanted.actors.rerun.team import ScriptedTeam
from enchanted.bus.batch import Outgoing
from enchanted.bus.memory import InMemoryBus
from enchanted.schemas.events import StoredEvent, kind_of

_AGES = 1e6
"""Seconds before a run's time could be over: when that is, the recording says."""
PATIENCE = 20.0
"""Seconds in which nobody says anything, after which nobody is going to."""


@dataclass(frozen=True, kw_only=True)
class Performed:
    """How much of one recorded agent was performed, and found equal."""

    name: str
    agent_id: str
    recorded: int
    """Events from where it began."""
    equal: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rerun found."""

    run_id: str
    after: int
    """The sequence it began after; 0 is the run's beginning."""
    parts: tuple[Performed, ...]
    divergence: Divergence | None
    """The first; nothing was compared after it."""
    signals: int
    """Measurements of processes, left out."""
    strangers: int
    """Events of agents that are not of the swarm, left out."""
    model_calls: int
    """Answered from the recording."""
    tool_calls: int
    """Likewise."""
    live_seconds: float
    rerun_seconds: float

    @property
    def equal(self) -> bool:
        """Every agent said what it said, and nothing else."""
        return self.divergence is None


async def rerun(
    recording: Recording,
    folder: Path,
    *,
    start: int = 0,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.perf_counter,
) -> Verdict:
    """Perform a recording; ``folder`` (empty, the caller's to remove) takes the scratch repository.

    It begins at the last point at or before sequence ``start`` where no agent was in the middle of something.

    Raises:
        CannotRerun, MissingContent, BadPatch: the files it begins with cannot be made.
    """
    begun = clock()
    after = recording.quiet_before(start)
    with as_the_swarm_writes(recording.run_id):
        bus = await _bus_of(recording, after)
        repository = await RecordedRepository.of(recording, folder, bus, after)
        stage = _Stage(recording, bus, repository, after=after, patience=patience)
        with _unobserved(recording.events[0]):
            for act in recording.acts:
                if stage.script.divergence is None and act.until > after + 1:
                    await stage.perform(act)
    stage.require_all_said()
    said = [stored.event for cursor in stage.cursors for stored in cursor.said]
    return Verdict(
        run_id=recording.run_id,
        after=after,
        parts=tuple(_performed(cursor) for cursor in stage.cursors),
        divergence=stage.script.divergence,
        signals=recording.signals,
        strangers=recording.strangers,
        model_calls=sum(kind_of(event) == "model_call" for event in said),
        tool_calls=sum(kind_of(event) == "tool_call" for event in said),
        live_seconds=recording.live_seconds,
        rerun_seconds=clock() - begun,
    )


class _Stage:
    """Where the acts of one recording are performed, one after the other, over one bus in memory."""

    def __init__(
        self,
        recording: Recording,
        bus: InMemoryBus,
        repository: RecordedRepository,
        *,
        after: int,
        patience: float,
    ) -> None:
        self._recording = recording
        self._bus = bus
        self._repository = repository
        self._after = after
        self._patience = patience
        self._operator = [stored for stored in recording.said if stored.seq > after]
        self.script = Script(self._bus)
        self.cursors: list[Cursor] = []

    async def perform(self, act: Act) -> None:
        """Drive the run as one orchestrator did, to its end or to the first divergence."""
        await self._operator_speaks(before=act.orchestrator.first_seq)
        ledger = read_ledger(
            [
                replace(s, event=await self._bus.inflate(s.event))
                for s in await self._bus.read_run(self._recording.run_id)
            ]
        )
        # Where the end came from outside it may hear here what it did not live to hear.
        leader = Cursor(act.orchestrator, cut=not act.last or self._recording.cut_off, after=self._after)
        self._repository.orchestrator = leader
        team = ScriptedTeam(
            self._recording,
            act,
            bus=self._bus,
            script=self.script,
            repository=self._repository,
            orchestrator=leader,
            after=self._after,
        )
        self.cursors += [leader, *team.cursors]
        orchestrator = Orchestrator(
            bus=self._bus,
            log=ScriptedLog(
                self._bus, self.script, leader, in_order=True, run_id=self._recording.run_id, role="operator"
            ),
            ledger=ledger,
            team=team,
            repository=self._repository,
            now=lambda: ledger.started_at - _AGES,
        )
        try:
            await self._drive(act, orchestrator, leader, team)
        finally:
            await team.end()

    async def _drive(self, act: Act, orchestrator: Orchestrator, leader: Cursor, team: ScriptedTeam) -> None:
        ending = self._ending_from_outside(act)
        leader.held = ending
        driving = asyncio.create_task(orchestrator.drive())
        everyone = [leader, *team.cursors]
        interrupted = bool(ending) or not act.last
        await self._watched(driving, lambda: interrupted and all(cursor.at_end for cursor in everyone))
        if self.script.divergence is not None or not ending:
            return
        leader.held = ()
        await self._operator_speaks(before=self._recording.events[-1].seq + 1)
        cancelled = ending[-1].event.run_transition
        is_cancel = cancelled.to_state == RunState.CANCELLED
        closing = orchestrator.cancel(cancelled.reason) if is_cancel else orchestrator.run_out_of_time()
        await self._watched(asyncio.create_task(closing), lambda: False)

    async def _watched(self, work: asyncio.Task[object], over: Callable[[], bool]) -> None:
        """Wait until ``work`` is done, is to be stopped, diverges, or nobody says anything any more."""
        script = self.script
        stop = asyncio.create_task(script.until(lambda: script.divergence is not None or over()))
        said = -1
        while not (work.done() or stop.done()) and said != script.said:
            said = script.said
            await asyncio.wait({work, stop}, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if not (work.done() or stop.done()):
            script.divergence = self._standstill()
        failure = work.exception() if work.done() and not work.cancelled() else None
        stop.cancel()
        work.cancel()
        await asyncio.wait({work, stop})
        if failure is not None and script.divergence is None:
            cause = _first(failure)
            script.divergence = self._missing(f"the code failed: {type(cause).__name__}: {cause}")

    def _standstill(self) -> Divergence:
        waiting = next(iter(self.script.waiting.values()), None)
        return replace(self._missing("the rerun stands still: nobody says what comes next"), new=waiting)

    def require_all_said(self) -> None:
        """A divergence, where an agent said less than it did in the recording."""
        if self.script.divergence is None and any(cursor.remaining for cursor in self.cursors):
            self.script.divergence = self._missing("the rerun ends before this")

    def _missing(self, why: str) -> Divergence:
        """The first recorded event that was not said; none where all was."""
        left = [(cursor.remaining[0], cursor.part.name) for cursor in self.cursors if cursor.remaining]
        event, agent = min(left, key=lambda pair: pair[0].seq, default=(None, ORCHESTRATOR))
        return Divergence(agent=agent, why=why, recorded=event, new=None)

    def _ending_from_outside(self, act: Act) -> tuple[StoredEvent, ...]:
        """The events by which a run closed that somebody cancelled, or whose time was over."""
        events = act.orchestrator.events
        if not act.last or not events:
            return ()
        step = events[-1].event.run_transition
        out_of_time = str(OutOfTime(self._recording.request.budget.seconds))
        if step.to_state != RunState.CANCELLED and step.reason != out_of_time:
            return ()
        rolled_back = details_of(events[-1].event).get("rolled_back")
        return events[-2:] if rolled_back else events[-1:]

    async def _operator_speaks(self, *, before: int) -> None:
        """Publish what the operator had said by then, as it was."""
        while self._operator and self._operator[0].seq < before:
            await _publish(self._bus, self._operator.pop(0))


async def _bus_of(recording: Recording, after: int) -> InMemoryBus:
    """A bus with what the swarm looks for there: content, the run this one was forked from, and its own beginning."""
    bus = InMemoryBus()
    for content in recording.blobs.values():
        await bus.blobs.put(content)
    for stored in (*recording.parent, *(stored for stored in recording.events if stored.seq <= after)):
        await _publish(bus, stored)
    return bus


async def _publish(bus: InMemoryBus, stored: StoredEvent) -> None:
    message = Outgoing(subject=stored.subject, payload=stored.raw, event_id=stored.event.event_id)
    await bus.publisher.publish(message)


def _first(failure: BaseException) -> BaseException:
    """What a group of errors began with."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _performed(cursor: Cursor) -> Performed:
    part = cursor.part
    return Performed(name=part.name, agent_id=part.agent_id, recorded=cursor.total, equal=len(cursor.said))


@contextmanager
def _unobserved(request: StoredEvent) -> Iterator[None]:
    """Continue the recorded trace, unsampled: a rerun adds no spans to it."""
    event = request.event
    parent = SpanContext(
        trace_id=int(event.trace_id or "1", 16),
        span_id=int(event.span_id or "1", 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
    )
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
    try:
        yield
    finally:
        context.detach(token)
