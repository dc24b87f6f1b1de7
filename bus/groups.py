"""What waits to be published: groups of messages, one for each caller. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from enchanted.bus.batch import Ack, Outgoing, split
from enchanted.bus.streams import stream_of


@dataclass(slots=True, eq=False)
class Group:
    """What one caller published: contiguous, in order, one outcome."""

    messages: list[Outgoing]
    deadline: float
    done: asyncio.Future[list[Ack]]
    after: Group | None = None
    """The part before this one when a group exceeds a batch; refused with it."""

    @property
    def conditional(self) -> bool:
        return self.messages[0].expected_last is not None

    @property
    def stream(self) -> str:
        return stream_of(self.messages[0].subject)

    @property
    def size(self) -> int:
        return sum(message.size for message in self.messages)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def runs(messages: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """Batches of unconditional messages to one stream; each conditional message by itself."""
    runs: list[list[Outgoing]] = []
    plain: list[Outgoing] = []
    for message in messages:
        alone = message.expected_last is not None
        if plain and (alone or stream_of(message.subject) != stream_of(plain[0].subject)):
            runs += split(plain)
            plain = []
        if alone:
            runs.append([message])
        else:
            plain.append(message)
    return runs + list(split(plain))


def without_repeats(groups: Sequence[Group]) -> tuple[list[Outgoing], list[list[tuple[int, bool]]]]:
    """The messages with each id once, and for every group where its messages are and whether they repeat one."""
    messages: list[Outgoing] = []
    known: dict[str, int] = {}
    positions: list[list[tuple[int, bool]]] = []
    for group in groups:
        where: list[tuple[int, bool]] = []
        for message in group.messages:
            repeat = message.event_id in known
            if not repeat:
                known[message.event_id] = len(messages)
                messages.append(message)
            where.append((known[message.event_id], repeat))
        positions.append(where)
    return messages, positions


def ack_at(acks: Sequence[Ack], position: tuple[int, bool]) -> Ack:
    index, repeat = position
    return Ack(seq=acks[index].seq, duplicate=True) if repeat else acks[index]
