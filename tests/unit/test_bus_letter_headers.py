"""What a dead letter keeps of its original's headers: all of it where it fits, and else the smaller ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from enchanted.bus.batch import HEADER_NAME, Outgoing, encode_batch
from enchanted.bus.letter_headers import DETAIL, LEFT_OUT, MSG_ID, letter_headers
from enchanted.bus.reader import RawMessage

LIMIT = 65_535
HEADER = st.from_regex(HEADER_NAME, fullmatch=True)


def original(headers: Mapping[str, str]) -> RawMessage:
    return RawMessage(
        seq=2**40, time=datetime(2026, 1, 1, tzinfo=UTC), subject="swarm.events.a", payload=b"", headers=headers
    )


def block_size(headers: Mapping[str, str]) -> int:
    """Bytes of the header block in the middle of a batch."""
    event_id = f"dead-{2**63}-2026-01-01T00:00:00.000000+00:00"
    message = Outgoing(subject="swarm.dead.a", payload=b"", event_id=event_id, headers=headers)
    return max(
        int(line.split()[-2]) for line in encode_batch([message] * 3, "f" * 32, "").split(b"\r\n") if b"HPUB" in line
    )


def test_headers_that_fit_are_all_kept() -> None:
    kept = letter_headers(original({"Nats-Msg-Id": "id", "Nats-Batch-Id": "b", "traceparent": "x"}), "r", "d")
    assert (kept["traceparent"], kept[MSG_ID]) == ("x", "id")
    assert "Nats-Batch-Id" not in kept
    assert LEFT_OUT not in kept


def test_the_largest_is_left_out_first_and_the_number_of_those_is_said() -> None:
    given_ = {"a": "x" * 100, "big": "y" * 40_000, "Nats-Msg-Id": "id", "middle": "z" * 30_000}
    kept = letter_headers(original(given_), "r", "d")
    assert ("big" in kept, kept["middle"], kept["a"], kept[MSG_ID]) == (False, given_["middle"], given_["a"], "id")
    assert kept[LEFT_OUT] == "1"


def test_a_message_id_without_room_is_left_out_too() -> None:
    kept = letter_headers(original({"Nats-Msg-Id": "\ufffd" * 30_000, "a": "x"}), "r", "d")
    assert (MSG_ID in kept, kept["a"], kept[LEFT_OUT]) == (False, "x", "1")


def test_a_producer_cannot_speak_in_our_name() -> None:
    kept = letter_headers(original({MSG_ID: "another's", LEFT_OUT: "many"}), "r", "d")
    assert MSG_ID not in kept
    assert LEFT_OUT not in kept


def test_what_utf8_cannot_spell_is_replaced() -> None:
    kept = letter_headers(original({"a": "x\udcff"}), "r", "line\r\none\udcff")
    assert (kept["a"], kept[DETAIL]) == ("x?", "line one?")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(HEADER, st.tuples(st.sampled_from(["x", "\ufffd", "é"]), st.integers(0, 65_000)), max_size=12),
    st.integers(0, 65_000),
)
def test_the_block_never_exceeds_what_the_server_takes(sizes: dict[str, tuple[str, int]], id_size: int) -> None:
    headers = {name: letter * count for name, (letter, count) in sizes.items()}
    kept = letter_headers(original(headers | {"Nats-Msg-Id": "i" * id_size}), "r" * 100, "\ufffd" * 2000)
    assert block_size(kept) <= LIMIT
