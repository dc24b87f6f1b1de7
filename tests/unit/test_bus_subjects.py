"""Subjects: any text is one token, and comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.bus.subjects import decode_token, encode_token, event_subject, matches, run_filters, state_filter
from enchanted.schemas import events


@given(st.text())
def test_any_text_survives_encoding_as_one_token(text: str) -> None:
    token = encode_token(text)
    assert decode_token(token) == text
    assert token
    assert token.isascii()
    assert not set(token) & set(".*> \t\r\n\0")


@given(st.text(), st.text())
def test_different_texts_have_different_tokens(a: str, b: str) -> None:
    assert (encode_token(a) == encode_token(b)) == (a == b)


def test_a_uuid_is_its_own_token() -> None:
    assert encode_token("01936d2e-7a1b-7c3d-9e4f-0123456789ab") == "01936d2e-7a1b-7c3d-9e4f-0123456789ab"


def test_the_subject_names_role_kind_and_run() -> None:
    event = events.system_signal(status="HEALTHY")
    event.agent_role = events.ROLE_NUMBERS["coder"]  # type: ignore[assignment]  # open enum
    assert event_subject(event) == "swarm.events.coder.system_signal"
    event.run_id = "r.1"
    assert event_subject(event) == "swarm.events.coder.system_signal.r%2E1"


def test_the_subject_of_a_state_change_names_the_workspace() -> None:
    event = events.state_change(
        workspace_id="task-1", previous_tree="", new_tree="", patch="", files=[], reason="edit", resource="f"
    )
    event.run_id = "r"
    assert event_subject(event) == "swarm.events.unspecified.state_change.r.task-1"
    assert matches(state_filter("r", "task-1"), event_subject(event))
    assert any(matches(f, event_subject(event)) for f in run_filters("r"))


def test_an_event_without_payload_or_role_has_a_subject() -> None:
    assert event_subject(events.SwarmEvent(agent_role=99)) == "swarm.events.unspecified.unknown"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*.c.>", "a.b.c", False),
        ("a.*.c.>", "a.b.c.d", True),
        ("a.b", "a.b", True),
    ],
)
def test_filters_select_as_the_server_does(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@given(st.text(), st.text())
def test_the_filters_of_a_run_select_no_other_run(run: str, other: str) -> None:
    event = events.SwarmEvent(run_id=run or "r", decision={})
    assert any(matches(f, event_subject(event)) for f in run_filters(event.run_id))
    selected = any(matches(f, event_subject(event)) for f in run_filters(other))
    assert selected == (other == event.run_id)
