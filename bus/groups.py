"""What waits to be published: groups of messages, one for each caller. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

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

    error: BaseException | None = None
    """Why it failed; kept here because ``done`` is cancelled with the caller that awaits it."""
    stream: str = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        first = self.messages[0]
        self.stream = stream_of(first.subject)
        self.size = first.size if len(self.messages) == 1 else sum(message.size for message in self.messages)

    @property
    def conditional(self) -> bool:
        return self.messages[0].expected_last is not None

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
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
