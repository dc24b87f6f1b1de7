"""Whatever is published: what protobuf accepts is a row with its bytes, what it rejects is a dead letter, alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.testing import nats_server
from enchanted.cluster.store.testing import running_store
from enchanted.ingest import wire
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.reconcile_table import Table
from enchanted.ingest.rows import Row, read_row
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import IngestWorker
from enchanted.ingest.writer import Target, Writer
from enchanted.schemas.events import SwarmEvent
from enchanted.schemas.gen.events_pb2 import FieldBlob, SystemSignal

DEADLINE = 30.0
RAW, AS_BYTES = "raw FROM events ORDER BY stream_seq", {"raw": "bytes"}
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def _event(n: int) -> SwarmEvent:
    event = SwarmEvent(event_id=f"good-{n}", trace_id="t")
    event.decision.rationale = f"because {n}"
    return event


def _at(seconds: int) -> bytes:
    event = SwarmEvent(event_id=f"at {seconds}")
    event.timestamp.seconds = seconds
    return event.SerializeToString()


KNOWN = _event(0).SerializeToString()
GROUP = b"\xc3\x3e\x08\x01\xc4\x3e"
"""Field 1000 as a group that holds one number."""

POISON = {
    "undecodable": b"\xff\xff\xff\xff",
    "cut off": KNOWN[:-3],
    "a varint of eleven bytes": b"\x40" + b"\x80" * 10 + b"\x01",
    "invalid UTF-8": b"\x0a\x02\xff\xfe",
    "invalid UTF-8 in a payload": b"\x52\x04\x1a\x02\xff\xfe",
    "field number zero": b"\x00\x01",
    "a message of another type": FieldBlob(field="f", sha256="s", size=3).SerializeToString(),
    "a group without its end": b"\xc3\x3e\x08\x01",
    "the end of a group that never began": b"\xc4\x3e",
}
AWKWARD = {
    "two payloads": b"\x0a\x01a" + b"\x52\x03\x1a\x01x" + b"\x62\x03\x0a\x01y",
    "a string twice": b"\x0a\x01a\x0a\x01b",
    "a payload twice": b"\x0a\x02ab" + b"\x52\x03\x1a\x01x" + b"\x52\x03\x1a\x01y",
    "fields out of order": b"\x1a\x01t\x0a\x02ac",
    "an overlong number": b"\x0a\x02ad" + b"\x40\x85\x80\x80\x00",
    "an overlong length": b"\x0a\x82\x00ae",
    "an empty string that is there": b"\x0a\x00",
    "an unknown group": b"\x0a\x02af" + GROUP,
    "an unknown group in a payload": b"\x0a\x02ag" + b"\x52\x06" + GROUP,
    "a known field of another wire type": b"\x0a\x02ah" + b"\x18\x05",
    "a known field of a payload of another wire type": b"\x0a\x02ai" + b"\x52\x02\x18\x05",
    "a message of another type": SystemSignal(status="HEALTHY", cpu_load_percent=5).SerializeToString(),
}
PLAIN = {
    "nothing": b"",
    "an unknown field": b"\x0a\x02ba" + b"\xfa\x3e\x03new",
    "unknown numbers of every width": b"\x0a\x02bb"
    + b"\xf8\x3e\x05"
    + b"\xfd\x3e\x01\x02\x03\x04"
    + b"\xf9\x3e"
    + bytes(8),
    "an unknown payload": b"\x0a\x02bc" + b"\xb2\x03\x02hi",
    "an unknown role": SwarmEvent(event_id="bd", agent_role=99).SerializeToString(),  # type: ignore[arg-type]
    "the year 1": _at(-62135596800),
    "the year 9999": _at(253402300799),
    "a time no calendar has": _at(-(2**63)),
    "NUL bytes": SwarmEvent(event_id="b\0e", agent_name="\0", run_id="\0\0").SerializeToString(),
    "an id that is SQL": SwarmEvent(event_id="'; DROP TABLE events; --\n\\").SerializeToString(),
    "an empty payload": SwarmEvent(event_id="bf", decision={}).SerializeToString(),
}
SUBJECTS = ("swarm.events.x", "swarm.events.'.\\.ü", "swarm.events.$JS.{a}.日本", "swarm.events." + "x" * 200)


@pytest.fixture(scope="module")
async def store(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with running_store(tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture
async def table(store: str) -> AsyncIterator[AsyncClient]:
    client = await connect(store)
    await apply_ddl(client)
    await client.command("TRUNCATE TABLE events")
    yield client
    await client.close()


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_events_are_turned_into_rows_by_us(name: str) -> None:
    assert not read_row(1, 1, "s", AWKWARD[name], redelivered=False).plain


@pytest.mark.parametrize("name", PLAIN)
def test_the_others_are_left_to_clickhouse(name: str) -> None:
    assert read_row(1, 1, "s", PLAIN[name], redelivered=False).plain


async def test_bad_ones_harm_only_themselves(store: str, table: AsyncClient, tmp_path: Path) -> None:
    accepted = {**AWKWARD, **PLAIN}
    messages: list[bytes] = []
    for n, payload in enumerate([*POISON.values(), *accepted.values()]):
        messages += [_event(2 * n).SerializeToString(), payload, _event(2 * n + 1).SerializeToString()]

    async with nats_server(tmp_path / "nats") as server:
        connection = await nats.connect(server.url)
        stream = connection.jetstream(timeout=60)
        for n, payload in enumerate(messages):
            await stream.publish(SUBJECTS[n % len(SUBJECTS)], payload)
        await connection.close()
        limits = BatchLimits(rows=len(messages), seconds=0.3)
        async with IngestWorker(nats_url=server.url, clickhouse_url=store, limits=limits) as worker:
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(DEADLINE):
                while (statistics := worker.statistics()).rows + statistics.dead_letters < len(messages):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await worker.close()
            await running
        async with Bus.connect(server.url) as bus:
            letters = await DeadLetters(bus).list()

    found = await table.query(
        "SELECT stream_seq, subject, raw FROM events ORDER BY stream_seq", column_formats={"raw": "bytes"}
    )
    poison = set(POISON.values())
    expected = [(n, SUBJECTS[(n - 1) % len(SUBJECTS)], raw) for n, raw in enumerate(messages, 1) if raw not in poison]
    assert found.result_rows == expected
    assert [letter.payload for letter in letters] == list(POISON.values())
    assert statistics.retries == 0


async def test_poison_on_a_subject_that_is_no_utf_8_holds_up_nobody(
    store: str, table: AsyncClient, tmp_path: Path
) -> None:
    bad = POISON["undecodable"]
    async with nats_server(tmp_path / "nats") as server:
        connection = await nats.connect(server.url)
        await connection.jetstream(timeout=60).publish("swarm.events.x", bad + b"1")
        # nats-py sends no such subject, other clients do.
        await connection._send_command(b"PUB swarm.events.\xff 5\r\n" + bad + b"2\r\n")
        await connection.jetstream(timeout=60).publish("swarm.events.x", bad + b"3")
        await connection.close()
        limits = BatchLimits(rows=100, seconds=0.3)
        async with IngestWorker(nats_url=server.url, clickhouse_url=store, limits=limits) as worker:
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(DEADLINE):
                while worker.statistics().dead_letters < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await worker.close()
            await running
        async with Bus.connect(server.url) as bus:
            letters = {letter.payload: letter.original_subject for letter in await DeadLetters(bus).list()}

    assert letters == {bad + b"1": "swarm.events.x", bad + b"2": "swarm.events.\\xff", bad + b"3": "swarm.events.x"}


async def test_a_late_insert_after_a_first_copy_took_its_place_is_hidden_again(store: str, table: AsyncClient) -> None:
    first = _event(1).SerializeToString()
    writer = Writer(store)
    await writer.write([_row(5, first)], CREATED, again=False)
    await writer.write([_row(3, first, again=True)], CREATED, again=False)
    for late in ("late", "later"):
        # A worker that died had this under way.
        await writer._insert_plain([_row(5, first)], Target(CREATED, late))
        await writer.write([_row(3, first, again=True)], CREATED, again=False)
    await writer.close()

    found = await table.query("SELECT stream_seq, duplicate_of FROM events FINAL ORDER BY stream_seq")
    assert found.result_rows == [(3, 0), (5, 3)]


@pytest.mark.parametrize("compressed", [False, True])
async def test_hashes_in_the_table_are_those_of_the_published_bytes(
    store: str, table: AsyncClient, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What only the other way of sending rows uses.
    monkeypatch.delattr(wire, "block" if compressed else "insert")
    payloads = [*AWKWARD.values(), *PLAIN.values()]
    rows = [read_row(n, n, "s", raw, redelivered=False) for n, raw in enumerate(payloads, 1)]
    writer = Writer(store, local=not compressed)
    written = await writer.write(rows, CREATED, again=False)
    await writer.close()

    wrong = await table.query("SELECT stream_seq FROM events WHERE payload_sha256 != lower(hex(SHA256(raw)))")
    assert written.inserted == len(rows)
    assert wrong.result_rows == []


async def test_a_row_clickhouse_cannot_read_by_itself_is_found_and_read_by_us(store: str, table: AsyncClient) -> None:
    rows = [read_row(n, n, "s", _event(n).SerializeToString(), redelivered=False) for n in range(1, 9)]
    # As if the check had let through what ClickHouse refuses.
    rows[5] = replace(read_row(6, 6, "s", AWKWARD["an unknown group"], redelivered=False), plain=True)

    writer = Writer(store)
    written = await writer.write(rows, CREATED, again=False)
    await writer.close()

    stored = await table.query(
        "SELECT stream_seq, raw FROM events ORDER BY stream_seq", column_formats={"raw": "bytes"}
    )
    assert written.refused == []
    assert stored.result_rows == [(row.seq, row.raw) for row in rows]


async def test_copies_with_other_bytes_are_reported_whichever_way_they_take(store: str, table: AsyncClient) -> None:
    first, same = _event(1), _event(1).SerializeToString()
    first_bytes = first.SerializeToString()
    other = first_bytes + b"\xfa\x3e\x03new"
    awkward = first_bytes + GROUP
    odd_id = SwarmEvent(event_id="a'\\\nb\0").SerializeToString()
    payloads = [first_bytes, same, other, awkward, odd_id, odd_id]

    writer = Writer(store)
    rows = [read_row(n, n, "s", raw, redelivered=False) for n, raw in enumerate(payloads, 1)]
    one = await writer.write(rows, CREATED, again=False)
    later = [read_row(n, n, "s", raw, redelivered=False) for n, raw in enumerate(payloads, 7)]
    two = await writer.write(later, CREATED, again=False)
    await writer.close()

    found = await table.query("SELECT stream_seq, duplicate_of FROM events ORDER BY stream_seq")
    marks: dict[int, int] = {seq: copy_of for seq, copy_of in found.result_rows}
    assert (one.duplicates, one.conflicting) == (4, 2)
    assert (two.duplicates, two.conflicting) == (6, 2)
    assert [marks[n] for n in range(1, 13)] == [0, 1, 1, 1, 0, 5, 1, 1, 1, 1, 5, 5]


@pytest.mark.parametrize("odd", [b"", GROUP], ids=["plain", "awkward"])
async def test_a_first_copy_that_comes_late_takes_the_place_of_the_later_one(
    store: str, table: AsyncClient, odd: bytes
) -> None:
    """A worker died with the first copies in its hands: they come again after what was published since."""
    first, second = (_event(n).SerializeToString() + odd for n in (1, 2))
    other = first + b"\xfa\x3e\x03new"
    writer = Writer(store)
    early = [_row(5, other), _row(6, first), _row(7, second)]
    await writer.write(early, CREATED, again=False)
    late = [_row(1, first, again=True), _row(2, first, again=True), _row(5, other, again=True), _row(8, other)]
    written = await writer.write(late, CREATED, again=False)
    once_more = await writer.write([_row(n.seq, n.raw, again=True) for n in late], CREATED, again=True)
    await writer.close()

    found = await table.query("SELECT stream_seq, duplicate_of, hex(subject) FROM events FINAL ORDER BY stream_seq")
    assert [row[:2] for row in found.result_rows] == [(1, 0), (2, 1), (5, 1), (6, 5), (7, 0), (8, 1)]
    assert {row[2] for row in found.result_rows} == {b"s.\xff".hex().upper()}
    assert (written.inserted, written.present, written.duplicates, written.conflicting) == (3, 1, 3, 2)
    assert (once_more.inserted, once_more.present, once_more.duplicates) == (0, 4, 0)


async def test_what_two_workers_made_visible_twice_is_settled(store: str, table: AsyncClient) -> None:
    raw = _event(1).SerializeToString()
    one, two = Writer(store), Writer(store)
    # Below the look-ups, as when both looked before either inserted.
    await one._insert_plain([_row(4, raw)], Target(CREATED))
    await two._insert_plain([_row(3, raw), _row(5, _event(2).SerializeToString())], Target(CREATED))
    counts = Table(store)
    double = await counts.visible_twice(CREATED, 0)
    hidden = await one.settle(double, CREATED)

    found = await table.query("SELECT stream_seq, duplicate_of FROM events FINAL ORDER BY stream_seq")
    assert (len(double), hidden) == (1, 1)
    assert found.result_rows == [(3, 0), (4, 3), (5, 0)]
    assert await counts.visible_twice(CREATED, 0) == []
    for each in (one, two, counts):
        await each.close()


def _row(seq: int, raw: bytes, *, again: bool = False) -> Row:
    subject = b"s.\xff".decode(errors="surrogateescape")
    return read_row(seq, 1_700_000_000_000_000 + seq, subject, raw, redelivered=again)


async def test_the_same_insert_sent_again_is_taken_once(store: str, table: AsyncClient) -> None:
    rows = [read_row(n, n, "s", _event(n).SerializeToString(), redelivered=False) for n in range(1, 6)]
    writer = Writer(store)
    for _ in range(2):
        # Below the look-ups, as when the answer to the first was lost.
        await writer._insert_plain(rows, Target(CREATED))
    await writer.close()

    assert (await table.query("SELECT count() FROM events")).result_rows == [(5,)]
