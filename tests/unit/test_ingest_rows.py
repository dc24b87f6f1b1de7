"""Events as rows."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest

from enchanted.ingest.rows import COLUMNS, EARLIEST, LATEST, SEEN, columns_of, event_time, row_of, values
from enchanted.ingest.writer import Target, token
from enchanted.schemas.ddl import migrations, statements
from enchanted.schemas.events import StoredEvent, SwarmEvent, decision, model_call, parse_event, run_transition

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
TIME = datetime(2026, 1, 2, tzinfo=UTC)


def _stored(event: SwarmEvent, seq: int = 7) -> StoredEvent:
    raw = event.SerializeToString()
    return StoredEvent(seq=seq, time=TIME, subject="swarm.events.x", raw=raw, event=parse_event(raw))


def _named(event: SwarmEvent) -> dict[str, Any]:
    row = values(row_of(_stored(event), redelivered=False), CREATED)
    return dict(zip(COLUMNS, row, strict=True))


def _text(row: dict[str, Any]) -> str:
    """What the table shows as ``text``."""
    first = row["text_at"] - 1
    return str(row["body"][first : first + row["text_size"]].decode())


def test_a_decision_fills_its_columns() -> None:
    event = decision(context_hash="", trigger="why", rationale="because", action={"a": 1}, confidence=0.5)
    event.MergeFrom(SwarmEvent(run_id="r1", trace_id="t1", agent_role="ROLE_ARCHITECT", agent_seq=3))

    row = _named(event)

    assert row["run"] == "r1"
    assert row["role"] == "architect"
    assert row["kind"] == "decision"
    assert _text(row) == "because"
    assert row["input_trigger"] == "why"
    assert row["confidence"] == 0.5
    assert row["body"] == event.SerializeToString()
    assert row["sha256"] == hashlib.sha256(event.SerializeToString()).digest()


def test_a_producer_without_runs_is_grouped_by_its_trace() -> None:
    assert _named(SwarmEvent(trace_id="abc"))["run"] == "abc"


def test_an_event_of_nothing_is_a_row() -> None:
    row = _named(SwarmEvent())

    assert row["kind"] == "unknown"
    assert row["body"] == b""
    assert _text(row) == ""
    assert row["event_time"] == TIME


def test_a_failed_model_call_counts_as_an_error() -> None:
    call = model_call(model="m", messages=[], parameters={}, completion="", finish_reason="error", error="down")

    assert _named(call)["outcome"] == "FAILED"


def test_a_transition_shows_where_it_went() -> None:
    step = run_transition(subject="run", from_state="running", to_state="merged", reason="checks are green")

    assert _named(step)["to_state"] == "merged"


def test_an_agents_previous_hash_is_a_place_in_the_bytes() -> None:
    row = _named(SwarmEvent(event_id="e", previous_event_hash="ab" * 32))

    assert row["body"][row["previous_at"] - 1 :][:64] == b"ab" * 32
    assert _named(SwarmEvent(event_id="e", previous_event_hash="short"))["previous_at"] == 0


@pytest.mark.parametrize(
    ("seconds", "nanos", "expected"),
    [
        (-62135596800, 0, EARLIEST),
        (253402300799, 0, LATEST),
        (2**62, 0, LATEST),
        (-(2**62), 0, EARLIEST),
        (0, 2**31 - 1, datetime(1970, 1, 1, 0, 0, 2, 147483, tzinfo=UTC)),
    ],
)
def test_a_time_outside_the_column_moves_to_its_edge(seconds: int, nanos: int, expected: datetime) -> None:
    event = SwarmEvent()
    event.timestamp.seconds, event.timestamp.nanos = seconds, nanos

    assert event_time(event, TIME) == expected


def test_rows_are_turned_into_columns() -> None:
    rows = [row_of(_stored(SwarmEvent(event_id=str(n)), seq=n), redelivered=False) for n in (1, 2)]

    columns = columns_of(rows, CREATED)

    assert len(columns) == len(COLUMNS)
    assert list(columns[list(COLUMNS).index("stream_seq")]) == [1, 2]


def test_the_token_is_the_same_for_the_same_rows_of_one_stream_only() -> None:
    one, two = (row_of(_stored(SwarmEvent(), seq=n), redelivered=False) for n in (1, 2))

    of, other = Target(CREATED), Target(TIME)

    assert token([one, two], of) == token([one, two], of)
    assert token([one], of) != token([one, two], of)
    assert token([one], of) != token([one], other)


def test_the_table_has_the_columns_the_rows_have() -> None:
    sql = resources.files("enchanted.schemas").joinpath("sql", "001_events.sql").read_text()
    lines = re.findall(r"^    ([a-z]\w*) (.+),$", sql, re.MULTILINE)
    found = {
        name: kind.split(" CODEC(")[0] for name, kind in lines if not kind.startswith("=") and " ALIAS " not in kind
    }

    assert found == COLUMNS
    assert tuple(re.findall(r"^    ([a-z]\w*) \w+ ALIAS ", sql, re.MULTILINE)) == SEEN


def test_migrations_are_numbered_without_gaps() -> None:
    assert [one.number for one in migrations()] == list(range(1, len(migrations()) + 1))
    assert len(statements()) == len(migrations()) + 1
