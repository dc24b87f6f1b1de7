"""Chains: what verify calls intact and complete."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from enchanted.schemas import events
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import Head, heads_of, verify
from enchanted.schemas.events import StoredEvent, SwarmEvent, parse_event


def record(writes: list[tuple[str, str]], *, close: bool = False) -> list[StoredEvent]:
    """A run in which each (agent, status) pair writes one signal; optionally closed by "operator"."""
    heads: dict[str, Head] = {}
    log: list[StoredEvent] = []

    def write(agent: str, draft: SwarmEvent) -> None:
        draft.agent_id, draft.run_id, draft.event_id = agent, "run", f"{agent}-{len(log)}"
        raw, heads[agent] = heads.get(agent, Head()).stamp(draft)
        log.append(StoredEvent(seq=len(log) + 1, time=datetime.now(UTC), subject="s", raw=raw, event=parse_event(raw)))

    for agent, detail in writes:
        write(agent, events.system_signal(status="HEALTHY", detail=detail))
    if close:
        write(
            "operator",
            events.run_transition(
                subject="run", from_state="checking", to_state="merged", reason="", heads=heads_of(log)
            ),
        )
    return log


WRITES = st.lists(st.tuples(st.sampled_from(["a", "b", "operator"]), st.text(max_size=5)), min_size=3, max_size=30)


@given(WRITES)
def test_an_untouched_run_is_intact_and_complete(writes: list[tuple[str, str]]) -> None:
    verdict = verify(record(writes, close=True))
    assert (verdict.intact, verdict.complete, verdict.closed) == (True, True, True)
    assert verdict.checked == len(writes) + 1


@given(WRITES, st.data())
def test_a_missing_event_is_named(writes: list[tuple[str, str]], data: st.DataObject) -> None:
    log = record(writes, close=True)
    gone = data.draw(st.integers(0, len(log) - 2))
    verdict = verify(log[:gone] + log[gone + 1 :])
    assert not verdict.complete
    event = log[gone].event
    named = [(fault.agent_id, str(event.agent_seq) in fault.why) for fault in verdict.missing]
    assert (event.agent_id, True) in named


@given(WRITES, st.data())
def test_an_edited_event_breaks_its_chain(writes: list[tuple[str, str]], data: st.DataObject) -> None:
    log = record(writes, close=True)
    at = data.draw(st.integers(0, len(log) - 2))
    forged = SwarmEvent()
    forged.CopyFrom(log[at].event)
    forged.system_signal.detail += "!"
    log[at] = replace(log[at], event=forged, raw=forged.SerializeToString(deterministic=True))
    verdict = verify(log)
    assert not verdict.intact
    assert verdict.first_bad is not None
    assert verdict.first_bad.agent_id == forged.agent_id


def test_what_an_agent_writes_after_the_close_is_no_fault() -> None:
    log = record([("a", "1")], close=True)
    late = events.system_signal(status="STOPPING")
    late.agent_id = "a"
    raw, _ = Head(1, sha256_hex(log[0].raw)).stamp(late)
    log.append(StoredEvent(seq=3, time=datetime.now(UTC), subject="s", raw=raw, event=parse_event(raw)))
    verdict = verify(log)
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, 3)


def test_a_swap_of_two_events_of_one_agent_is_not_intact() -> None:
    log = record([("a", "1"), ("a", "2"), ("a", "3")])
    assert not verify([log[1], log[0], log[2]]).intact


def test_an_inserted_copy_is_not_intact() -> None:
    log = record([("a", "1"), ("a", "2")])
    assert not verify([log[0], log[0], log[1]]).intact


def test_producers_without_chains_are_counted_but_not_judged() -> None:
    foreign = SwarmEvent(event_id="x", agent_id="go-tool", trace_id="0" * 32)
    raw = foreign.SerializeToString()
    stored = StoredEvent(seq=1, time=datetime.now(UTC), subject="s", raw=raw, event=foreign)
    verdict = verify([stored, stored])
    assert (verdict.intact, verdict.complete, verdict.checked, verdict.closed) == (True, True, 2, False)
