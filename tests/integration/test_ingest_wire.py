"""What ClickHouse makes of an event by itself is what we make of it, for every event there can be."""

from __future__ import annotations

import itertools
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from enchanted.cluster.store.testing import running_store
from enchanted.ingest.rows import COLUMNS, SEEN, Row, read_row
from enchanted.ingest.tables import connect
from enchanted.ingest.writer import Writer
from enchanted.schemas.events import SwarmEvent

INSIDE = {"body", "cut_at", "text_at", "text_size", "previous_at"}
"""Where things are kept differs; what is seen does not."""
VISIBLE = [name for name in (*COLUMNS, *SEEN) if name not in INSIDE]
CREATED = datetime(2026, 1, 1, 0, 0, 0, 123457, tzinfo=UTC)
TIME = 1_767_323_045_678_901
"""Microseconds since 1970."""
SUBJECTS = ("swarm.events.coder.decision.run-1", "swarm.events.x", "swarm.events.ü.'\\.日本")
_NUMBERS = itertools.count()

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}
_TEXT = st.one_of(st.text(max_size=12), st.sampled_from(["", "\0", "a\nb", "'", "\\", "日本語", "x" * 300]))


def _scalars(field: Any) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return _TEXT
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return st.floats(width=32) if field.type == FieldDescriptor.TYPE_FLOAT else st.floats()
    low, high = _INTEGERS[field.type]
    return st.one_of(st.sampled_from([low, 0, 1, 2, 3, 4, high]), st.integers(low, high))


@st.composite
def _messages(draw: st.DrawFn, message: Message, depth: int = 0) -> Message:
    """Any message of this type; half of its fields are set."""
    oneofs = {oneof.name: draw(st.sampled_from([None, *oneof.fields])) for oneof in message.DESCRIPTOR.oneofs}
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None:
            if oneofs[field.containing_oneof.name] is not field:
                continue
        elif not draw(st.booleans()):
            continue
        value = getattr(message, field.name)
        if field.is_repeated and field.message_type:
            for _ in range(draw(st.integers(0, 3))):
                draw(_messages(value.add(), depth + 1))
        elif field.is_repeated:
            value.extend(draw(st.lists(_scalars(field), max_size=3)))
        elif field.message_type:
            value.SetInParent()
            draw(_messages(value, depth + 1))
        else:
            setattr(message, field.name, draw(_scalars(field)))
    return message


_UNKNOWN = st.sampled_from(
    [
        b"",
        b"\xfa\x3e\x03new",
        b"\xf8\x3e\x05",
        b"\xfd\x3e\x01\x02\x03\x04",
        b"\xf9\x3e" + bytes(8),
        b"\x92\x03\x04\x0a\x02hi",
    ]
)


@st.composite
def _events(draw: st.DrawFn) -> bytes:
    return draw(_messages(SwarmEvent())).SerializeToString() + draw(_UNKNOWN)


class _Table:
    """One database with its own table of events."""

    def __init__(self, url: str, client: AsyncClient) -> None:
        self.writer = Writer(url)
        self.client = client

    async def stored(self, rows: Sequence[Row], created: datetime) -> list[dict[str, Any]]:
        """The rows as the table has them once they are written."""
        written = await self.writer.write(rows, created, again=False)
        assert written.inserted == len(rows), written.refused
        columns = ", ".join(f"toString({name})" if name == "event_time" else name for name in VISIBLE)
        found = await self.client.query(
            f"SELECT {columns} FROM events WHERE stream_created = {{created:DateTime64(6, 'UTC')}} ORDER BY stream_seq",
            parameters={"created": created},
            query_formats={"String": "bytes"},
        )
        return [dict(zip(VISIBLE, map(_comparable, row), strict=True)) for row in found.result_rows]


@pytest.fixture(scope="module")
async def tables(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[_Table, _Table]]:
    """For rows ClickHouse reads by itself, and for the same rows as we read them."""
    async with running_store(tmp_path_factory.mktemp("store")) as url:
        home = await connect(url)
        made = []
        for name in ("by_wire", "by_rows"):
            await home.command(f"CREATE DATABASE {name}")
            own = url.rsplit("/", 1)[0] + f"/{name}"
            made.append(_Table(own, await connect(own)))
        yield made[0], made[1]
        for table in made:
            await table.writer.close()
            await table.client.close()
        await home.close()


def _comparable(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def _rows(payloads: Sequence[bytes]) -> list[Row]:
    return [read_row(n, TIME + n, SUBJECTS[n % 3], payload, redelivered=False) for n, payload in enumerate(payloads, 1)]


async def _differences(tables: tuple[_Table, _Table], payloads: Sequence[bytes]) -> list[str]:
    by_wire = _rows(payloads)
    assert all(row.plain for row in by_wire)
    created = CREATED + timedelta(seconds=next(_NUMBERS))
    one = await tables[0].stored(by_wire, created)
    other = await tables[1].stored([replace(row, plain=False) for row in _rows(payloads)], created)
    assert [row["raw"] for row in one] == list(payloads)
    return [
        f"{name}: {ours[name]!r:.200} by wire, {theirs[name]!r:.200} by rows"
        for ours, theirs in zip(one, other, strict=True)
        for name in VISIBLE
        if ours[name] != theirs[name]
    ]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
)
@given(payloads=st.lists(_events(), min_size=4, max_size=16))
async def test_both_ways_give_every_column_the_same_value(tables: tuple[_Table, _Table], payloads: list[bytes]) -> None:
    assert await _differences(tables, payloads) == []


def _with_ids(event_id: str, trace_id: str, span_id: str, rationale: str) -> bytes:
    event = SwarmEvent(event_id=event_id, trace_id=trace_id, span_id=span_id, previous_event_hash="c" * 64)
    event.timestamp.seconds = 1
    event.decision.rationale = rationale
    return event.SerializeToString()


async def test_bytes_without_their_ids_are_put_together_again(tables: tuple[_Table, _Table]) -> None:
    ids = ("e" * 36, "a" * 32, "b" * 16)
    tail = f'\x1a {ids[1]}"\x10{ids[2]}'
    payloads = [
        _with_ids(*ids, "because"),
        _with_ids(*ids, ""),
        _with_ids(*ids, tail),
        _with_ids("é" * 18, ids[1], ids[2], "é"),
        _with_ids("e" * 35, ids[1], ids[2], tail),
        _with_ids("e" * 36, "a" * 31, ids[2], tail),
        _with_ids("e" * 36, ids[1], "", tail),
        _with_ids("", "", "", tail),
        SwarmEvent(event_id=ids[0]).SerializeToString(),
    ]

    assert await _differences(tables, payloads) == []
    cut = await tables[0].client.query("SELECT DISTINCT length(raw) - length(body) FROM events")
    assert {size for (size,) in cut.result_rows} == {0, 90}


async def test_a_long_text_is_found_where_it_is(tables: tuple[_Table, _Table]) -> None:
    events = [SwarmEvent() for _ in range(4)]
    events[0].decision.rationale = "é" * 40_000
    events[1].tool_call.output = "x" * 30_000 + "日本"
    events[2].model_call.completion = "y" * 100_000
    events[3].state_change.diff_patch = "--- a\n+++ b\n" * 5_000

    assert await _differences(tables, [event.SerializeToString() for event in events]) == []


async def test_times_at_every_edge_move_alike(tables: tuple[_Table, _Table]) -> None:
    payloads = [b""]
    for seconds in (-(2**63), -62135596800, -2208988800, -1, 0, 253402300799, 10413791999, 10413792000, 2**63 - 1):
        for nanos in (-(2**31), -1000, -1, 0, 999, 1000, 999_999_999, 2**31 - 1):
            event = SwarmEvent()
            event.timestamp.SetInParent()
            event.timestamp.seconds, event.timestamp.nanos = seconds, nanos
            payloads.append(event.SerializeToString())

    assert await _differences(tables, payloads) == []
