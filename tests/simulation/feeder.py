"""A producer with a spool: what the bus does not take in time goes to its disk, and from there to the stream."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from enchanted.bus.batch import Outgoing
from enchanted.bus.errors import BusError, PublishRefused
from enchanted.bus.publisher import Publisher
from enchanted.bus.spool import Spool
from enchanted.schemas import events
from tests.simulation.ledger import mark
from tests.simulation.loop import Process
from tests.simulation.world import World

_SUBJECT = "swarm.events.operator.system_signal"


class Feeder:
    """Work left to do, over all incarnations of the process."""

    def __init__(self, world: World, *, pace: float, steps: int) -> None:
        self._world = world
        self._chance = world.random("feed")
        self._pace = pace
        self._left = steps

    async def main(self, process: Process) -> None:
        """One process; its spool outlives it."""
        world = self._world
        async with AsyncExitStack() as stack:
            spool = Spool(world.folder() / "spool")
            process.on_death.append(spool.close)
            await stack.enter_async_context(spool)
            bus = world.bus("feeder")
            await stack.enter_async_context(bus)
            publisher = world.parts.publisher(
                bus.link,
                spool=spool,
                spool_after=self._chance.choice([0.3, 2.0]),
                clock=world.loop.time,
                chance=world.random(f"feeder {world.loop.time()}"),
            )
            stack.push_async_callback(publisher.close)
            while self._left > 0:
                self._left -= 1
                await asyncio.sleep(2 * self._pace * self._chance.random())
                await self._publish(publisher)
            await publisher.drain()

    async def _publish(self, publisher: Publisher) -> None:
        ledger, note = self._world.ledger, self._world.note
        attempt = ledger.begin("feed", [ledger.key() for _ in range(self._chance.choice([1, 1, 3]))])
        messages = [self._message(key) for key in attempt.keys]
        note("feed", attempt.keys)
        try:
            acks = await publisher.publish_many(messages)
        except PublishRefused:
            attempt.outcome = "failed"
        except BusError as error:
            note("unknown", attempt.keys, type(error).__name__)
        else:
            attempt.outcome = "ok"
            attempt.stored = [(ack.seq, one.payload) for ack, one in zip(acks, messages, strict=True)]
        note(attempt.outcome, attempt.keys, [seq for seq, _ in attempt.stored])

    def _message(self, key: int) -> Outgoing:
        event = events.system_signal(status="HEALTHY", detail=mark(key))
        event.event_id = self._world.event_id()
        return Outgoing(subject=_SUBJECT, payload=event.SerializeToString(), event_id=event.event_id)
