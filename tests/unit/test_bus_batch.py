"""Batches: order and bounds; and how groups of callers become one."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from enchanted.bus.batch import (
    Ack,
    Outgoing,
    batch_acks,
    batch_frames,
    encode_batch,
    has_valid_headers,
    single_frame,
    split,
)
from enchanted.bus.groups import Group, ack_at, runs, without_repeats
from enchanted.bus.streams import stream_of


def message(event_id: str, *, size: int = 1, subject: str = "swarm.events.a.b", last: int | None = None) -> Outgoing:
    return Outgoing(subject=subject, payload=b"x" * size, event_id=event_id, expected_last=last)


def group(*messages: Outgoing) -> Group:
    loop = asyncio.new_event_loop()
    try:
        return Group(list(messages), 0.0, loop.create_future())
    finally:
        loop.close()


@given(st.lists(st.integers(0, 500)), st.integers(1, 10), st.integers(1, 2000))
def test_splitting_keeps_order_and_respects_both_bounds(sizes: list[int], max_messages: int, max_bytes: int) -> None:
    messages = [message(str(number), size=size) for number, size in enumerate(sizes)]
    parts = list(split(messages, max_messages=max_messages, max_bytes=max_bytes))
    assert [m for part in parts for m in part] == messages
    for part in parts:
        assert 1 <= len(part) <= max_messages
        assert len(part) == 1 or sum(m.size for m in part) <= max_bytes


@given(st.lists(st.tuples(st.sampled_from(["swarm.events.a", "swarm.dead.b"]), st.booleans()), max_size=30))
def test_runs_keep_order_and_mix_neither_streams_nor_conditions(kinds: list[tuple[str, bool]]) -> None:
    messages = [message(str(k), subject=s, last=0 if c else None) for k, (s, c) in enumerate(kinds)]
    parts = runs(messages)
    assert [m for part in parts for m in part] == messages
    for part in parts:
        assert len({stream_of(m.subject) for m in part}) == 1
        assert len(part) == 1 or all(m.expected_last is None for m in part)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1), min_size=1))
def test_each_id_travels_once_and_every_caller_gets_its_sequence(ids: list[list[str]]) -> None:
    messages, positions = without_repeats([group(*(message(i) for i in part)) for part in ids])
    assert len({m.event_id for m in messages}) == len(messages)
    acks = batch_acks(len(messages), len(messages))
    sequence = {m.event_id: ack.seq for m, ack in zip(messages, acks, strict=True)}
    seen: set[str] = set()
    for part, where in zip(ids, positions, strict=True):
        for event_id, position in zip(part, where, strict=True):
            assert ack_at(acks, position) == Ack(seq=sequence[event_id], duplicate=event_id in seen)
            seen.add(event_id)


def test_a_batch_numbers_its_messages_and_the_last_commits() -> None:
    frames = batch_frames([message("a"), message("b"), message("c")], "batch")
    headers = [frame.headers or {} for frame in frames]
    assert [h["Nats-Batch-Sequence"] for h in headers] == ["1", "2", "3"]
    assert {h["Nats-Batch-Id"] for h in headers} == {"batch"}
    assert [h.get("Nats-Batch-Commit") for h in headers] == [None, None, "1"]
    assert [frame.answered for frame in frames] == [True, False, True]


def test_the_sequences_of_a_batch_end_at_its_commit() -> None:
    assert [ack.seq for ack in batch_acks(10, 3)] == [8, 9, 10]


def test_a_condition_is_spelled_in_two_headers() -> None:
    headers = single_frame(message("a", last=7)).headers or {}
    assert headers["Nats-Msg-Id"] == "a"
    assert headers["Nats-Expected-Last-Subject-Sequence"] == "7"
    assert headers["Nats-Expected-Last-Subject-Sequence-Subject"] == "swarm.events.a.b"


def test_a_header_name_the_client_would_refuse_is_found() -> None:
    bad = Outgoing(subject="swarm.events.a", payload=b"", event_id="x", headers={"a b": "c"})
    assert not has_valid_headers(bad)
    assert has_valid_headers(Outgoing(subject="s", payload=b"", event_id="x", headers={"traceparent": "c"}))


class Recorder(Client):
    """nats-py's own encoder, without a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = b""

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        self.wire += cmd


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(
        st.builds(
            Outgoing,
            subject=st.sampled_from(["swarm.events.a.b", "swarm.events.c"]),
            payload=st.binary(max_size=40),
            event_id=_TEXTS,
            headers=st.dictionaries(st.sampled_from(["traceparent", "Nats-Msg-Id", "X"]), _TEXTS),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_batch_is_encoded_byte_for_byte_as_nats_py_does(messages: list[Outgoing]) -> None:
    async def by_nats_py() -> bytes:
        client = Recorder()
        frames = [single_frame(messages[0])] if len(messages) == 1 else batch_frames(messages, "batch")
        for frame in frames:
            reply = "_INBOX.r" if frame.answered else ""
            await client._send_publish(frame.subject, reply, frame.payload, len(frame.payload), frame.headers)
        return client.wire

    assert encode_batch(messages, "batch", "_INBOX.r") == asyncio.run(by_nats_py())


def test_a_condition_is_encoded_too() -> None:
    wire = encode_batch([message("a", last=7)], "unused", "_INBOX.r")
    assert b"Nats-Expected-Last-Subject-Sequence: 7\r\n" in wire
    assert b"Nats-Batch-Id" not in wire
