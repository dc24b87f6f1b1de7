"""Our reader of frames beside nats-py's own parser: the same messages, however they are cut."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.protocol.parser import Parser

from enchanted.bus.frames import CAN_READ, CAN_WRITE, FrameReader, headers_of, reader_of

OURS = 7
Message = tuple[int, bytes, bytes, bytes, bytes]
"""Subscription, subject, reply subject, headers, payload."""


@dataclass
class Heard:
    """In a client's place: what its parser told it."""

    messages: list[Message] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=lambda: {"in_msgs": 0, "in_bytes": 0})
    _ps: Any = None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.messages.append((sid, subject, reply, headers or b"", data))

    async def _process_ping(self) -> None:
        self.others.append("PING")

    async def _process_pong(self) -> None:
        self.others.append("PONG")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.others.append(info)

    async def _process_err(self, text: str) -> None:
        self.others.append(text)


def reading(heard: Heard) -> FrameReader:
    heard._ps = Parser(heard)
    reader = FrameReader(heard)  # type: ignore[arg-type]

    def take(subject: bytes, reply: bytes, head: bytes, payload: bytes) -> None:
        heard.messages.append((OURS, subject, reply, head, payload))

    reader.take(OURS, take)
    return reader


def frame(sid: int, subject: bytes, reply: bytes, head: bytes, payload: bytes) -> bytes:
    words = [b"HMSG" if head else b"MSG", subject, b"%d" % sid, *([reply] if reply else [])]
    words += [*([b"%d" % len(head)] if head else []), b"%d" % (len(head) + len(payload))]
    return b" ".join(words) + b"\r\n" + head + payload + b"\r\n"


_TOKENS = st.sampled_from([b"a", b"swarm.events.x", b"$JS.ACK.S.C.1.2.3.4.5", "ü.日".encode()])
_PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"MSG a 7 0\r\n\r\n", b"PING\r\n", b"x" * 5_000, b"HMSG a 7 b 12 12\r\n"]),
)
_HEADS = st.sampled_from([b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0 100 Idle\r\n\r\n", b"NATS/1.0\r\nA: b\r\n\r\n"])
_MESSAGES = st.tuples(st.sampled_from([OURS, 1, 77]), _TOKENS, st.one_of(st.just(b""), _TOKENS), _HEADS, _PAYLOADS)
_OTHERS = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'no'\r\n", b'INFO {"a":1}\r\n'])


async def _fed(reader: Any, data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        await reader.parse(data[start:end])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(_MESSAGES, _OTHERS), max_size=12), st.lists(st.integers(0, 10**6), max_size=20))
def test_whatever_comes_however_cut_is_heard_as_nats_py_hears_it(parts: list[Any], cuts: list[int]) -> None:
    data = b"".join(part if isinstance(part, bytes) else frame(*part) for part in parts)
    plain, lean = Heard(), Heard()

    asyncio.run(_fed(Parser(plain), data, []))
    asyncio.run(_fed(reading(lean), data, cuts))

    assert lean.messages == plain.messages == [part for part in parts if not isinstance(part, bytes)]
    assert lean.others == plain.others


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.lists(_MESSAGES, max_size=3))
def test_rubbish_is_an_error_of_the_protocol_or_waits_for_its_end(rubbish: bytes, before: list[Message]) -> None:
    heard = Heard()
    reader = reading(heard)
    with contextlib.suppress(nats.errors.ProtocolError):
        asyncio.run(reader.parse(b"".join(frame(*message) for message in before) + rubbish))
    assert heard.messages[: len(before)] == before


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 7 b -5\r\n",
        b"MSG a 7 b 1_0\r\n",
        b"HMSG a 7 b 9 5\r\n12345\r\n",
        b"HMSG a 7 b x 5\r\n12345\r\n",
        b"x" * 5_000,
    ],
)
def test_a_malformed_line_is_an_error(line: bytes) -> None:
    with pytest.raises(nats.errors.ProtocolError):
        asyncio.run(reading(Heard()).parse(line))


def test_a_new_connection_begins_with_nothing_of_the_old_one() -> None:
    heard = Heard()
    reader = reading(heard)
    whole = frame(OURS, b"a", b"b", b"", b"payload")
    asyncio.run(reader.parse(whole[:-5]))

    reader.reset()
    asyncio.run(reader.parse(whole))

    assert heard.messages == [(OURS, b"a", b"b", b"", b"payload")]


def test_a_break_in_the_middle_of_reading_forgets_the_rest() -> None:
    heard = Heard()
    reader = reading(heard)

    async def broken(text: str) -> None:
        reader.reset()

    heard._process_err = broken  # type: ignore[method-assign]
    asyncio.run(reader.parse(b"-ERR 'stale connection'\r\nMSG a 7"))
    asyncio.run(reader.parse(b"MSG a 7 b 1\r\nx\r\n"))

    assert heard.messages == [(OURS, b"a", b"b", b"", b"x")]


def test_a_subscription_that_was_left_goes_to_nats_py() -> None:
    heard = Heard()
    reader = reading(heard)
    reader.leave(OURS)
    reader.leave(OURS)

    asyncio.run(reader.parse(frame(OURS, b"a", b"b", b"", b"x")))

    assert heard.messages == [(OURS, b"a", b"b", b"", b"x")]
    assert heard.stats == {"in_msgs": 0, "in_bytes": 0}


def test_the_nats_py_that_is_installed_lets_us_read_and_write() -> None:
    assert CAN_READ
    assert CAN_WRITE
    client = Client()
    assert reader_of(client) is reader_of(client)
    assert client._ps is reader_of(client)  # type: ignore[comparison-overlap]


def test_headers_are_read_as_they_came() -> None:
    block = b"NATS/1.0 409 Message Size Exceeds\r\nA: b\r\nNats-Msg-Id:x:y \r\n\r\n"
    assert dict(headers_of(block)) == {
        "Status": "409",
        "Description": "Message Size Exceeds",
        "A": "b",
        "Nats-Msg-Id": "x:y",
    }
