"""What a run's log tells, in the form a rerun needs: each agent's part, and the content its events name."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import orjson

from enchanted.actors.errors import GitFailed
from enchanted.actors.ledger import request_from_json
from enchanted.actors.lifecycle import CLOSED_RUN, RunState
from enchanted.actors.rerun.errors import CannotRerun, as_the_swarm_writes
from enchanted.actors.work import RunRequest
from enchanted.bus.fields import inflate
from enchanted.bus.memory import InMemoryBlobs
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of, timestamp_of
from enchanted.schemas.fold import FILE_SYSTEM
from enchanted.schemas.gen.events_pb2 import StateChange

ORCHESTRATOR, OPERATOR = "orchestrator", "operator"
ReadRun = Callable[[str], Awaitable[Sequence[StoredEvent]]]
"""Run id -> its events in stream order."""
FetchBlob = Callable[[str], Awaitable[bytes]]
"""SHA-256 -> the content, checked."""
MOST_CODERS = 1_000
_ROLES = re.compile(r"architect|reviewer|coder-[1-9]\d*")
_WITH_DATA = frozenset({"lint", "find_repairs"})
_QUIET = frozenset({RunState.PREPARED, RunState.PLANNING, RunState.WORKING, RunState.CHECKING})
"""Whoever brings a run there has heard of every agent that is at work."""
_CUT_OFF = frozenset({RunState.FAILED, RunState.CANCELLED})


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process of one agent said, its signals left out."""

    name: str
    agent_id: str
    events: tuple[StoredEvent, ...]
    """With their moved-out fields put back."""
    first_seq: int
    last_seq: int
    stopped: bool
    """Its process ended of its own will."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """What happened while one orchestrator was alive."""

    orchestrator: Part
    roles: tuple[Part, ...]
    """In the order they began."""
    until: int
    """Sequence before which it ended."""
    last: bool


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One closed run."""

    run_id: str
    request: RunRequest
    """What was asked for."""
    events: tuple[StoredEvent, ...]
    """As the stream had them."""
    parent: tuple[StoredEvent, ...]
    """Those of the run that this one was forked from, up to there, as the stream had them."""
    blobs: Mapping[str, bytes]
    """Content by SHA-256, all that the events name."""
    parts: tuple[Part, ...]
    """Of the orchestrator and the roles, in the order they began."""
    said: tuple[StoredEvent, ...]
    """What the operator said: the request, and wishes to cancel."""
    signals: int
    """Measurements of processes, which are not compared."""
    strangers: int
    """Events of agents that are not of the swarm, which are not compared."""

    @cached_property
    def base(self) -> SwarmEvent:
        """The change that stored what the run started from."""
        return next(
            stored.event
            for part in self.parts
            for stored in part.events
            if stored.event.state_change.reason == "base" and stored.event.state_change.content_sha256
        )

    def changes(self, until: int) -> Iterator[StateChange]:
        """The patches up to a sequence, in stream order."""
        stored = sorted((one for part in self.parts for one in part.events), key=lambda one: one.seq)
        for change in (one.event.state_change for one in stored if one.seq <= until):
            if change.target_type == FILE_SYSTEM and not change.content_sha256:
                yield change

    def quiet_before(self, seq: int) -> int:
        """The last sequence up to ``seq`` after which no agent was in the middle of something; 0 for the beginning."""
        begun = [act.orchestrator.first_seq - 1 for act in self.acts[1:]]
        steps = [stored for act in self.acts for stored in act.orchestrator.events]
        quiet = [stored.seq for stored in steps if stored.event.run_transition.to_state in _QUIET]
        return max((one for one in (*begun, *quiet) if one <= seq), default=0)

    @property
    def closing(self) -> StoredEvent:
        """The transition that closed the run."""
        return next(stored for stored in self.events if _closes(stored.event))

    @property
    def live_seconds(self) -> float:
        """From the request to the verdict, by the events' own times: an imported run came into its stream at once."""
        return max(0.0, (_said_at(self.closing) - _said_at(self.events[0])).total_seconds())

    @property
    def cut_off(self) -> bool:
        """Its end may have found agents in the middle of their work."""
        return self.closing.event.run_transition.to_state in _CUT_OFF

    @cached_property
    def acts(self) -> tuple[Act, ...]:
        """One for each orchestrator; the roles are its own, since they end with it."""
        orchestrators = [part for part in self.parts if part.name == ORCHESTRATOR]
        ends = [part.first_seq for part in orchestrators[1:]] + [self.events[-1].seq + 1]
        acts, begun = [], 0
        for orchestrator, end in zip(orchestrators, ends, strict=True):
            roles = tuple(p for p in self.parts if p.name != ORCHESTRATOR and begun <= p.first_seq < end)
            acts.append(Act(orchestrator=orchestrator, roles=roles, until=end, last=end == ends[-1]))
            begun = end
        return tuple(acts)


async def recording_of(run_id: str, read: ReadRun, fetch: FetchBlob) -> Recording:
    """Read a run's events, those it was forked from, and the content they name.

    Raises:
        CannotRerun: the run is open, is none of the swarm's, or lacks something a rerun needs.
        Whatever ``read`` and ``fetch`` raise.
    """
    events = await read(run_id)
    with as_the_swarm_writes(run_id):
        return await _recording(run_id, events, read, fetch)


async def _recording(run_id: str, events: Sequence[StoredEvent], read: ReadRun, fetch: FetchBlob) -> Recording:
    _require_closed(run_id, events)
    request = request_from_json(orjson.loads(events[0].event.run_transition.details))
    if request.run_id != run_id or not 0 < request.coders <= MOST_CODERS or float(request.budget.seconds) < 0:
        raise CannotRerun(run_id, "its request is not such as the swarm takes")
    parent = [s for s in await read(request.forked_from) if s.seq <= request.forked_at] if request.forked_from else []
    store = InMemoryBlobs()
    blobs: dict[str, bytes] = {}
    for sha256 in dict.fromkeys(name for stored in (*parent, *events) for name in _content(stored.event)):
        blobs[sha256] = await fetch(sha256)
        if await store.put(blobs[sha256]) != sha256:
            raise CannotRerun(run_id, f"the content {sha256[:12]} is damaged", "`enchanted verify RUN` names what is")
    whole = [replace(s, event=await inflate(s.event, store)) if s.event.blobs else s for s in events]
    members = [stored for stored in whole if _is_member(stored.event)]
    said = [s for s in whole if s.event.agent_name == OPERATOR and kind_of(s.event) == "run_transition"]
    recording = Recording(
        run_id=run_id,
        events=tuple(events),
        parent=tuple(parent),
        request=request,
        blobs=blobs,
        parts=tuple(_parts(members)),
        said=tuple(said),
        signals=sum(kind_of(stored.event) == "system_signal" for stored in members),
        strangers=len(whole) - len(members) - len(said),
    )
    _require_usable(recording)
    return recording


def _said_at(stored: StoredEvent) -> datetime:
    return timestamp_of(stored.event) or stored.time


def _closes(event: SwarmEvent) -> bool:
    return bool(event.run_transition.heads) and event.run_transition.to_state in CLOSED_RUN


def _require_closed(run_id: str, events: Sequence[StoredEvent]) -> None:
    first = events[0].event if events else SwarmEvent()
    if first.agent_name != OPERATOR or first.run_transition.to_state != RunState.CREATED:
        raise CannotRerun(run_id, "it does not begin with a request to the swarm")
    if not any(_closes(stored.event) for stored in events):
        raise CannotRerun(run_id, "it has no verdict yet", "wait for its end, or cancel it: `enchanted run-info RUN`")


def _require_usable(recording: Recording) -> None:
    run_id, closing = recording.run_id, recording.closing.event
    if closing.run_transition.reason.startswith("internal error"):
        raise CannotRerun(run_id, "an error of Enchanted's own ended it, which is no part of the log")
    if not recording.acts:
        raise CannotRerun(run_id, "no orchestrator worked on it")
    _require_whole(recording)
    stored = [stored.event for part in recording.parts for stored in part.events]
    if not any(event.state_change.reason == "base" and event.state_change.content_sha256 for event in stored):
        raise CannotRerun(run_id, f"it ended before its files were stored ({closing.run_transition.reason[:200]})")
    if closing.run_transition.to_state == RunState.FAILED and not closing.run_transition.details:
        raise CannotRerun(run_id, f"it ended before it could be driven ({closing.run_transition.reason[:200]})")
    for event in stored:
        if GitFailed.is_told_by(event.run_transition.reason):
            why = f"git failed at event {event.event_id}, and what it did until then is no part of the log"
            raise CannotRerun(run_id, why)
        call = event.tool_call
        if call.tool in _WITH_DATA and call.outcome == "OK" and not call.data:
            why = f"event {event.event_id} is of a version that did not record what {call.tool} found"
            raise CannotRerun(run_id, why, "rerun a newer run")


def _require_whole(recording: Recording) -> None:
    """Whoever is left out wholly, or at the end, is missed by nobody in the rerun; the verdict names them all."""
    newest: dict[str, int] = {}
    for stored in recording.events:
        newest[stored.event.agent_id] = max(newest.get(stored.event.agent_id, 0), stored.event.agent_seq)
    for head in recording.closing.event.run_transition.heads:
        if newest.get(head.agent_id, 0) < head.agent_seq:
            why = f"event {head.agent_seq} of agent {head.agent_id}, which its verdict names, is missing"
            raise CannotRerun(recording.run_id, why, "`enchanted verify RUN` names what is")


def _content(event: SwarmEvent) -> list[str]:
    own = event.state_change.content_sha256
    return [*([own] if own else []), *(blob.sha256 for blob in event.blobs)]


def _is_member(event: SwarmEvent) -> bool:
    return event.agent_name == ORCHESTRATOR or bool(_ROLES.fullmatch(event.agent_name))


def _parts(members: Sequence[StoredEvent]) -> list[Part]:
    by_agent: dict[str, list[StoredEvent]] = {}
    for stored in members:
        by_agent.setdefault(stored.event.agent_id, []).append(stored)
    return [_part(agent_id, events) for agent_id, events in by_agent.items()]


def _part(agent_id: str, events: Sequence[StoredEvent]) -> Part:
    return Part(
        name=events[0].event.agent_name,
        agent_id=agent_id,
        events=tuple(stored for stored in events if kind_of(stored.event) != "system_signal"),
        first_seq=events[0].seq,
        last_seq=events[-1].seq,
        stopped=events[-1].event.system_signal.status == "STOPPING",
    )


def details_of(event: SwarmEvent) -> dict[str, Any]:
    """What a transition holds beside its states."""
    found = orjson.loads(event.run_transition.details or "{}")
    return found if isinstance(found, dict) else {}
