"""How an agent writes: one chain of events, each naming the hash of the one before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import uuid_utils

from enchanted.bus.batch import Ack, Outgoing, split
from enchanted.bus.errors import BusError, PartlyPublished, PublishRefused, StateConflict
from enchanted.bus.fields import deflate
from enchanted.bus.ports import BusPort
from enchanted.bus.subjects import event_subject, state_filter
from enchanted.bus.trace_headers import current_headers, current_ids
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import Head
from enchanted.schemas.events import ROLE_NUMBERS, Role, StoredEvent, SwarmEvent

_RESEND_FOR = 100.0
"""Seconds after the first attempt in which a repeated id is sure to be recognised; the duplicate window is 120."""
_NEVER = 2**62
"""A sequence no stream reaches."""


def new_id() -> str:
    """A UUIDv7: unique, and sorted by time."""
    return str(uuid_utils.uuid7())


def utc_now() -> datetime:
    """This machine's time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Stamped:
    """An event with its number, ready to publish."""

    event: SwarmEvent
    message: Outgoing
    head: Head


class AgentLog:
    """One incarnation of one agent. A new process is a new AgentLog with a new ``agent_id`` and a ``predecessor``.

    Events are numbered and published one call at a time. A refused event gives its number back. Events whose outcome
    is unknown are sent again unchanged before anything newer, or looked up once the stream may have forgotten the ids.
    """

    def __init__(
        self,
        bus: BusPort,
        *,
        run_id: str,
        role: Role,
        agent_name: str,
        agent_id: str | None = None,
        predecessor: str = "",
        clock: Callable[[], datetime] = utc_now,
        ids: Callable[[], str] = new_id,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._run_id = run_id
        self._role = role
        self._agent_name = agent_name
        self._predecessor = predecessor
        self._clock = clock
        self._ids = ids
        self._elapsed = elapsed
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[list[StoredEvent]] | None = None
        self._last_seq = 0
        self._uncertain: list[_Stamped] = []
        self._uncertain_since = 0.0
        self.agent_id = agent_id or ids()
        self.head = Head()

    async def emit(self, *drafts: SwarmEvent) -> list[StoredEvent]:
        """Publish drafts in order as this agent's next events; returns when they are stored.

        Fills ids, time, trace, role, agent, run, number and hash; moves large fields to the blob store. The parent of
        each draft but the first is the one before it unless it names another. ``time`` of what is returned is
        this process's; the stream's own is in `Bus.read_run`. If the caller is cancelled the events are still
        published, and the chain goes on after them.

        Raises:
            PublishRefused: nothing was stored.
            PartlyPublished: more than one batch, and one was refused.
            PublishOutcomeUnknown: the next call stores them first, or finds out.
        """
        trace, headers = current_ids(), current_headers()
        return await self._serialised(lambda: self._emit([self._fill(draft, trace) for draft in drafts], headers))

    async def emit_change(self, draft: SwarmEvent, *, expected_last: int) -> StoredEvent:
        """Publish a state change if the last change of its workspace is ``expected_last`` (0: there is none).

        Raises:
            StateConflict: somebody else changed the workspace first; the event's number is used again.
            Otherwise as `emit`.
        """
        trace, headers = current_ids(), current_headers()
        stored = await self._serialised(lambda: self._emit([self._fill(draft, trace)], headers, expected_last))
        return stored[0]

    async def quiet(self) -> None:
        """Return when nothing is being published, and it is known of all that was whether it is stored.

        Raises:
            PublishOutcomeUnknown: the bus does not say.
        """
        async with self._lock:
            if self._uncertain:
                await self._resolve()

    async def _serialised(self, work: Callable[[], Coroutine[None, None, list[StoredEvent]]]) -> list[StoredEvent]:
        await self._lock.acquire()
        task = asyncio.create_task(work())
        self._task = task  # the loop keeps only weak references
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[list[StoredEvent]]) -> None:
        self._lock.release()
        if not task.cancelled():
            task.exception()  # a cancelled caller does not ask for it

    async def _emit(
        self, events: list[SwarmEvent], headers: dict[str, str], expected_last: int | None = None
    ) -> list[StoredEvent]:
        for earlier, event in pairwise(events):
            event.parent_event_id = event.parent_event_id or earlier.event_id
        for event in events:
            await deflate(event, self._bus.blobs)
        if self._uncertain:
            await self._resolve()
        stamped = self._stamp(events, headers, expected_last)
        stored: list[StoredEvent] = []
        for part in split([entry.message for entry in stamped]):
            stored += await self._commit(stamped[len(stored) : len(stored) + len(part)], len(stored), len(stamped))
        return stored

    def _fill(self, draft: SwarmEvent, trace: tuple[str, str] | None) -> SwarmEvent:
        event = SwarmEvent()
        event.CopyFrom(draft)
        event.event_id = self._ids()
        event.timestamp.FromDatetime(self._clock())
        if trace is not None:
            event.trace_id, event.span_id = trace
        event.agent_role = ROLE_NUMBERS[self._role]  # type: ignore[assignment]  # open enum
        event.agent_id = self.agent_id
        event.agent_name = self._agent_name
        event.run_id = self._run_id
        return event

    def _stamp(
        self, events: Sequence[SwarmEvent], headers: dict[str, str], expected_last: int | None
    ) -> list[_Stamped]:
        head, stamped = self.head, []
        for event in events:
            event.predecessor_agent_id = "" if head.seq else self._predecessor
            raw, head = head.stamp(event)
            guard = "" if expected_last is None else state_filter(event.run_id, event.workspace_id)
            message = Outgoing(
                subject=event_subject(event),
                payload=raw,
                event_id=event.event_id,
                headers=headers,
                expected_last=expected_last,
                expected_subject=guard,
            )
            stamped.append(_Stamped(event, message, head))
        return stamped

    async def _commit(self, part: list[_Stamped], before: int, total: int) -> list[StoredEvent]:
        started = self._elapsed()
        try:
            acks = await self._bus.publisher.publish_many([entry.message for entry in part])
        except PublishRefused as error:
            if before:
                raise PartlyPublished(before, total) from error
            raise
        except (BusError, asyncio.CancelledError):
            # Part of it, or all of it, may be stored.
            self._uncertain, self._uncertain_since = part, started
            raise
        self.head, self._last_seq = part[-1].head, acks[-1].seq
        return [self._stored(entry, ack) for entry, ack in zip(part, acks, strict=True)]

    def _stored(self, entry: _Stamped, ack: Ack) -> StoredEvent:
        return StoredEvent(
            seq=ack.seq,
            time=self._clock(),
            subject=entry.message.subject,
            raw=entry.message.payload,
            event=entry.event,
        )

    async def _resolve(self) -> None:
        """Find out what became of the uncertain events; the chain goes on after the last of them that is stored."""
        age = self._elapsed() - self._uncertain_since
        if age < _RESEND_FOR:
            try:
                acks = await self._bus.publisher.publish_many(
                    [entry.message for entry in self._uncertain], retry_for=_RESEND_FOR - age
                )
            except StateConflict:
                # Had it been stored, the publisher would have found it behind the condition.
                self._uncertain = []
                return
            except (PublishRefused, PartlyPublished):
                # Refused now; what was sent before may be stored all the same.
                await self._look_up()
                return
            self.head, self._last_seq, self._uncertain = self._uncertain[-1].head, acks[-1].seq, []
            return
        await self._look_up()

    async def _look_up(self) -> None:
        """Read from the stream which of the uncertain events are there."""
        await self._pass_through(self._uncertain[0].message.subject)
        hashes = {entry.head.event_hash: entry for entry in self._uncertain}
        for stored in await self._bus.read_run(self._run_id, after=self._last_seq):
            entry = hashes.get(sha256_hex(stored.raw))
            if entry is not None:
                self.head, self._last_seq = entry.head, stored.seq
        self._uncertain = []

    async def _pass_through(self, subject: str) -> None:
        """Return when the stream has dealt with everything sent before.

        Reads overtake publishes inside the server. A message whose condition cannot hold is refused in its turn.
        """
        try:
            await self._bus.publisher.publish(
                Outgoing(subject=subject, payload=b"", event_id=self._ids(), expected_last=_NEVER)
            )
        except StateConflict:
            return
