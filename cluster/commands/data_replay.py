"""Dead letters published again, and what ingest made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.errors import MessageMissing, PublishRefused
from enchanted.bus.reader import consumer_state
from enchanted.bus.streams import DEAD_LETTERS_STREAM, EVENTS_STREAM, parse_info
from enchanted.ingest.worker import DURABLE

_POLL = 0.1

Outcome = Literal["ingested", "dead again", "held already", "not ingested yet", "refused", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What became of one dead letter."""

    letter: int
    outcome: Outcome
    message: int = 0
    """Its new sequence in the events stream; the old one where the stream held it already."""
    again: int = 0
    """The dead letter it became."""
    detail: str = ""

    @property
    def ingested(self) -> bool:
        """It is a row now."""
        return self.outcome == "ingested"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """For people."""
        said = {
            "ingested": f"is message {self.message} now, and in the table",
            "dead again": f"is message {self.message} now, and a DEAD LETTER AGAIN: letter {self.again}",
            "held already": (
                f"was not published: within its duplicate window the stream holds it already, as message "
                f"{self.message}; try again in some minutes"
            ),
            "not ingested yet": f"is message {self.message} now; ingest has not come to it yet",
            "refused": f"was refused: {self.detail}",
            "missing": "does not exist; `enchanted dead-letters list` names those there are",
        }
        return f"letter {self.letter} {said[self.outcome]}"


async def replay(bus: Bus, seqs: Sequence[int], wait: float) -> list[Replayed]:
    """Publish these dead letters (all there are now, for none named) and wait ``wait`` seconds for ingest.

    Raises:
        BusUnavailable, PublishOutcomeUnknown: the bus went away; a letter replayed again soon is stored once.
    """
    letters = DeadLetters(bus)
    newest = parse_info(await bus.link.api(f"STREAM.INFO.{DEAD_LETTERS_STREAM}")).last_seq
    chosen = list(seqs) or [origin.seq async for origin in letters.origins() if origin.seq <= newest]
    outcomes = [await _publish(letters, seq) for seq in chosen]
    published = [outcome.message for outcome in outcomes if outcome.outcome == "not ingested yet"]
    if not published:
        return outcomes
    reached = await _acknowledged(bus, max(published), wait)
    again = {origin.original_seq: origin.seq async for origin in letters.origins(after=newest)}
    return [_judged(outcome, reached, again) for outcome in outcomes]


async def _publish(letters: DeadLetters, seq: int) -> Replayed:
    try:
        ack = await letters.replay(await letters.get(seq))
    except MessageMissing:
        return Replayed(letter=seq, outcome="missing")
    except PublishRefused as error:
        return Replayed(letter=seq, outcome="refused", detail=str(error))
    return Replayed(letter=seq, outcome="held already" if ack.duplicate else "not ingested yet", message=ack.seq)


async def _acknowledged(bus: Bus, seq: int, wait: float) -> int:
    """How far ingest has acknowledged when it has come to ``seq``, or when the time is over."""
    end = asyncio.get_running_loop().time() + wait
    while True:
        state = await consumer_state(bus.link, EVENTS_STREAM, DURABLE)
        reached = state.acknowledged if state else 0
        if reached >= seq or asyncio.get_running_loop().time() >= end:
            return reached
        await asyncio.sleep(_POLL)


def _judged(outcome: Replayed, reached: int, again: dict[int, int]) -> Replayed:
    if outcome.outcome != "not ingested yet":
        return outcome
    if outcome.message in again:
        return replace(outcome, outcome="dead again", again=again[outcome.message])
    return replace(outcome, outcome="ingested") if outcome.message <= reached else outcome
