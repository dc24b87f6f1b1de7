"""Generated events with realistic sizes and many agents: what every benchmark of the data plane is fed."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass

from enchanted.schemas.events import SwarmEvent

SUBJECT = "swarm.events.coder.decision.run-1"
AGENTS = 3_000
_WORDS = ("agent", "plan", "tests", "error", "parse", "retry", "stream", "table", "queue", "merge", "change", "path")


@dataclass(frozen=True, slots=True)
class Published:
    """An event as a producer has it."""

    event_id: str
    raw: bytes


def load(count: int, seed: int = 1, *, agents: int = AGENTS, text: int | None = None) -> list[Published]:
    """Events made now, of 0.2 to 8 KiB, 925 on average: 60 % decisions, 30 % changes, 10 % signals.

    ``text`` gives every event a text of so many bytes instead.
    """
    dice = random.Random(seed)
    names = [uuid.UUID(bytes=dice.randbytes(16)).hex for _ in range(agents)]
    now = time.time_ns() // 1_000_000
    return [_event(dice, dice.randrange(agents), names, number, now, text) for number in range(count)]


def mean_bytes(events: list[Published]) -> float:
    """Bytes of one event on average."""
    return sum(len(one.raw) for one in events) / len(events)


def _event(dice: random.Random, agent: int, agents: list[str], number: int, now: int, text: int | None) -> Published:
    # UUIDv7, as agents make them.
    drawn = uuid.UUID(bytes=now.to_bytes(6) + dice.randbytes(10)).int
    event = SwarmEvent(
        event_id=str(uuid.UUID(int=drawn & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)),
        trace_id=dice.randbytes(16).hex(),
        span_id=dice.randbytes(8).hex(),
        agent_id=agents[agent],
        run_id=f"run-{agent % 40}",
        agent_seq=number,
        previous_event_hash=dice.randbytes(32).hex(),
        task_id=f"task-{agent % 300}",
        agent_name=f"coder-{agent % 50}",
    )
    event.timestamp.seconds, event.timestamp.nanos = 1_790_000_000 + number // 100, dice.randrange(10**9)
    kind, size = dice.random(), min(7_400, int(dice.lognormvariate(5.85, 0.8))) if text is None else text
    if kind < 0.6:
        event.decision.context_hash = dice.randbytes(32).hex()
        event.decision.input_trigger = _text(dice, 40)
        event.decision.rationale = _text(dice, size)
        event.decision.rejected_alternatives.extend([_text(dice, 50), _text(dice, 60)])
        event.decision.confidence_score = dice.random()
    elif kind < 0.9:
        change = event.state_change
        change.target_type, change.target_resource = "FILE_SYSTEM", f"src/module{dice.randrange(200)}.py"
        change.previous_state_hash, change.new_state_hash = dice.randbytes(32).hex(), dice.randbytes(32).hex()
        change.diff_patch, change.reason, change.is_reversible = _text(dice, size), "edit", True
        change.files.add(path=change.target_resource, old_mode="100644", new_mode="100644", size=size)
    else:
        event.system_signal.status, event.system_signal.cpu_load_percent = "HEALTHY", dice.randrange(100)
        if text is not None:
            event.system_signal.detail = _text(dice, text)
    return Published(event.event_id, event.SerializeToString())


def _text(dice: random.Random, size: int) -> str:
    words = " ".join(f"{dice.choice(_WORDS)}{dice.randrange(1000)}" for _ in range(size // 8 + 1))
    return words[:size]
