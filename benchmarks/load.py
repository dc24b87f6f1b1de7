"""Generated events with realistic sizes and many agents: what every benchmark of the data plane is fed."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field

from enchanted.bus.batch import Outgoing
from enchanted.bus.subjects import event_subject
from enchanted.schemas.chain import Head
from enchanted.schemas.events import ROLE_NUMBERS, Role, SwarmEvent

AGENTS, RUNS, TASKS = 3_000, 40, 20
"""Agents by default; runs they are spread over, one after the other; tasks of a run, each with its workspace."""
_ROLES: tuple[Role, ...] = ("coder", "coder", "coder", "coder", "architect", "reviewer", "operator")
_WORDS = ("agent", "plan", "tests", "error", "parse", "retry", "stream", "table", "queue", "merge", "change", "path")


@dataclass(frozen=True, slots=True)
class Published:
    """An event as a producer has it."""

    event_id: str
    subject: str
    raw: bytes

    @property
    def outgoing(self) -> Outgoing:
        """The event as a message to publish."""
        return Outgoing(subject=self.subject, payload=self.raw, event_id=self.event_id)


@dataclass(slots=True)
class _Agent:
    """One that has been at work for a while, so that none of its events here is its first."""

    number: int
    agent_id: str
    head: Head
    last: str
    """Id of its latest event."""
    role: Role = field(init=False)

    def __post_init__(self) -> None:
        self.role = _ROLES[self.number % len(_ROLES)]


def load(count: int, seed: int = 1, *, agents: int = AGENTS, text: int | None = None) -> list[Published]:
    """Events made now, of 0.2 to 8 KiB, 920 on average: 60 % decisions, 30 % changes, 10 % signals.

    Subjects, chains, causes and workspaces are as our agents have them: only coders change files, each in the
    workspace of its task; a signal belongs to no task and has no cause. ``text`` gives every event a text of so many
    bytes instead.
    """
    dice = random.Random(seed)
    now = time.time_ns() // 1_000_000
    everyone = [_agent(dice, number, now) for number in range(agents)]
    coders = [agent for agent in everyone if agent.role == "coder"]
    return [_event(dice, everyone, coders, number, now, text) for number in range(count)]


def mean_bytes(events: list[Published]) -> float:
    """Bytes of one event on average."""
    return sum(len(one.raw) for one in events) / len(events)


def _agent(dice: random.Random, number: int, now: int) -> _Agent:
    return _Agent(number, _id(dice, now), Head(dice.randrange(1, 1_000), dice.randbytes(32).hex()), _id(dice, now))


def _id(dice: random.Random, now: int) -> str:
    # UUIDv7, as agents make them.
    drawn = uuid.UUID(bytes=now.to_bytes(6) + dice.randbytes(10)).int
    return str(uuid.UUID(int=drawn & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def _event(
    dice: random.Random, everyone: list[_Agent], coders: list[_Agent], number: int, now: int, text: int | None
) -> Published:
    kind = dice.random()
    agent = dice.choice(coders if 0.6 <= kind < 0.9 else everyone)
    event = SwarmEvent(
        event_id=_id(dice, now),
        trace_id=dice.randbytes(16).hex(),
        span_id=dice.randbytes(8).hex(),
        agent_role=ROLE_NUMBERS[agent.role],  # type: ignore[arg-type]  # open enum
        agent_id=agent.agent_id,
        run_id=f"run-{agent.number % RUNS}",
        agent_name=f"{agent.role}-{agent.number % 50}",
    )
    event.timestamp.seconds, event.timestamp.nanos = 1_790_000_000 + number // 100, dice.randrange(10**9)
    if kind < 0.9:
        event.task_id = f"task-{agent.number // RUNS % TASKS}"
        event.workspace_id, event.parent_event_id = f"{event.task_id}.1", agent.last
    _fill(dice, event, kind, text)
    raw, agent.head = agent.head.stamp(event)
    agent.last = event.event_id
    return Published(event.event_id, event_subject(event), raw)


def _fill(dice: random.Random, event: SwarmEvent, kind: float, text: int | None) -> None:
    size = min(7_400, int(dice.lognormvariate(5.85, 0.8))) if text is None else text
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
        event.system_signal.detail = "" if text is None else _text(dice, text)


def _text(dice: random.Random, size: int) -> str:
    words = " ".join(f"{dice.choice(_WORDS)}{dice.randrange(1000)}" for _ in range(size // 8 + 1))
    return words[:size]
