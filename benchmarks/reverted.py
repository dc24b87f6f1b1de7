"""Runs with decisions that were taken back, for the ledger to find among millions of events."""

from __future__ import annotations

import asyncio
import hashlib

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.schemas.events import decision, state_change

RUNS, STEPS, BACK = 20, 50, 5
"""Runs; decisions of each, every one with a change; changes that each rollback takes back."""
EVENTS = RUNS * (2 * STEPS + STEPS // (2 * BACK))


def run_name(number: int) -> str:
    """The id of one of the runs."""
    return f"run-reverted-{number}"


async def publish_reverted(nats_url: str) -> None:
    """Publish all of them; after every tenth change the last five are rolled back."""
    async with Bus.connect(nats_url) as bus:
        await asyncio.gather(*(_run(bus, run_name(number)) for number in range(RUNS)))


async def _run(bus: Bus, run: str) -> None:
    log = AgentLog(bus, run_id=run, role="coder", agent_name="coder-1")
    for step in range(STEPS):
        thought = decision(
            context_hash="", trigger="task", rationale=f"step {step}", action={}, confidence=step % 10 / 10
        )
        (why,) = await log.emit(thought)
        await _change(log, "merge", step, step + 1, why.event.event_id)
        if (step + 1) % (2 * BACK) == 0:
            await _change(log, "rollback", step + 1, step + 1 - BACK)


async def _change(log: AgentLog, reason: str, before: int, after: int, parent: str = "") -> None:
    change = state_change(
        workspace_id="main", previous_tree=_tree(before), new_tree=_tree(after), patch="", files=[],
        reason=reason, resource="src/a.py", parent=parent,  # type: ignore[arg-type]  # merge or rollback
    )  # fmt: skip
    await log.emit(change)


def _tree(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()
