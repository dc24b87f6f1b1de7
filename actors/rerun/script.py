"""The script of a rerun: whose turn it is, what that agent said then, and where it first says something else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from enchanted.actors.rerun.compare import Difference, differences
from enchanted.actors.rerun.recording import Part
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.memory import InMemoryBus
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of, timestamp_of

_TURNS = 20
"""Of the event loop, while an acknowledgement is on its way: who goes on from the event before has read what it
decides by, as it has live, where that takes a network."""
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where the rerun left the recording."""

    agent: str
    why: str
    recorded: StoredEvent | None
    """None: the recording has nothing more of this agent."""
    new: SwarmEvent | None
    """None: the rerun says nothing here."""
    differences: tuple[Difference, ...] = ()


class Cursor:
    """How far one part has been performed."""

    def __init__(self, part: Part, *, cut: bool, dies: bool = False, after: int = 0) -> None:
        self.part = part
        self.cut = cut
        """What comes after its last event is not heard: its process was ended in the middle of its work."""
        self.dies = dies
        """Its process ended, and the orchestrator noticed."""
        self.silenced = False
        """It tried to go on after its last event."""
        self.held: tuple[StoredEvent, ...] = ()
        """Its last events, which somebody outside of the swarm has to bring about first."""
        self._begun = sum(stored.seq <= after for stored in part.events)
        """Events that were said before this performance begins."""
        self._position = self._numbered = self._begun
        self._keys = [_key(stored.event) for stored in part.events]
        self._left = Counter(self._keys[self._begun :])

    @property
    def remaining(self) -> Sequence[StoredEvent]:
        """What was not said yet."""
        return self.part.events[self._position :]

    @property
    def said(self) -> Sequence[StoredEvent]:
        """What was said in this performance."""
        return self.part.events[self._begun : self._position]

    @property
    def total(self) -> int:
        """How many events this performance should have."""
        return len(self.part.events) - self._begun

    @property
    def at_end(self) -> bool:
        """Everything but what is held back has been said."""
        return len(self.part.events) - self._position <= len(self.held)

    @property
    def gone(self) -> bool:
        """The orchestrator sees now that the process has ended."""
        return self.dies and self.silenced

    def peek(self, ahead: int = 0) -> SwarmEvent:
        """The event after this one; an empty one at the end."""
        place = self._position + ahead
        return self.part.events[place].event if place < len(self.part.events) else SwarmEvent()

    def next(self) -> StoredEvent | None:
        """The event after this one, with its place in the stream; None at the end."""
        return self.part.events[self._position] if self._position < len(self.part.events) else None

    def take(self) -> None:
        """Go on to the next event."""
        self._left[self._keys[self._position]] -= 1
        self._position += 1

    def new_id(self) -> str:
        """The id that the next new event had in the recording."""
        self._numbered += 1
        if self._numbered <= len(self.part.events):
            return self.part.events[self._numbered - 1].event.event_id
        return f"new-{self.part.agent_id}-{self._numbered}"

    def now(self) -> datetime:
        """The time it was then."""
        place = min(self._numbered, len(self.part.events)) - 1
        return (timestamp_of(self.part.events[place].event) if place >= 0 else None) or _NO_TIME

    def may_say(self, draft: SwarmEvent) -> bool:
        """Whether it is the draft's turn. One that never has a turn is let through, to be found out, unless the part
        was cut off: then it may be what came too late.
        """
        if self.at_end:
            return not self.held
        key = _key(draft)
        return self._keys[self._position] == key or (not self._left[key] and not self.cut)


class Script:
    """Compares what agents say with what they said, until all is said or the first difference."""

    def __init__(self, bus: InMemoryBus) -> None:
        self._bus = bus
        self._changed = asyncio.Condition()
        self.said = 0
        self.divergence: Divergence | None = None
        self.waiting: dict[str, SwarmEvent] = {}
        """Agent id -> what it would say if it were its turn."""

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that only what is said can bring about."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def turn(self, cursor: Cursor, draft: SwarmEvent, *, in_order: bool) -> None:
        """Wait until ``draft`` is what comes next; for ever when its part is over."""
        if in_order:
            self.waiting[cursor.part.agent_id] = draft
            await self.until(lambda: cursor.may_say(draft))
            self.waiting.pop(cursor.part.agent_id, None)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        if cursor.at_end and cursor.cut:
            cursor.silenced = True
            await self._tell()
            await _for_ever()

    async def hear(self, cursor: Cursor, stored: Sequence[StoredEvent]) -> None:
        """Compare what was said; does not return when it is not what was said then."""
        for one in stored:
            new = await self._bus.inflate(one.event)
            recorded = cursor.next()
            if recorded is None:
                return await self.diverge(cursor, "the recording ends before this", new=new)
            if kind_of(recorded.event) != kind_of(new):
                why = f"a {kind_of(recorded.event)} was recorded, now it is a {kind_of(new)}"
                await self.diverge(cursor, why, recorded, new)
            if found := differences(recorded.event, new):
                why = f"{', '.join(difference.field for difference in found[:3])} differ"
                await self.diverge(cursor, why, recorded, new, found)
            cursor.take()
            self.said += 1
        return await self._tell()

    async def diverge(
        self,
        cursor: Cursor,
        why: str,
        recorded: StoredEvent | None = None,
        new: SwarmEvent | None = None,
        found: tuple[Difference, ...] = (),
    ) -> None:
        """Stop here: the caller goes no further."""
        self.divergence = self.divergence or Divergence(
            agent=cursor.part.name, why=why, recorded=recorded, new=new, differences=found
        )
        await self._tell()
        await _for_ever()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class ScriptedLog(AgentLog):
    """A log whose ids and times are the recorded ones, and which publishes only what the script lets through."""

    def __init__(
        self, bus: InMemoryBus, script: Script, cursor: Cursor, *, in_order: bool = False, **whose: Any
    ) -> None:
        super().__init__(
            bus,
            agent_name=cursor.part.name,
            agent_id=cursor.part.agent_id,
            ids=cursor.new_id,
            clock=cursor.now,
            **whose,
        )
        self._script = script
        self._cursor = cursor
        self._in_order = in_order

    async def emit(self, *drafts: SwarmEvent) -> list[StoredEvent]:
        """As AgentLog; does not return when this is not what the script says."""
        await self._script.turn(self._cursor, drafts[0], in_order=self._in_order)
        stored = await super().emit(*drafts)
        await self._script.hear(self._cursor, stored)
        return stored

    async def emit_change(self, draft: SwarmEvent, *, expected_last: int) -> StoredEvent:
        """Likewise."""
        await self._script.turn(self._cursor, draft, in_order=self._in_order)
        stored = await super().emit_change(draft, expected_last=expected_last)
        await self._script.hear(self._cursor, [stored])
        return stored


async def _for_ever() -> None:
    await asyncio.Event().wait()


def _key(event: SwarmEvent) -> tuple[str, ...]:
    """What tells the steps of an orchestrator apart that may be taken in another order."""
    step, change = event.run_transition, event.state_change
    return kind_of(event), event.task_id, step.subject, step.to_state, event.workspace_id, change.reason
