"""Producers for chaos tests, what each was told about its events, and whether the table says the same.

Every event has one of three outcomes. ``ok``: it must be in the table, once. ``failed``: the bus refused it, so it must
not. ``unknown``: it may be there, once. What is compared are sets of ids with the hash of the published bytes.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusError, BusUnavailable, PublishRefused
from enchanted.schemas.events import SwarmEvent

RUNS, AGENTS = 40, 300
_WORDS = ("agent", "plan", "tests", "error", "parse", "retry", "stream", "table", "queue", "merge", "change", "path")

Pair = tuple[str, bytes]
"""An event id with the SHA-256 of the published bytes."""


@dataclass(kw_only=True)
class Mix:
    """What producers send, in shares of one."""

    foreign: float = 0.05
    """With a random id, which no worker can tell the age of."""
    copies: float = 0.0
    """Besides: events once more under another message id, every tenth with other bytes."""
    poison_count: int = 0
    """Besides: how many messages of each producer are no event, spread over all."""


@dataclass
class Ledger:
    """What was published, with its outcome."""

    ok: dict[str, bytes] = field(default_factory=dict)
    failed: dict[str, bytes] = field(default_factory=dict)
    unknown: dict[str, bytes] = field(default_factory=dict)
    poison: list[bytes] = field(default_factory=list)
    """Acknowledged; in no particular order."""
    copies: int = 0

    def note(self, outcome: dict[str, bytes], events: Iterable[Pair]) -> None:
        """Enter events under one outcome."""
        outcome.update(events)

    def compare(self, visible: Sequence[Pair]) -> Differences:
        """The table's visible rows against this."""
        there = dict(visible)
        known = {**self.ok, **self.failed, **self.unknown}
        return Differences(
            lost=sorted(self.ok.keys() - there.keys()),
            twice=len(visible) - len(there),
            altered=sorted(one for one, digest in there.items() if one in known and known[one] != digest),
            refused=sorted(self.failed.keys() & there.keys()),
            foreign=sorted(there.keys() - known.keys()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """What is wrong with a table; nothing is, when it equals ``NONE``."""

    lost: list[str] = field(default_factory=list)
    twice: int = 0
    altered: list[str] = field(default_factory=list)
    """The bytes are not those that were published first."""
    refused: list[str] = field(default_factory=list)
    """There, although the bus refused them."""
    foreign: list[str] = field(default_factory=list)
    """There, and never published."""

    def __str__(self) -> str:
        parts = {"lost": self.lost, "altered": self.altered, "refused": self.refused, "foreign": self.foreign}
        listed = ", ".join(f"{len(ids)} {name} {ids[:3]}" for name, ids in parts.items())
        return f"{listed}, {self.twice} twice"


NONE = Differences()


class Producer:
    """Makes events of a few hundred bytes from a seed, and publishes them in batches."""

    def __init__(self, bus: Bus, ledger: Ledger, *, seed: int, mix: Mix, batch: int = 200) -> None:
        self._bus = bus
        self._ledger = ledger
        self._mix = mix
        self._batch = batch
        self._dice = random.Random(seed)
        self._name = seed
        self._number = 0
        self._recent: deque[tuple[str, bytes]] = deque(maxlen=500)

    async def produce(self, count: int, *, rate: float = 0.0, stop: asyncio.Event | None = None) -> None:
        """Publish ``count`` events, at most ``rate`` a second (0: as fast as they are acknowledged)."""
        begun = time.monotonic()
        for sent in range(0, count, self._batch):
            if stop is not None and stop.is_set():
                return
            if rate:
                await asyncio.sleep(max(0.0, begun + sent / rate - time.monotonic()))
            size = min(self._batch, count - sent)
            bad = self._mix.poison_count * (sent + size) // count - self._mix.poison_count * sent // count
            await self._publish(size, bad)

    async def _publish(self, count: int, bad: int) -> None:
        dice, mix = self._dice, self._mix
        events = [self._event() for _ in range(count)]
        messages = [Outgoing(subject=f"swarm.events.coder.decision.run-{dice.randrange(RUNS)}", payload=raw,
                             event_id=event_id) for event_id, raw in events]  # fmt: skip
        copies = [self._copy() for _ in range(count) if self._recent and dice.random() < mix.copies]
        poison = [self._poison() for _ in range(bad)]
        messages += copies + poison
        dice.shuffle(messages)
        pairs = [(event_id, sha256(raw).digest()) for event_id, raw in events]
        try:
            await self._store(messages)
        except PublishRefused:
            self._ledger.note(self._ledger.failed, pairs)
        except BusError:
            self._ledger.note(self._ledger.unknown, pairs)
        else:
            self._ledger.note(self._ledger.ok, pairs)
            self._ledger.poison += [message.payload for message in poison]
            self._ledger.copies += len(copies)
            self._recent.extend(events)

    async def _store(self, messages: Sequence[Outgoing]) -> None:
        await self._bus.publisher.publish_many(messages)

    def _event(self) -> tuple[str, bytes]:
        dice, self._number = self._dice, self._number + 1
        event_id = _id(dice, 4 if dice.random() < self._mix.foreign else 7)
        event = SwarmEvent(
            event_id=event_id,
            trace_id=dice.randbytes(16).hex(),
            span_id=dice.randbytes(8).hex(),
            agent_id=f"agent-{self._name}-{dice.randrange(AGENTS)}",
            run_id=f"run-{self._number % RUNS}",
            agent_seq=self._number,
            agent_name=f"coder-{self._name}",
        )
        event.decision.rationale = " ".join(dice.choices(_WORDS, k=dice.randrange(5, 80)))
        return event_id, event.SerializeToString()

    def _copy(self) -> Outgoing:
        _, raw = self._dice.choice(self._recent)
        altered = b"\xfa\x3e\x03new" if self._dice.random() < 0.1 else b""
        name = f"copy-{self._name}-{self._dice.randbytes(8).hex()}"
        return Outgoing(subject="swarm.events.coder.decision", payload=raw + altered, event_id=name)

    def _poison(self) -> Outgoing:
        dice, raw = self._dice, self._event()[1]
        number = dice.randbytes(8)
        payload = dice.choice(
            (
                b"\xff\xff\xff\xff" + number,  # no field
                raw[: -dice.randrange(1, 3)],  # cut off
                raw + b"\x40" + b"\x80" * 10 + b"\x01",  # a number too long
                b"\x0a\x0a\xff\xfe" + number,  # no UTF-8
                b"\x00\x01" + number,  # field number zero
                raw + b"\xc3\x3e\x08\x01",  # a group without its end
            )
        )
        name = f"poison-{self._name}-{number.hex()}"
        return Outgoing(subject="swarm.events.coder.decision", payload=payload, event_id=name)


class Hopeful(Producer):
    """Takes what was sent for stored: what tests must notice."""

    async def _store(self, messages: Sequence[Outgoing]) -> None:
        with suppress(BusError):
            for message in messages:
                await self._bus.link.send(message.subject, message.payload)


class Insistent(Producer):
    """Sends again, under no id, what was not answered within a second: what tests must notice."""

    async def _store(self, messages: Sequence[Outgoing]) -> None:
        await asyncio.gather(*(self._insist(message) for message in messages))

    async def _insist(self, message: Outgoing) -> None:
        while True:
            with suppress(BusUnavailable):
                answer = await self._bus.link.request(message.subject, message.payload, timeout=1.0)
                if b'"error"' not in answer.data:
                    return
            await asyncio.sleep(0.05)


def _id(dice: random.Random, version: int) -> str:
    """A UUID from the dice; of version 7 with the time of now."""
    head = (time.time_ns() // 1_000_000).to_bytes(6) if version == 7 else dice.randbytes(6)
    drawn = int.from_bytes(head + dice.randbytes(10))
    return str(uuid.UUID(int=drawn & ~(0xF << 76) & ~(0x3 << 62) | version << 76 | 0x2 << 62))


async def publish(urls: Sequence[str], ledger: Ledger, count: int, *, seed: int, mix: Mix | None = None,
                  rate: float = 0.0, batch: int = 200, stop: asyncio.Event | None = None,
                  kind: type[Producer] = Producer) -> None:  # fmt: skip
    """Publish ``count`` events from one producer for each URL; those of the same URL share a connection."""
    buses = {url: Bus.connect(url, name="producers") for url in urls}
    try:
        for bus in buses.values():
            await bus.open()
        share, mix = count // len(urls), mix or Mix()
        async with asyncio.TaskGroup() as group:
            for number, url in enumerate(urls):
                producer = kind(buses[url], ledger, seed=seed * 100 + number, mix=mix, batch=batch)
                mine = share + (count % len(urls) if number == 0 else 0)
                group.create_task(producer.produce(mine, rate=rate / len(urls), stop=stop))
    finally:
        for bus in buses.values():
            await bus.close()
