"""Processes that publish in closed loops: each is a case of `publish`, or a part of one.

``python -m enchanted.benchmarks.publishers WAY NATS CONNECTIONS PUBLISHERS EACH SIZE SEED``, as `players`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import nats
from nats.aio.client import Client

from enchanted.benchmarks.load import load
from enchanted.benchmarks.players import Role, begin, play
from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusError

PATIENCE = 60.0
"""Seconds nats-py waits for an acknowledgement."""
WARM_UP = 50
"""Events a process publishes before the clock starts, and at least one unit on each connection."""
Unit = Sequence[Outgoing]
"""What is published with one acknowledgement."""
Publish = Callable[[Unit], Awaitable[None]]


class BatchRefused(nats.errors.Error):
    """The stream refused a batch; the message is its answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(f"the batch was refused: {answer.decode(errors='replace')}")


@dataclass(kw_only=True, slots=True)
class Taken:
    """What the loops of a process found."""

    milliseconds: list[float] = field(default_factory=list)
    """From handing over to acknowledged, of each unit that was."""
    errors: list[str] = field(default_factory=list)
    """Of each unit that was not."""


async def loop(publish: Publish, units: Sequence[Unit], taken: Taken) -> None:
    """One publisher: the next unit when the last is acknowledged or has failed."""
    for unit in units:
        handed = time.perf_counter()
        try:
            await publish(unit)
        except (nats.errors.Error, BusError) as error:
            taken.errors.append(f"{type(error).__name__}: {error}")
        else:
            taken.milliseconds.append((time.perf_counter() - handed) * 1000)


async def single(stack: AsyncExitStack, url: str) -> Publish:
    """The bare loop: nats-py, each event by itself."""
    client = await nats.connect(url)
    stack.push_async_callback(client.close)
    stream = client.jetstream()

    async def publish(unit: Unit) -> None:
        (one,) = unit
        await stream.publish(one.subject, one.payload, headers={"Nats-Msg-Id": one.event_id}, timeout=PATIENCE)

    return publish


async def hand(stack: AsyncExitStack, url: str) -> Publish:
    """The bare loop of batches: nats-py, each unit as one atomic batch."""
    client = await nats.connect(url)
    stack.push_async_callback(client.close)
    return partial(_batch, client)


async def _batch(client: Client, unit: Unit) -> None:
    batch = new_id()
    for number, one in enumerate(unit, 1):
        headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number), "Nats-Msg-Id": one.event_id}
        if number < len(unit):
            await client.publish(one.subject, one.payload, headers=headers)
    headers["Nats-Batch-Commit"] = "1"
    answer = await client.request(one.subject, one.payload, timeout=PATIENCE, headers=headers)
    if b'"error"' in answer.data:
        raise BatchRefused(answer.data)


async def group(stack: AsyncExitStack, url: str) -> Publish:
    """Ours: whoever publishes on the connection while a batch commits travels in the next one."""
    bus = await stack.enter_async_context(Bus.connect(url))

    async def publish(unit: Unit) -> None:
        (one,) = unit
        await bus.publisher.publish(one)

    return publish


WAYS = {"single": single, "hand": hand, "group": group}


async def part(way: str, url: str, *numbers: str) -> dict[str, Any]:
    """Its start and end (on the clock all processes share), CPU seconds and what its loops found.

    Events are made, connections opened and used before the clock starts. ``numbers``: connections, publishers on each,
    units of each publisher, events in a unit, and the seed of the events.
    """
    connections, publishers, each, size, seed = map(int, numbers)
    warm = max(1, WARM_UP // (connections * size))
    messages = [one.outgoing for one in load(connections * (warm + publishers * each) * size, seed)]
    units = [messages[start : start + size] for start in range(0, len(messages), size)]
    taken = Taken()
    async with AsyncExitStack() as stack:
        ways = [await WAYS[way](stack, url) for _ in range(connections)]
        for publish in ways * warm:
            await publish(units.pop())
        shares = [(publish, units[n * each :][:each]) for n, publish in enumerate(ways * publishers)]
        begin()
        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(loop(publish, share, taken) for publish, share in shares))
        end, cpu = time.perf_counter(), time.process_time() - cpu
    return {"start": start, "end": end, "cpu": cpu, **asdict(taken)}


ROLES: dict[str, Role] = {way: partial(part, way) for way in WAYS}


if __name__ == "__main__":
    play(ROLES)
