"""Every way to tamper with a run: which verdict falls, and which place is named. Untouched runs never alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enchanted.schemas import events
from enchanted.schemas.canonical import canonical_json, sha256_hex
from enchanted.schemas.chain import Head, Verdict, heads_of, verify
from enchanted.schemas.errors import BadReceipt
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of, parse_event
from enchanted.schemas.links import Fault
from enchanted.schemas.receipt import Comparison, Receipt, compare, made_of, parse_receipt

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
Log = list[StoredEvent]
RUN = "run-1"


class Recorder:
    """Writes a run as several agents do."""

    def __init__(self, run: str = RUN) -> None:
        self.run = run
        self.heads: dict[str, Head] = {}
        self.log: Log = []

    def write(self, agent: str, draft: SwarmEvent, *, cause: int = 0, chained: bool = True) -> None:
        draft.agent_id, draft.run_id, draft.event_id = agent, self.run, f"{self.run}/{len(self.log) + 1}"
        draft.parent_event_id = f"{self.run}/{cause}" if cause else ""
        if chained:
            raw, self.heads[agent] = self.heads.get(agent, Head()).stamp(draft)
        else:
            raw = draft.SerializeToString()
        self.log.append(stored(len(self.log) + 1, raw))

    def close(self) -> None:
        self.write("lead", closing(self.log))


def stored(seq: int, raw: bytes) -> StoredEvent:
    event = parse_event(raw)
    subject = f"swarm.events.coder.{kind_of(event)}" + (f".{event.run_id}" if event.agent_seq else "")
    return StoredEvent(seq=seq, time=NOON + timedelta(seconds=seq), subject=subject, raw=raw, event=event)


def closing(log: Log) -> SwarmEvent:
    heads = heads_of(log)
    return events.run_transition(subject="run", from_state="checking", to_state="merged", reason="", heads=heads)


def thought(text: str) -> SwarmEvent:
    return events.decision(context_hash="", trigger="", rationale=text, action={})


def recorded() -> Log:
    """1 lead-1, 2 plan-1, 3 code-1, 4 tool, 5 code-2, 6 lead-2, 7 code-3, 8 next-1, 9 plan-2, 10 code-4, 11 tool,
    12 next-2, 13 code-5, 14 lead-3, 15 lead-4 (close), 16 next-3 (late)."""
    run = Recorder()
    order = ["lead", "plan", "code", "tool", "code", "lead", "code", "next", "plan", "code", "tool", "next", "code"]
    for number, agent in enumerate([*order, "lead"]):
        run.write(agent, thought(f"{agent} {number}"), cause=number, chained=agent != "tool")
    run.close()
    run.write("next", events.system_signal(status="STOPPING"))
    return run.log


def edited(one: StoredEvent, **fields: object) -> StoredEvent:
    """Its bytes changed where they lie."""
    event = SwarmEvent()
    event.CopyFrom(one.event)
    for name, value in fields.items():
        setattr(event, name, value)
    return stored(one.seq, event.SerializeToString(deterministic=True))


def said(one: StoredEvent, text: str) -> StoredEvent:
    event = SwarmEvent()
    event.CopyFrom(one.event)
    event.decision.rationale = text
    return stored(one.seq, event.SerializeToString(deterministic=True))


def forged(log: Log, at: int, agent: str, number: int, previous: str, text: str = "forged") -> StoredEvent:
    event = thought(text)
    event.agent_id, event.run_id, event.event_id = agent, RUN, f"forged/{at}"
    event.agent_seq, event.previous_event_hash = number, previous
    return stored(at, event.SerializeToString(deterministic=True))


def shifted(log: Log) -> Log:
    """Numbered anew, as a stream that was rewritten would be."""
    return [replace(one, seq=seq) for seq, one in enumerate(log, start=1)]


def resigned(log: Log, agent: str, number: int, text: str = "anew") -> Log:
    """One event changed, and the chain behind it made to fit, heads of the close included."""
    head, made = Head(), list[StoredEvent]()
    heads: dict[str, Head] = {}
    for one in log:
        event = SwarmEvent()
        event.CopyFrom(one.event)
        if event.agent_id == agent and event.agent_seq == number:
            event.decision.rationale = text
        if event.run_transition.heads:
            for anchored in event.run_transition.heads:
                anchored.event_hash = heads[anchored.agent_id].event_hash
        if not event.agent_seq:
            made.append(one)
            continue
        head = heads.get(event.agent_id, Head())
        raw, heads[event.agent_id] = head.stamp(event)
        made.append(stored(one.seq, raw))
    return made


def with_close(log: Log, change: Callable[[SwarmEvent], None]) -> Log:
    event = SwarmEvent()
    event.CopyFrom(log[14].event)
    change(event)
    return [*log[:14], stored(15, event.SerializeToString(deterministic=True)), *log[15:]]


def without(log: Log, *seqs: int) -> Log:
    return [one for one in log if one.seq not in seqs]


def put(log: Log, one: StoredEvent) -> Log:
    return [one if other.seq == one.seq else other for other in log]


def swapped(log: Log, first: int, second: int) -> Log:
    other = {first: replace(log[second - 1], seq=first), second: replace(log[first - 1], seq=second)}
    return [other.get(one.seq, one) for one in log]


def hash_of(log: Log, seq: int) -> str:
    return sha256_hex(log[seq - 1].raw)


def cleared(event: SwarmEvent) -> None:
    del event.run_transition.heads[:]


def head_of(agent: str, **fields: object) -> Callable[[SwarmEvent], None]:
    def change(event: SwarmEvent) -> None:
        for head in event.run_transition.heads:
            if head.agent_id == agent:
                for name, value in fields.items():
                    setattr(head, name, value)

    return change


def dropped_head(agent: str) -> Callable[[SwarmEvent], None]:
    def change(event: SwarmEvent) -> None:
        kept = [head for head in event.run_transition.heads if head.agent_id != agent]
        del event.run_transition.heads[:]
        event.run_transition.heads.extend(kept)

    return change


def of_other_run(log: Log, at: int) -> StoredEvent:
    other = Recorder("run-2")
    other.write("code", thought("elsewhere"))
    return replace(other.log[0], seq=at)


@dataclass(frozen=True)
class Tamper:
    name: str
    apply: Callable[[Log], Log]
    intact: bool
    complete: bool
    place: tuple[str, int, int]
    """Agent, agent_seq, sequence (0 where the event is gone)."""


ALTERED, GONE = (False, True), (True, False)

SEEN_BY_CHAINS = [
    Tamper("a word in the middle of a chain", lambda log: put(log, said(log[4], "!")), *ALTERED, ("code", 2, 5)),
    Tamper("a word in the first event", lambda log: put(log, said(log[0], "!")), *ALTERED, ("lead", 1, 1)),
    Tamper("a word in an agent's last event", lambda log: put(log, said(log[12], "!")), *ALTERED, ("code", 5, 13)),
    Tamper("a word before the close", lambda log: put(log, said(log[13], "!")), *ALTERED, ("lead", 3, 14)),
    Tamper(
        "the hash an event names",
        lambda log: put(log, edited(log[6], previous_event_hash="0" * 64)),
        *ALTERED,
        ("code", 3, 7),
    ),
    Tamper(
        "a first event that names one before it",
        lambda log: put(log, edited(log[2], previous_event_hash="0" * 64)),
        *ALTERED,
        ("code", 1, 3),
    ),
    Tamper("a time", lambda log: put(log, edited(log[4], span_id="f" * 16)), *ALTERED, ("code", 2, 5)),
    Tamper("a role", lambda log: put(log, edited(log[4], agent_role=3)), *ALTERED, ("code", 2, 5)),
    Tamper(
        "two events of two agents",
        lambda log: put(put(log, said(log[4], "!")), said(log[7], "!")),
        *ALTERED,
        ("code", 2, 5),
    ),
    Tamper(
        "an event put to another agent",
        lambda log: put(log, edited(log[4], agent_id="plan")),
        False,
        False,
        ("plan", 2, 5),
    ),
    Tamper("a number taken away", lambda log: put(log, edited(log[4], agent_seq=0)), False, False, ("code", 0, 5)),
    Tamper("an event deleted", lambda log: without(log, 5), *GONE, ("code", 2, 0)),
    Tamper("an agent's first event deleted", lambda log: without(log, 3), *GONE, ("code", 1, 0)),
    Tamper("an agent's last events deleted", lambda log: without(log, 10, 13), *GONE, ("code", 4, 0)),
    Tamper("every second event deleted", lambda log: without(log, 5, 10), *GONE, ("code", 2, 0)),
    Tamper("a whole agent deleted", lambda log: without(log, 2, 9), *GONE, ("plan", 1, 0)),
    Tamper("the event before the close deleted", lambda log: without(log, 14), *GONE, ("lead", 3, 0)),
    Tamper("a deletion, sequences closed up", lambda log: shifted(without(log, 5)), *GONE, ("code", 2, 0)),
    Tamper(
        "the end cut off behind an event, the close kept",
        lambda log: [*log[:8], log[14]],
        *GONE,
        ("code", 4, 0),
    ),
    Tamper(
        "an event repeated", lambda log: [*log[:9], replace(log[4], seq=10), *log[10:]], False, False, ("code", 2, 10)
    ),
    Tamper("an event repeated at the end", lambda log: [*log, replace(log[4], seq=17)], *ALTERED, ("code", 2, 17)),
    Tamper(
        "an event inserted with the next one's number",
        lambda log: [
            *log[:5],
            forged(log, 6, "code", 3, hash_of(log, 5)),
            *[replace(o, seq=o.seq + 1) for o in log[5:]],
        ],
        *ALTERED,
        ("code", 3, 6),
    ),
    Tamper(
        "an event inserted behind the real one",
        lambda log: [
            *log[:7],
            forged(log, 8, "code", 3, hash_of(log, 5)),
            *[replace(o, seq=o.seq + 1) for o in log[7:]],
        ],
        *ALTERED,
        ("code", 3, 8),
    ),
    Tamper(
        "an event appended to a chain before the close",
        lambda log: [
            *log[:13],
            forged(log, 14, "code", 6, hash_of(log, 13)),
            *[replace(o, seq=o.seq + 1) for o in log[13:]],
        ],
        *ALTERED,
        ("code", 6, 14),
    ),
    Tamper(
        "an agent that never was, before the close",
        lambda log: [*log[:9], forged(log, 10, "ghost", 1, ""), *[replace(o, seq=o.seq + 1) for o in log[9:]]],
        *ALTERED,
        ("ghost", 1, 10),
    ),
    Tamper("an event of another run", lambda log: [*log, of_other_run(log, 17)], *ALTERED, ("code", 1, 17)),
    Tamper(
        "an event moved to another run",
        lambda log: put(log, edited(log[4], run_id="run-2")),
        False,
        False,
        ("code", 2, 5),
    ),
    Tamper("two neighbours of one agent swapped", lambda log: swapped(log, 3, 5), *ALTERED, ("code", 2, 3)),
    Tamper(
        "an event moved to the end of its chain",
        lambda log: [*without(log, 5), replace(log[4], seq=17)],
        *ALTERED,
        ("code", 2, 17),
    ),
    Tamper("events of two agents swapped", lambda log: swapped(log, 7, 8), *ALTERED, ("next", 1, 7)),
    Tamper(
        "an anchored event moved behind the close",
        lambda log: [*without(log, 13), replace(log[12], seq=17)],
        *ALTERED,
        ("code", 5, 17),
    ),
    Tamper(
        "a hash in the heads",
        lambda log: with_close(log, head_of("code", event_hash="0" * 64)),
        *ALTERED,
        ("code", 5, 13),
    ),
    Tamper(
        "a count in the heads lowered",
        lambda log: with_close(log, head_of("code", agent_seq=4)),
        *ALTERED,
        ("code", 4, 10),
    ),
    Tamper(
        "a count in the heads raised", lambda log: with_close(log, head_of("code", agent_seq=9)), *GONE, ("code", 6, 0)
    ),
    Tamper(
        "an agent taken out of the heads", lambda log: with_close(log, dropped_head("code")), *ALTERED, ("code", 1, 3)
    ),
    Tamper("the heads emptied", lambda log: with_close(log, cleared), *ALTERED, ("lead", 4, 15)),
    Tamper(
        "a chain signed anew up to the close",
        lambda log: [*resigned(log, "code", 2)[:14], *log[14:]],
        *ALTERED,
        ("code", 5, 13),
    ),
]


def places(verdict: Verdict) -> list[tuple[str, int, int]]:
    found = [verdict.first_bad] if verdict.first_bad else []
    return [(fault.agent_id, fault.agent_seq, fault.seq) for fault in (*found, *verdict.missing)]


@pytest.mark.parametrize("tamper", SEEN_BY_CHAINS, ids=lambda tamper: tamper.name)
def test_a_tampered_run_is_told_by_its_chains(tamper: Tamper) -> None:
    log = recorded()
    assert places(verify(log, run=RUN)) == []
    verdict = verify(tamper.apply(log), run=RUN)
    assert (verdict.intact, verdict.complete) == (tamper.intact, tamper.complete), verdict
    assert tamper.place in places(verdict), verdict
    assert verdict.first_bad is None or tamper.place[2] in (0, verdict.first_bad.seq), verdict


def receipt(log: Log, until: int = 2**63, run: str = RUN) -> Receipt:
    known = [(one, sha256_hex(one.raw)) for one in sorted(log, key=lambda one: one.seq) if one.seq <= until]
    return made_of(known, run, made_at=NOON, stream_created=NOON.isoformat())


def against(log: Log, kept: Receipt) -> Comparison:
    """As a command does it: through the written form of both."""
    written = parse_receipt(orjson.dumps(kept.document()))
    return compare(written, receipt(log, until=written.last_seq))


SEEN_BY_A_RECEIPT = [
    *SEEN_BY_CHAINS,
    Tamper("the close removed", lambda log: without(log, 15, 16), *GONE, ("lead", 4, 15)),
    Tamper("the end of an open run cut off", lambda log: log[:11], *GONE, ("next", 2, 12)),
    Tamper("the whole run removed but its first event", lambda log: log[:1], *GONE, ("plan", 1, 2)),
    Tamper("everything signed anew, heads included", lambda log: resigned(log, "code", 2), *ALTERED, ("code", 2, 5)),
    Tamper("the first event signed anew", lambda log: resigned(log, "plan", 1), *ALTERED, ("plan", 1, 2)),
    Tamper("the last thought signed anew", lambda log: resigned(log, "lead", 3), *ALTERED, ("lead", 3, 14)),
    Tamper("a tool's event altered", lambda log: put(log, said(log[3], "!")), *ALTERED, ("tool", 0, 4)),
    Tamper("a tool's event deleted", lambda log: without(log, 4), *GONE, ("tool", 0, 4)),
    Tamper(
        "an agent and its head removed",
        lambda log: resigned(without(with_close(log, dropped_head("plan")), 2, 9), "", 0),
        False,
        False,
        ("plan", 1, 2),
    ),
    Tamper("what came after the close removed", lambda log: without(log, 16), *GONE, ("next", 3, 16)),
]


@pytest.mark.parametrize("tamper", SEEN_BY_A_RECEIPT, ids=lambda tamper: tamper.name)
def test_a_tampered_run_is_not_what_its_receipt_says(tamper: Tamper) -> None:
    log = recorded()
    kept = receipt(log)
    assert against(log, kept) == Comparison(intact=True, complete=True, faults=())
    found, verdict = against(tamper.apply(log), kept), verify(tamper.apply(log), run=RUN)
    assert not (found.intact and found.complete and verdict.intact and verdict.complete)
    agent, number, seq = tamper.place
    if tamper not in SEEN_BY_CHAINS:
        assert (found.intact, found.complete) == (tamper.intact, tamper.complete), found
        assert (agent, number, seq) in [(fault.agent_id, fault.agent_seq, fault.seq) for fault in found.faults]
    assert list(found.faults) == sorted(found.faults, key=lambda fault: fault.seq)


def test_what_came_after_the_receipt_is_not_held_against_the_run() -> None:
    log = recorded()
    assert against(log, receipt(log[:9])) == Comparison(intact=True, complete=True, faults=())


def test_an_alteration_that_keeps_the_first_digits_is_told_by_the_hash_over_all() -> None:
    kept = receipt(recorded())
    found = compare(kept, replace(kept, digest="0" * 64))
    assert (found.intact, [fault.seq for fault in found.faults]) == (False, [16])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cut short"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "no receipt"),
        (b'{"format": 1}', "no receipt"),
        (b'{"format": 99, "checksum": ""}', "its format is '99'"),
        (b'{"format": 1, "checksum": ""}', "altered or damaged"),
        (b'{"format": 1, "checksum": "", "events": %s}' % (b"[" * 400 + b"]" * 400), "nested deeper"),
        (b'{"format": %s, "checksum": ""}' % (b"[" * 1_020 + b"]" * 1_020), "nested deeper"),
        (orjson.dumps(receipt(recorded()).document())[:-40], "cut short"),
        (
            orjson.dumps(receipt(recorded()).document()).replace(b'"last_seq":16', b'"last_seq":15'),
            "altered or damaged",
        ),
        (orjson.dumps({"format": 1, "checksum": sha256_hex(canonical_json({"format": 1}))}), "it lacks"),
    ],
)
def test_a_file_that_is_no_whole_receipt_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(BadReceipt, match=why):
        parse_receipt(data)


def test_a_receipt_of_another_run_is_refused() -> None:
    log = recorded()
    with pytest.raises(BadReceipt, match="run-2"):
        compare(receipt(log, run="run-2"), receipt(log))


WRITES = st.lists(
    st.tuples(
        st.sampled_from(["lead", "plan", "code", "code-again", "tool", "go"]),
        st.text(max_size=5),
        st.integers(0, 2**16),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(writes=WRITES, late=WRITES, racing=WRITES, close=st.booleans())
def test_an_untouched_run_never_alarms(
    writes: list[tuple[str, str, int]],
    late: list[tuple[str, str, int]],
    racing: list[tuple[str, str, int]],
    close: bool,
) -> None:
    run = Recorder()

    def write(agent: str, text: str, cause: int) -> None:
        chained = agent not in ("tool", "go")
        run.write(agent, thought(text), cause=cause % (len(run.log) + 1), chained=chained)

    for one in writes:
        write(*one)
    if close and run.heads:
        # The heads are read, somebody writes all the same, then the close is stored.
        ending = closing(run.log)
        for agent, text, cause in racing:
            if agent != "lead":
                write(agent, text, cause)
        run.write("lead", ending)
    for one in late:
        write(*one)
    verdict = verify(run.log, run=RUN)
    assert (verdict.intact, verdict.complete, verdict.checked) == (True, True, len(run.log)), verdict
    assert verdict.closed == bool(close and any(one.event.run_transition.heads for one in run.log))
    for made in (len(run.log), len(run.log) // 2):
        assert against(run.log, receipt(run.log[:made])) == Comparison(intact=True, complete=True, faults=())


@given(WRITES, st.data())
def test_one_changed_event_is_never_missed_by_the_receipt(
    writes: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    run = Recorder()
    for agent, text, _ in [("lead", "", 0), *writes]:
        run.write(agent, thought(text), chained=agent != "tool")
    at = data.draw(st.integers(0, len(run.log) - 1))
    found = against(put(run.log, said(run.log[at], run.log[at].event.decision.rationale + "!")), receipt(run.log))
    one = run.log[at]
    assert [(f.seq, f.agent_id, f.agent_seq) for f in found.faults] == [
        (one.seq, one.event.agent_id, one.event.agent_seq)
    ]
    assert isinstance(found.faults[0], Fault)


CHAINED = st.lists(st.tuples(st.sampled_from(["lead", "plan", "code", "next"]), st.text(max_size=3)), max_size=25)


@settings(max_examples=300)
@given(writes=CHAINED, data=st.data())
def test_one_change_of_a_closed_run_is_never_missed_and_is_placed(
    writes: list[tuple[str, str]], data: st.DataObject
) -> None:
    run = Recorder()
    for agent, text in [("lead", "begin"), *writes]:
        run.write(agent, thought(text))
    run.close()
    log = run.log
    at = data.draw(st.integers(0, len(log) - 2))
    victim = log[at]
    agent, number = victim.event.agent_id, victim.event.agent_seq
    same = [one.seq for one in log[:-1] if one.event.agent_id == agent and one.seq != victim.seq]
    kinds = ["edit", "delete", "repeat", "insert", "ghost", *(["swap"] if same else [])]
    match data.draw(st.sampled_from(kinds)):
        case "edit":
            verdict = verify(put(log, said(victim, victim.event.decision.rationale + "!")), run=RUN)
            expected = (False, True, (agent, number, victim.seq))
        case "delete":
            verdict = verify(without(log, victim.seq), run=RUN)
            expected = (True, False, (agent, number, 0))
        case "repeat":
            verdict = verify([*log, replace(victim, seq=len(log) + 1)], run=RUN)
            expected = (False, True, (agent, number, len(log) + 1))
        case "insert":
            other = forged(log, victim.seq, agent, number, victim.event.previous_event_hash)
            later = [replace(one, seq=one.seq + 1) for one in log[at:]]
            verdict = verify([*log[:at], other, *later], run=RUN)
            expected = (False, True, (agent, number, victim.seq))
        case "ghost":
            later = [replace(one, seq=one.seq + 1) for one in log[at:]]
            verdict = verify([*log[:at], forged(log, victim.seq, "ghost", 1, ""), *later], run=RUN)
            expected = (False, True, ("ghost", 1, victim.seq))
        case _:
            other_seq = data.draw(st.sampled_from(same))
            verdict = verify(swapped(log, victim.seq, other_seq), run=RUN)
            assert not verdict.intact
            assert verdict.complete
            assert verdict.first_bad is not None
            assert verdict.first_bad.agent_id == agent
            return
    assert (verdict.intact, verdict.complete) == expected[:2], verdict
    assert expected[2] in places(verdict), verdict


HOSTILE = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", ""]),
        st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 1]),
        st.sampled_from(["", "x", "0" * 64]),
        st.booleans(),
    ),
    max_size=15,
)


@settings(max_examples=300)
@given(HOSTILE)
def test_no_nonsense_makes_the_proof_fail_otherwise(made: list[tuple[str, int, str, bool]]) -> None:
    log = []
    for seq, (agent, number, text, close) in enumerate(made, start=1):
        event = SwarmEvent(agent_id=agent, agent_seq=number, previous_event_hash=text, run_id=RUN, event_id=text)
        event.parent_event_id = text
        if close:
            event.run_transition.to_state = "merged"
            event.run_transition.heads.add(agent_id="b", agent_seq=number, event_hash=text)
            event.run_transition.heads.add(agent_id="b", agent_seq=1, event_hash="")
        log.append(stored(seq, event.SerializeToString()))
    assert verify(log, run=RUN).checked == len(log)
    assert against(log, receipt(log)).faults == ()
