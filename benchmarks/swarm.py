"""A swarm's run as it looks: several agents that decide, ask models, use tools and change files, each with its chain.

``python -m enchanted.benchmarks.swarm offer NATS RUN COUNT RATE``, as `players`: such a run while it happens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from enchanted.benchmarks.players import Role, offered, play
from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.subjects import event_subject
from enchanted.schemas import events
from enchanted.schemas.chain import Head
from enchanted.schemas.events import ROLE_NUMBERS, AgentHead, FileChange, SwarmEvent

FILES = 200
AGENTS: tuple[tuple[events.Role, str], ...] = (
    ("operator", "orchestrator"),
    ("architect", "architect"),
    ("coder", "coder-1"),
    ("coder", "coder-2"),
    ("coder", "coder-3"),
    ("coder", "coder-4"),
    ("reviewer", "reviewer"),
)
_WORDS = ("agent", "plan", "tests", "error", "parse", "retry", "stream", "table", "queue", "merge", "change", "path")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """When events happen, by the agents' clocks."""

    begun: datetime
    mean: float
    """Seconds between two events."""
    waits: float = 0.0
    """Share of the events that come after a wait of minutes."""


def swarm_run(run: str, count: int, pace: Pace, *, closed: bool, seed: int = 1) -> list[Outgoing]:
    """``count`` events of a run in their order, from its creation on; a closed one ends with a verdict."""
    dice = random.Random(seed)
    trace, now = dice.randbytes(16).hex(), pace.begun
    heads = {name: Head() for _, name in AGENTS}
    messages = []
    for (role, name), event in _events(dice, run, count, closed=closed):
        now += timedelta(seconds=dice.expovariate(1 / pace.mean) + (dice.random() < pace.waits) * dice.randrange(600))
        event.timestamp.FromDatetime(now)
        event.event_id, event.trace_id, event.span_id = new_id(), trace, dice.randbytes(8).hex()
        event.run_id, event.agent_id, event.agent_name = run, f"{name}-{trace[:8]}", name
        event.agent_role = ROLE_NUMBERS[role]  # type: ignore[assignment]  # open enum
        if event.run_transition.to_state == "merged":
            event.run_transition.heads.extend(
                AgentHead(agent_id=f"{one}-{trace[:8]}", agent_seq=head.seq, event_hash=head.event_hash)
                for one, head in heads.items()
                if head.seq
            )
        raw, heads[name] = heads[name].stamp(event)
        messages.append(Outgoing(subject=event_subject(event), payload=raw, event_id=event.event_id))
    return messages


def _events(
    dice: random.Random, run: str, count: int, *, closed: bool
) -> Iterator[tuple[tuple[events.Role, str], SwarmEvent]]:
    task = {"task": f"make the checks pass in {run}"}
    created = events.run_transition(subject="run", from_state="", to_state="created", reason="asked", details=task)
    yield AGENTS[0], created
    yield AGENTS[0], _base()
    tree = 0
    for _ in range(count - 2 - closed):
        agent = dice.choice(AGENTS)
        if dice.random() < 0.12:
            yield agent, _change(dice, tree)
            tree += 1
        else:
            make = dice.choices(list(_SHARES), list(_SHARES.values()))[0]
            yield agent, make(dice)
    if closed:
        yield AGENTS[0], events.run_transition(subject="run", from_state="checking", to_state="merged", reason="done")


def _base() -> SwarmEvent:
    files = [
        FileChange(path=_path(number), new_mode="100644", new_blob=_hash(number), size=900) for number in range(FILES)
    ]
    return events.state_change(
        workspace_id="main", previous_tree=_hash("empty"), new_tree=_hash("tree 0"), patch="", files=files,
        reason="base", resource="/nowhere", reversible=False,
    )  # fmt: skip


def _change(dice: random.Random, tree: int) -> SwarmEvent:
    path, old, new = _path(dice.randrange(FILES)), dice.randrange(10**6), dice.randrange(10**6)
    lines = "".join(f" {_text(dice, 50)}\n" for _ in range(3))
    patch = (
        f"diff --git a/{path} b/{path}\nindex {_hash(old)}..{_hash(new)} 100644\n--- a/{path}\n+++ b/{path}\n"
        f"@@ -1,4 +1,4 @@\n-value = {old}\n+value = {new}\n{lines}"
    )
    changed = FileChange(path=path, old_mode="100644", new_mode="100644", new_blob=_hash(new), size=900)
    return events.state_change(
        workspace_id="main", previous_tree=_hash(f"tree {tree}"), new_tree=_hash(f"tree {tree + 1}"), patch=patch,
        files=[changed], reason="edit", resource=path, task_id=_task(dice),
    )  # fmt: skip


def _decision(dice: random.Random) -> SwarmEvent:
    return events.decision(
        context_hash=_hash(dice.random()), trigger=_text(dice, 40), rationale=_text(dice, _size(dice)),
        action={"choice": _text(dice, 30)}, rejected=[_text(dice, 50), _text(dice, 60)], confidence=dice.random(),
        task_id=_task(dice),
    )  # fmt: skip


def _model_call(dice: random.Random) -> SwarmEvent:
    messages = [{"role": "user", "content": _text(dice, _size(dice))}]
    return events.model_call(
        model="bench-135m", messages=messages, parameters={}, completion=_text(dice, _size(dice)), finish_reason="stop",
        input_tokens=dice.randrange(4_000), output_tokens=dice.randrange(600), duration_ms=dice.expovariate(1 / 900),
        task_id=_task(dice),
    )  # fmt: skip


def _tool_call(dice: random.Random) -> SwarmEvent:
    outcome: events.ToolOutcome = "OK" if dice.random() < 0.9 else "FAILED"
    return events.tool_call(
        tool=dice.choice(("read", "edit", "run", "search")), arguments={"path": _path(dice.randrange(FILES))},
        outcome=outcome, output=_text(dice, _size(dice)), duration_ms=dice.expovariate(1 / 50), task_id=_task(dice),
    )  # fmt: skip


def _step(dice: random.Random) -> SwarmEvent:
    return events.run_transition(
        subject="task", from_state="assigned", to_state=dice.choice(("coding", "reviewing", "approved")),
        reason=_text(dice, 40), task_id=_task(dice),
    )  # fmt: skip


def _signal(dice: random.Random) -> SwarmEvent:
    return events.system_signal(status="HEALTHY", cpu_load_percent=dice.randrange(100), memory_usage_mb=300)


_SHARES: dict[Callable[[random.Random], SwarmEvent], int] = {
    _decision: 34, _model_call: 26, _tool_call: 30, _step: 6, _signal: 4,
}  # fmt: skip


def _size(dice: random.Random) -> int:
    """Characters of a text: 350 in the middle, now and then thousands."""
    return min(7_400, int(dice.lognormvariate(5.85, 0.8)))


def _text(dice: random.Random, size: int) -> str:
    return " ".join(dice.choices(_WORDS, k=size // 5 + 1))[:size]


def _task(dice: random.Random) -> str:
    return f"t-{dice.randrange(20)}"


def _path(number: int) -> str:
    return f"src/part_{number % 10}/module_{number:03}.py"


def _hash(of: object) -> str:
    return sha256(str(of).encode()).hexdigest()


async def offer(nats_url: str, run: str, count: str, rate: str) -> list[tuple[int, float, float]]:
    """An open run of events that happen now, in an open loop: sequence, acknowledged at, handed over at."""
    pace = Pace(begun=datetime.now(UTC), mean=1 / float(rate))
    return await offered(nats_url, swarm_run(run, int(count), pace, closed=False), float(rate))


ROLES: dict[str, Role] = {"offer": offer}


if __name__ == "__main__":
    play(ROLES)
