"""Cursors, filters, windows, documents: the parts of the API that need no server."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from enchanted.actors.repository.rebuild import changes_to
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent, decision, state_change
from enchanted.serve.errors import BadCursor
from enchanted.serve.proof.verify import compare
from enchanted.serve.queries.events import EventQuery, row_document, select
from enchanted.serve.sources.cursor import Cursor, digest_of
from enchanted.serve.sources.parameters import LAST_MICROSECOND, microseconds
from enchanted.serve.sources.store import EventRow

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@given(
    st.integers(min_value=0, max_value=2**64 - 1),
    st.one_of(st.just(0), st.integers(min_value=0, max_value=LAST_MICROSECOND)),
    st.sampled_from(["a", "d"]),
)
def test_a_cursor_reads_back(seq: int, time: int, order: Any) -> None:
    cursor = Cursor(order=order, seq=seq, time=time, digest=digest_of({"run": "r"}))
    assert Cursor.decode(cursor.encode(), cursor.digest) == cursor


def test_a_cursor_from_before_cursors_had_a_time_is_still_read() -> None:
    digest = digest_of({"run": "r"})
    text = urlsafe_b64encode(f"1.d.77.{digest}".encode()).decode().rstrip("=")
    assert Cursor.decode(text, digest) == Cursor(order="d", seq=77, digest=digest)


@pytest.mark.parametrize(
    "place", ["1.a.5.6", "2.a.5", "2.a.5.6.7", "2.a..6", "2.a.5.", "2.a.5.-1", "3.a.5.6", "2.a.5.9223372036854775807"]
)
def test_a_place_that_no_cursor_names_is_refused(place: str) -> None:
    digest = digest_of({"run": "r"})
    with pytest.raises(BadCursor):
        Cursor.decode(urlsafe_b64encode(f"{place}.{digest}".encode()).decode().rstrip("="), digest)


def test_a_cursor_of_other_filters_is_refused() -> None:
    cursor = Cursor(order="a", seq=5, digest=digest_of({"run": "r"}))
    with pytest.raises(BadCursor):
        Cursor.decode(cursor.encode(), digest_of({"run": "other"}))


@given(st.text())
def test_no_text_makes_the_cursor_fail_otherwise(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.decode(text, "0" * 12)


@given(
    st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=14))]))
)
def test_any_time_is_held_within_what_the_table_stores(moment: datetime) -> None:
    assert 0 < microseconds(moment) <= 4_102_444_800_000_000


def test_times_without_a_zone_are_utc() -> None:
    assert microseconds(NOW) == microseconds(NOW.replace(tzinfo=None)) == int(NOW.timestamp() * 1_000_000)


@pytest.mark.parametrize(
    "bad", [{"run": "a\0b"}, {"limit": 0}, {"limit": 1001}, {"after": -1}, {"after": 2**63}, {"x": 1}]
)
def test_filters_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EventQuery(**bad)


def _row(event: SwarmEvent, seq: int = 7) -> EventRow:
    raw = event.SerializeToString()
    return EventRow(
        seq=seq,
        time=NOW,
        subject="swarm.events.coder.decision",
        event_id=event.event_id,
        sha256=sha256_hex(raw),
        raw=raw,
    )


def _decision() -> SwarmEvent:
    event = decision(context_hash="c", trigger="t", rationale="because", action={"do": 1}, rejected=["x"])
    event.event_id, event.agent_id = "e-1", "a-1"
    return event


def test_a_document_has_the_fields_of_the_proto_and_its_place_in_the_stream() -> None:
    document = row_document(_row(_decision()))
    assert document["seq"] == 7
    assert document["kind"] == "decision"
    assert document["stream_time"] == "2026-11-23T12:00:00.000000Z"
    assert document["decision"]["rationale"] == "because"
    assert "corrupted" not in document


def test_a_damaged_row_is_marked_and_shows_what_is_left() -> None:
    row = _row(_decision())
    damaged = EventRow(
        seq=row.seq, time=row.time, subject=row.subject, event_id=row.event_id, sha256=row.sha256, raw=b"\xff\xff"
    )
    document = row_document(damaged)
    assert document["corrupted"] is True
    assert document["event_id"] == "e-1"
    assert document["kind"] == "unknown"


def test_fields_keep_only_what_is_named_and_the_events_identity() -> None:
    document = row_document(_row(_decision()))
    assert select(document, "decision.rationale,subject") == {
        "seq": 7,
        "event_id": "e-1",
        "kind": "decision",
        "decision": {"rationale": "because"},
        "subject": "swarm.events.coder.decision",
    }


def test_fields_reach_into_lists() -> None:
    document = {"seq": 1, "blobs": [{"field": "a", "size": "1"}, {"field": "b", "size": "2"}]}
    assert select(document, "blobs.field,blobs.size")["blobs"] == document["blobs"]
    assert select(document, "blobs.field")["blobs"] == [{"field": "a"}, {"field": "b"}]


def _change(seq: int, old: str, new: str, bundle: str = "") -> StoredEvent:
    event = state_change(
        workspace_id="main", previous_tree=old, new_tree=new, patch="", files=[], reason="edit", resource="r",
        content_sha256=bundle,
    )  # fmt: skip
    return StoredEvent(seq=seq, time=NOW, subject="s", raw=b"", event=event)


def test_the_way_to_a_tree_begins_at_the_base_and_takes_no_detour() -> None:
    history = [_change(1, "", "A", "bundle"), _change(2, "A", "B"), _change(3, "B", "A"), _change(4, "A", "C")]
    assert [step.event.state_change.new_state_hash for step in changes_to(history, "C", set())] == ["A", "C"]
    assert [step.event.state_change.new_state_hash for step in changes_to(history, "C", {"A"})] == ["C"]
    assert changes_to(history, "Z", set()) == []


def test_a_circle_of_changes_ends() -> None:
    assert len(changes_to([_change(1, "B", "A"), _change(2, "A", "B")], "A", set())) == 2


def test_the_comparison_names_what_differs_and_forgives_later_copies() -> None:
    def stored(seq: int, event_id: str) -> StoredEvent:
        event = SwarmEvent(event_id=event_id)
        return StoredEvent(seq=seq, time=NOW, subject="s", raw=event.SerializeToString(), event=event)

    stream = [stored(5, "a"), stored(6, "b"), stored(8, "c"), stored(9, "a")]
    hashes = {3: "old", 5: sha256_hex(stream[0].raw), 6: "tampered", 7: "x", 10: "since"}
    found = compare(hashes, {"a", "b"}, stream)
    assert found["only_in_stream"] == [8]
    assert found["differing"] == [6]
    assert found["only_in_table"] == [7]
