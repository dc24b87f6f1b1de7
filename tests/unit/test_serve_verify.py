"""`verify` over a stream that was made again under a run, and over a bus whose clock is ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enchanted.bus.streams import StreamInfo
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import Head, heads_of
from enchanted.schemas.events import StoredEvent, SwarmEvent, decision, run_transition
from enchanted.serve.guard.auth import Access
from enchanted.serve.proof import verify
from enchanted.serve.proof.verify import prove
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import LAST_SEQ, EventRow, Store

RUN = "run-1"
CREATED = datetime(2026, 3, 9, tzinfo=UTC)
FORMER = CREATED - timedelta(days=9)
LAST = 50


class StreamOf(BusLink):
    """A stream that has these events, of whatever runs."""

    def __init__(self, events: Sequence[StoredEvent], *, own: str = RUN, last_seq: int = LAST) -> None:
        super().__init__("nats://127.0.0.1:9")
        self._events = events
        self._own = own
        self._last_seq = last_seq

    async def stream_info(self) -> StreamInfo:
        return StreamInfo(created=CREATED, first_seq=1, last_seq=self._last_seq, messages=len(self._events), bytes=0)

    async def read_run(self, run: str, *, until: int | None = None) -> list[StoredEvent]:
        return [stored for stored in self._events if stored.event.run_id == self._own]

    async def read_events(self, seqs: Sequence[int]) -> list[StoredEvent]:
        return [stored for stored in self._events if stored.seq in seqs]


class TableOf(Store):
    """A table that has these events of the run."""

    def __init__(self, events: Sequence[StoredEvent]) -> None:
        super().__init__("http://127.0.0.1:9/default")
        self._events = sorted(events, key=lambda stored: (stored.seq, stored.time))
        self.reads = 0

    async def run_events(self, run: str, *, after: int = 0, until: int = LAST_SEQ) -> AsyncIterator[EventRow]:
        self.reads += 1
        for stored in self._events:
            await asyncio.sleep(0)
            yield EventRow(
                seq=stored.seq, time=stored.time, subject=stored.subject, event_id=stored.event.event_id,
                sha256=sha256_hex(stored.raw), raw=stored.raw,
            )  # fmt: skip


class Writer:
    """One agent of a run."""

    def __init__(self, agent: str, *, run: str = RUN) -> None:
        self.agent, self.run, self.head = agent, run, Head()

    def write(self, draft: SwarmEvent, seq: int, time: datetime, *, parent: str = "") -> StoredEvent:
        draft.agent_id, draft.run_id, draft.parent_event_id = self.agent, self.run, parent
        draft.event_id = f"{self.agent}/{self.head.seq + 1}"
        raw, self.head = self.head.stamp(draft)
        subject = f"swarm.events.coder.decision.{self.run}"
        return StoredEvent(seq=seq, time=time, subject=subject, raw=raw, event=draft)


def thought(text: str) -> SwarmEvent:
    return decision(context_hash="", trigger="", rationale=text, action={})


def closed(seqs: Sequence[int]) -> list[StoredEvent]:
    """A run that a former stream took in at these sequences, and that is over."""
    writer = Writer("lead")
    log = [writer.write(thought(f"at {seq}"), seq, FORMER + timedelta(seconds=seq)) for seq in seqs[:-1]]
    end = run_transition(subject="run", from_state="", to_state="merged", reason="", heads=heads_of(log))
    return [*log, writer.write(end, seqs[-1], FORMER + timedelta(seconds=seqs[-1]))]


def others() -> list[StoredEvent]:
    """What another run wrote at every sequence of the stream of now."""
    writer = Writer("other", run="run-2")
    return [writer.write(thought("mine"), seq, CREATED + timedelta(seconds=seq)) for seq in range(1, LAST + 1)]


def undone(seq: int, of: StoredEvent) -> StoredEvent:
    """What an operator writes about a former run into the stream of now."""
    time = CREATED + timedelta(seconds=seq)
    return Writer("operator").write(thought("undo"), seq, time, parent=of.event.event_id)


async def proved(tmp_path: Path, stream: BusLink, table: TableOf) -> dict[str, Any]:
    deps = Dependencies(store=table, bus=stream, access=Access(token="secret"), cache=tmp_path)
    async with asyncio.timeout(20):
        return await prove(deps, RUN)


def with_others(*own: StoredEvent) -> list[StoredEvent]:
    taken = {stored.seq for stored in own}
    return sorted([*own, *(one for one in others() if one.seq not in taken)], key=lambda stored: stored.seq)


@pytest.mark.parametrize("at", [2, 5, 7, 40], ids=["first", "where it had another", "in between", "last"])
@pytest.mark.parametrize("end", [10, 30, 90])
async def test_a_run_of_a_former_stream_is_intact_though_something_about_it_is_in_the_one_of_now(
    tmp_path: Path, at: int, end: int
) -> None:
    former = closed([3, 5, 9, end])
    undo = undone(at, former[1])
    verdict = await proved(tmp_path, StreamOf(with_others(undo)), TableOf([*former, undo]))
    assert (verdict["intact"], verdict["complete"], verdict["first_bad"]) == (True, True, None)
    assert (verdict["checked"], verdict["closed"], verdict["last_seq"]) == (5, True, max(end, at))
    assert verdict["stream"] == {
        "checked": True, "why": "", "events": 1, "only_in_stream": [], "only_in_table": [], "differing": [],
    }  # fmt: skip


async def test_what_the_table_lacks_or_has_otherwise_of_the_stream_of_now_is_told_of_a_former_run_too(
    tmp_path: Path,
) -> None:
    former = closed([3, 5, 9, 30])
    undo = undone(2, former[1])
    stream = StreamOf(with_others(undo))
    lost = await proved(tmp_path, stream, TableOf(former))
    assert (lost["complete"], lost["stream"]["only_in_stream"]) == (False, [2])
    altered = replace(undo, raw=undo.raw.replace(b"undo", b"undu"))
    found = await proved(tmp_path, stream, TableOf([*former, altered]))
    assert (found["intact"], found["stream"]["differing"], found["first_bad"]["seq"]) == (False, [2], 2)


async def test_a_fault_behind_a_former_stream_is_named_by_its_sequence_in_the_one_of_now(tmp_path: Path) -> None:
    former = closed([3, 5, 9, 30])
    operator = Writer("operator")
    late = [operator.write(thought(f"late {seq}"), seq, CREATED + timedelta(seconds=seq)) for seq in (2, 4, 6)]
    forged = [late[0], replace(late[1], raw=late[1].raw.replace(b"late 4", b"late X")), late[2]]
    verdict = await proved(tmp_path, StreamOf(with_others(*forged)), TableOf([*former, *forged]))
    assert (verdict["intact"], verdict["stream"]["differing"], verdict["first_bad"]["seq"]) == (False, [], 4)
    assert verdict["first_bad"]["agent_id"] == "operator"


async def test_a_row_that_was_put_into_a_run_of_this_stream_and_dated_back_is_told(tmp_path: Path) -> None:
    writer = Writer("lead")
    begun = run_transition(subject="run", from_state="", to_state="created", reason="")
    log = [writer.write(begun, 2, CREATED + timedelta(seconds=2))]
    log += [writer.write(thought(f"at {seq}"), seq, CREATED + timedelta(seconds=seq)) for seq in (4, 6)]
    event = thought("I was never here")
    event.event_id, event.run_id, event.agent_id = "forged", RUN, "tool"
    forged = StoredEvent(seq=5, time=FORMER, subject="s", raw=event.SerializeToString(), event=event)
    verdict = await proved(tmp_path, StreamOf(with_others(*log)), TableOf([*log, forged]))
    assert (verdict["intact"], verdict["stream"]["differing"]) == (False, [5])


async def test_rows_that_the_stream_took_in_while_its_clock_was_set_back_are_held_against_it(tmp_path: Path) -> None:
    writer = Writer("lead")
    times = {2: CREATED, 4: FORMER, 6: CREATED}
    log = [writer.write(thought(f"at {seq}"), seq, times[seq]) for seq in times]
    verdict = await proved(tmp_path, StreamOf(with_others(*log)), TableOf(log))
    assert (verdict["intact"], verdict["complete"], verdict["stream"]["events"]) == (True, True, 3)


async def test_verify_answers_while_the_clock_of_the_bus_is_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "FLUSH_GRACE", timedelta(seconds=0.6))
    writer = Writer("lead")
    ahead = datetime.now(UTC) + timedelta(hours=1)
    log = [writer.write(thought(f"at {seq}"), seq, ahead) for seq in (2, 4, 6)]
    table = TableOf(log[:2])
    verdict = await proved(tmp_path, StreamOf(log), table)
    assert (verdict["complete"], verdict["stream"]["only_in_stream"]) == (False, [6])
    assert 2 <= table.reads <= 4
