"""What is published: by agents that number their events, and by a producer that knows nothing of us."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.bus.errors import BusError, PublishRefused
from enchanted.bus.link import Frame
from enchanted.schemas import events
from enchanted.schemas.events import SwarmEvent
from tests.simulation.ledger import Attempt, mark
from tests.simulation.loop import Process
from tests.simulation.parts import SimulatedBus
from tests.simulation.stream import BEGINNING
from tests.simulation.table import REFUSED, REFUSED_PLAIN, UNDECODABLE
from tests.simulation.world import World

RUN = "run"
_FOREIGN = "swarm.events.coder.decision"
_AWKWARD = b"\x0b\x0c"
"""A group of field 1: valid protobuf that ClickHouse does not read."""


class Workload:
    """Work left to do; what a killed process had begun is not begun again."""

    def __init__(self, world: World, *, pace: float, steps: int, copies: bool) -> None:
        """``copies``: events are also published a second time: under another id, or none, or long after."""
        self._world = world
        self._chance = world.random("workload")
        self._pace = pace
        self._copies = copies
        self._forgets = copies and self._chance.random() < 0.05
        self._left = {name: steps for name in ("architect", "coder", "foreign")}
        self._known: list[Outgoing] = []
        self._skew = self._chance.choice([0.0, 0.0, 0.0, 0.5, -30.0, -100.0, 30.0, 200.0])
        """Seconds the foreign producer's clock is ahead."""
        self._incarnations = 0

    async def main(self, process: Process) -> None:
        """One process with two agents and a foreign producer, on one connection."""
        world, chance = self._world, self._chance
        self._incarnations += 1
        patience = {"ack_timeout": chance.choice([1.0, 10.0]), "retry_for": chance.choice([2.0, 10.0, 75.0])}
        async with AsyncExitStack() as stack:
            bus = await self._opened(patience)
            stack.push_async_callback(bus.close)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for role in ("architect", "coder"):
                log = world.parts.agent_log(
                    bus,
                    run_id=RUN,
                    role=role,
                    agent_name=role,
                    agent_id=f"{role}-{self._incarnations}",
                    predecessor=f"{role}-{self._incarnations - 1}" if self._incarnations > 1 else "",
                    ids=world.event_id,
                    elapsed=world.loop.time,
                    clock=lambda: BEGINNING,
                )
                group.create_task(self._agent(role, log))
            group.create_task(self._foreigner(bus))

    async def _opened(self, patience: dict[str, float]) -> SimulatedBus:
        while True:
            bus = self._world.bus("producer", **patience)
            try:
                await bus.open()
            except BusError:
                await asyncio.sleep(0.5)
            else:
                return bus

    async def _agent(self, role: str, log: AgentLog) -> None:
        while self._left[role] > 0:
            self._left[role] -= 1
            await asyncio.sleep(2 * self._pace * self._chance.random())
            kind = self._chance.random()
            if kind < 0.3:
                await self._change(log)
            else:
                await self._emit(log, impatient=kind > 0.9)

    async def _emit(self, log: AgentLog, *, impatient: bool) -> None:
        keys = [self._world.ledger.key() for _ in range(self._chance.choice([1, 1, 2, 5]))]
        attempt = self._world.ledger.begin(log.agent_id, keys)
        drafts = [events.system_signal(status="HEALTHY", detail=self._detail(key)) for key in keys]

        async def emit() -> None:
            attempt.stored = [(stored.seq, stored.raw) for stored in await log.emit(*drafts)]

        try:
            async with asyncio.timeout(0.02 * self._chance.random() if impatient else None):
                await self._told(attempt, emit)
        except TimeoutError:
            self._world.note("cancelled", keys)

    async def _change(self, log: AgentLog) -> None:
        key = self._world.ledger.key()
        attempt = self._world.ledger.begin(log.agent_id, [key])
        head = self._world.server.events.last_on(f"swarm.events.*.state_change.{RUN}.main")
        behind = self._chance.random() < 0.2
        draft = events.state_change(
            workspace_id="main", previous_tree="a", new_tree="b", patch="", files=[], reason="edit", resource=mark(key)
        )

        async def emit() -> None:
            stored = await log.emit_change(draft, expected_last=head.seq if head and not behind else 0)
            attempt.stored = [(stored.seq, stored.raw)]

        await self._told(attempt, emit)

    async def _foreigner(self, bus: SimulatedBus) -> None:
        while self._left["foreign"] > 0:
            self._left["foreign"] -= 1
            await asyncio.sleep(2 * self._pace * self._chance.random())
            kind = self._chance.random()
            if kind < 0.55 or not self._known:
                await self._publish(bus, [self._message() for _ in range(self._chance.choice([1, 1, 3]))])
            elif kind < 0.7:
                await self._publish_bare(bus)
            else:
                await self._publish(bus, [self._copy(self._chance.choice(self._known))])

        if self._known and self._forgets:
            await asyncio.sleep(self._world.parts.window + 5.0)
            late = [self._chance.choice(self._known)]
            self._world.ledger.forgotten.update(_keys(late))
            await self._publish(bus, late)

    async def _publish(self, bus: SimulatedBus, messages: list[Outgoing]) -> None:
        again = messages[0] in self._known
        self._known += () if again else messages
        attempt = self._world.ledger.begin("foreign", _keys(messages), ordered=not again)

        async def publish() -> None:
            acks = await bus.publisher.publish_many(messages)
            attempt.stored = [(ack.seq, message.payload) for ack, message in zip(acks, messages, strict=True)]

        await self._told(attempt, publish)

    async def _publish_bare(self, bus: SimulatedBus) -> None:
        """Without an id, and without trying again."""
        key = self._world.ledger.key()
        attempt = self._world.ledger.begin("bare", [key], ordered=False)
        payload = (
            self._chance.choice(self._known).payload
            if self._copies and self._chance.random() < 0.5
            else self._payload(key)
        )

        async def publish() -> None:
            frame = Frame(_FOREIGN, payload, {"Sim": mark(key)})
            answer = await bus.link.exchange([frame], timeout=2.0)
            if b'"error"' not in answer.data:
                attempt.stored = [(0, payload)]

        await self._told(attempt, publish)
        if attempt.outcome == "ok" and not attempt.stored:
            attempt.outcome = "unknown"

    async def _told(self, attempt: Attempt, publish: Callable[[], Awaitable[None]]) -> None:
        world = self._world
        world.note("publish", attempt.writer, attempt.keys)
        try:
            await publish()
            attempt.outcome = "ok"
        except PublishRefused as error:
            attempt.outcome = "failed"
            world.note("refused", attempt.keys, type(error).__name__)
            return
        except BusError as error:
            world.note("unknown", attempt.keys, type(error).__name__)
            return
        world.note("ok", attempt.keys, [seq for seq, _ in attempt.stored])

    def _message(self) -> Outgoing:
        key = self._world.ledger.key()
        event_id = self._world.event_id(self._skew)
        payload = self._payload(key, event_id)
        if self._chance.random() < 0.1:
            payload = UNDECODABLE + payload
        if self._chance.random() < 0.3:
            event_id = f"other-{key}"
        return Outgoing(subject=_FOREIGN, payload=payload, event_id=event_id, headers={"Sim": mark(key)})

    def _payload(self, key: int, event_id: str | None = None) -> bytes:
        event = SwarmEvent(event_id=event_id if event_id is not None else self._world.event_id(self._skew))
        if self._chance.random() < 0.05:
            event.event_id = ""
        event.decision.rationale = self._detail(key)
        return event.SerializeToString() + (_AWKWARD if self._chance.random() < 0.1 else b"")

    def _copy(self, known: Outgoing) -> Outgoing:
        """The same event again: to the letter, under another id, or with other bytes."""
        kind = self._chance.random()
        if kind < 0.3 or not self._copies:
            return known
        key = self._world.ledger.key()
        payload = known.payload if kind < 0.7 else known.payload + b"\xf8\x07\x01"
        return Outgoing(subject=known.subject, payload=payload, event_id=f"copy-{key}", headers={"Sim": mark(key)})

    def _detail(self, key: int) -> str:
        kind = self._chance.random()
        bad = REFUSED if kind < 0.03 else REFUSED_PLAIN if kind < 0.08 else b""
        return mark(key) + bad.decode()


def _keys(messages: list[Outgoing]) -> list[int]:
    return [int(message.headers["Sim"].removeprefix("key-").rstrip(";")) for message in messages]
