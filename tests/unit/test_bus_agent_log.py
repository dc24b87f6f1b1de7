"""An agent's log: numbers, hashes, ids, what happens to them when a publish fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import TracerProvider

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.errors import PayloadTooLarge, PublishOutcomeUnknown, StateConflict, StreamFull
from enchanted.bus.memory import InMemoryBus, InMemoryPublisher
from enchanted.bus.subjects import state_filter
from enchanted.schemas import events
from enchanted.schemas.chain import verify
from enchanted.schemas.events import SwarmEvent


class UnreliablePublisher(InMemoryPublisher):
    """Fails the next publishes as told: refuses, or loses the acknowledgement before or after storing."""

    def __init__(self, inner: InMemoryPublisher) -> None:
        self._inner = inner
        self.plan: list[str] = []
        self.held: asyncio.Event | None = None
        self.entered = asyncio.Event()

    async def publish_many(self, messages: Sequence[Outgoing], *, retry_for: float | None = None) -> list[Ack]:
        self.entered.set()
        if self.held is not None:
            await self.held.wait()
        step = self.plan.pop(0) if self.plan else "store"
        if step == "full":
            raise StreamFull(messages[0].subject, "test")
        acks = [] if step == "lost" else await self._inner.publish_many(messages)
        if step in ("lost", "ack lost"):
            raise PublishOutcomeUnknown(len(messages), 75.0, "test")
        return acks


class UnreliableBus(InMemoryBus):
    def __init__(self) -> None:
        super().__init__()
        self.faulty = self.publisher = UnreliablePublisher(self.publisher)


def signal(detail: str = "") -> SwarmEvent:
    return events.system_signal(status="HEALTHY", detail=detail)


def change(workspace: str = "main") -> SwarmEvent:
    return events.state_change(
        workspace_id=workspace, previous_tree="a", new_tree="b", patch="", files=[], reason="edit", resource="f"
    )


def agent(bus: InMemoryBus, name: str = "coder-1") -> AgentLog:
    return AgentLog(bus, run_id="run", role="coder", agent_name=name)


async def test_events_are_numbered_linked_and_filled() -> None:
    bus = InMemoryBus()
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    log = AgentLog(bus, run_id="run", role="coder", agent_name="coder-1", predecessor="old", clock=lambda: now)
    first, second = await log.emit(signal(), signal())
    (third,) = await log.emit(signal())
    assert [e.event.agent_seq for e in (first, second, third)] == [1, 2, 3]
    assert [e.event.predecessor_agent_id for e in (first, second, third)] == ["old", "", ""]
    assert second.event.parent_event_id == first.event.event_id
    assert third.event.parent_event_id == ""
    assert third.event.agent_id == log.agent_id
    assert events.timestamp_of(third.event) == now
    assert first.subject == "swarm.events.coder.system_signal.run"
    stored = await bus.read_run("run")
    assert [e.raw for e in stored] == [first.raw, second.raw, third.raw]
    assert verify(stored).intact
    assert verify(stored).complete


async def test_the_draft_is_left_as_it_was() -> None:
    draft = signal()
    await agent(InMemoryBus()).emit(draft)
    assert draft == signal()


async def test_an_explicit_parent_is_kept() -> None:
    child = signal()
    child.parent_event_id = "cause"
    _, stored = await agent(InMemoryBus()).emit(signal(), child)
    assert stored.event.parent_event_id == "cause"


async def test_events_carry_the_ids_of_the_live_span() -> None:
    bus = InMemoryBus()
    with TracerProvider().get_tracer("test").start_as_current_span("step") as span:
        (stored,) = await agent(bus).emit(signal())
    context = span.get_span_context()
    assert stored.event.trace_id == f"{context.trace_id:032x}"
    assert stored.event.span_id == f"{context.span_id:016x}"


async def test_concurrent_emits_make_one_chain() -> None:
    bus = InMemoryBus()
    log = agent(bus)
    await asyncio.gather(*(log.emit(signal(), signal()) for _ in range(20)))
    verdict = verify(await bus.read_run("run"))
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 40)


async def test_a_refused_event_gives_its_number_back() -> None:
    bus = UnreliableBus()
    log = agent(bus)
    await log.emit(signal())
    bus.faulty.plan = ["full"]
    with pytest.raises(StreamFull):
        await log.emit(signal(), signal())
    (stored,) = await log.emit(signal())
    assert stored.event.agent_seq == 2
    assert verify(await bus.read_run("run")).complete


@pytest.mark.parametrize("fault", ["lost", "ack lost"])
async def test_events_of_unknown_outcome_are_sent_again_before_anything_newer(fault: str) -> None:
    bus = UnreliableBus()
    log = agent(bus)
    await log.emit(signal())
    bus.faulty.plan = [fault]
    with pytest.raises(PublishOutcomeUnknown):
        await log.emit(signal(), signal())
    (stored,) = await log.emit(signal())
    assert stored.event.agent_seq == 4
    verdict = verify(await bus.read_run("run"))
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 4)


@pytest.mark.parametrize(("fault", "next_number"), [("lost", 2), ("ack lost", 4)])
async def test_refused_when_sent_again_they_may_be_stored_all_the_same(fault: str, next_number: int) -> None:
    bus = UnreliableBus()
    log = agent(bus)
    await log.emit(signal())
    bus.faulty.plan = [fault, "full"]
    with pytest.raises(PublishOutcomeUnknown):
        await log.emit(signal(), signal())
    (stored,) = await log.emit(signal())
    assert stored.event.agent_seq == next_number
    verdict = verify(await bus.read_run("run"))
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, next_number)


@pytest.mark.parametrize(("fault", "next_number"), [("lost", 2), ("ack lost", 4)])
async def test_when_their_ids_may_be_forgotten_they_are_looked_up_instead(fault: str, next_number: int) -> None:
    bus = UnreliableBus()
    now = 0.0
    log = AgentLog(bus, run_id="run", role="coder", agent_name="coder-1", elapsed=lambda: now)
    await log.emit(signal())
    bus.faulty.plan = [fault]
    with pytest.raises(PublishOutcomeUnknown):
        await log.emit(signal(), signal())
    now = 110.0
    (stored,) = await log.emit(signal())
    assert stored.event.agent_seq == next_number
    verdict = verify(await bus.read_run("run"))
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, next_number)


async def test_uncertain_events_that_are_then_refused_give_their_numbers_back() -> None:
    bus = UnreliableBus()
    log = agent(bus)
    bus.faulty.plan = ["lost", "full"]
    with pytest.raises(PublishOutcomeUnknown):
        await log.emit(signal(), signal())
    (stored,) = await log.emit(signal())
    assert stored.event.agent_seq == 1
    assert verify(await bus.read_run("run")).complete


async def test_a_cancelled_emit_leaves_a_whole_chain() -> None:
    bus = UnreliableBus()
    log = agent(bus)
    bus.faulty.held = asyncio.Event()
    emitting = asyncio.create_task(log.emit(signal()))
    await bus.faulty.entered.wait()
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    bus.faulty.held.set()
    await log.quiet()
    await log.emit(signal())
    verdict = verify(await bus.read_run("run"))
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 2)


async def test_of_two_agents_that_extend_one_workspace_one_is_told() -> None:
    bus = InMemoryBus()
    one, two = agent(bus, "coder-1"), agent(bus, "coder-2")
    base = await one.emit_change(change(), expected_last=0)
    extended = await one.emit_change(change(), expected_last=base.seq)
    await two.emit(signal())
    with pytest.raises(StateConflict, match=state_filter("run", "main").replace("*", r"\*")):
        await two.emit_change(change(), expected_last=base.seq)
    await two.emit_change(change("other"), expected_last=0)
    await two.emit_change(change(), expected_last=extended.seq)
    verdict = verify(await bus.read_run("run"))
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 5)


async def test_large_fields_move_to_the_blob_store_and_come_back() -> None:
    bus = InMemoryBus()
    draft = events.tool_call(tool="t", arguments={"a": "é" * 200_000}, outcome="OK", output="x" * 300_000)
    (stored,) = await agent(bus).emit(draft)
    assert {blob.field for blob in stored.event.blobs} == {"tool_call.arguments", "tool_call.output"}
    assert len(stored.raw) < 10_000
    whole = await bus.inflate(stored.event)
    assert whole.tool_call == draft.tool_call
    assert not whole.blobs


async def test_fields_below_the_limit_move_when_together_they_are_too_much() -> None:
    bus = InMemoryBus()
    draft = events.model_call(
        model="m", messages="a" * 250_000, parameters="b" * 250_000, completion="c" * 250_000, finish_reason="stop"
    )
    draft.model_call.error = "d" * 250_000
    (stored,) = await agent(bus).emit(draft)
    assert len(stored.event.blobs) == 1
    assert (await bus.inflate(stored.event)).model_call == draft.model_call


async def test_a_long_file_list_moves_and_comes_back() -> None:
    bus = InMemoryBus()
    draft = change()
    draft.state_change.files.extend(
        events.FileChange(path=f"folder/{number}", new_mode="100644", new_blob="0" * 64, size=number)
        for number in range(12_000)
    )
    (stored,) = await agent(bus).emit(draft)
    assert [blob.field for blob in stored.event.blobs] == ["state_change.files"]
    assert not stored.event.state_change.files
    assert (await bus.inflate(stored.event)).state_change == draft.state_change


async def test_what_cannot_be_made_small_is_refused_and_the_chain_goes_on() -> None:
    bus = InMemoryBus()
    log = agent(bus)
    draft = events.decision(context_hash="", trigger="", rationale="", action={}, rejected=["x" * 1_200_000])
    with pytest.raises(PayloadTooLarge):
        await log.emit(draft)
    (stored,) = await log.emit(signal())
    assert stored.event.agent_seq == 1


@pytest.mark.parametrize("fault", ["lost", "ack lost"])
async def test_when_it_is_quiet_what_had_an_unknown_outcome_is_stored_and_in_the_chain(fault: str) -> None:
    bus = UnreliableBus()
    log = agent(bus)
    bus.faulty.plan = [fault]
    with pytest.raises(PublishOutcomeUnknown):
        await log.emit(signal())
    await log.quiet()
    assert [stored.event.agent_seq for stored in await bus.read_run("run")] == [1]
    assert log.head.seq == 1
