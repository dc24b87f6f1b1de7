"""What ingest acknowledged and the table lost is named by exact range, and written again from the stream."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient

from enchanted.bus.batch import Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.dead_letters import DeadLetters
from enchanted.bus.reader import RawMessage, consumer_state, holes, message_at, read_range
from enchanted.bus.streams import EVENTS_STREAM, stream_configs
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, free_port, nats_server
from enchanted.cluster.cli import execute
from enchanted.cluster.commands import data
from enchanted.cluster.state import Endpoints
from enchanted.cluster.store.testing import StoreProcess, store_process
from enchanted.ingest import reconciler as reconciler_module
from enchanted.ingest.batch import BatchLimits
from enchanted.ingest.errors import TableUnavailable
from enchanted.ingest.ranges import Ranges
from enchanted.ingest.reconcile_report import AgentGap, Agents, Report
from enchanted.ingest.reconcile_table import Table
from enchanted.ingest.reconciler import Reconciler, _Copies
from enchanted.ingest.rows import read_row
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import DURABLE, IngestWorker
from enchanted.ingest.writer import Target, Writer
from enchanted.schemas.events import SwarmEvent

SUBJECT = "swarm.events.architect.decision"
DEADLINE = 30.0


class World:
    """A bus, a table, and a reconciler over them."""

    def __init__(self, server: NatsServer, store: StoreProcess, bus: Bus, table: AsyncClient) -> None:
        self.server = server
        self.store = store
        self.bus = bus
        self.table = table

    async def publish(self, payloads: Sequence[bytes], name: str) -> None:
        messages = [
            Outgoing(subject=SUBJECT, payload=payload, event_id=f"{name}-{n}") for n, payload in enumerate(payloads)
        ]
        await self.bus.publisher.publish_many(messages)

    async def ingest(self) -> None:
        """Run a worker until everything in the stream is acknowledged."""
        limits = BatchLimits(seconds=0.2)
        last = (await self.bus.stream_info()).last_seq
        async with IngestWorker(nats_url=self.server.url, clickhouse_url=self.store.url, limits=limits) as worker:
            running = asyncio.create_task(worker.run())

            async def done() -> bool:
                state = await consumer_state(self.bus.link, EVENTS_STREAM, DURABLE)
                return state is not None and state.acknowledged >= last

            await _until(done)
            await worker.close()
            await running

    async def lose(self, condition: str) -> None:
        """Rows go, as with a damaged part."""
        await self.table.command(f"ALTER TABLE events DELETE WHERE {condition} SETTINGS mutations_sync = 2")

    async def seqs(self) -> list[int]:
        found = await self.table.query("SELECT stream_seq FROM events FINAL ORDER BY stream_seq")
        return [int(seq) for (seq,) in found.result_rows]

    def reconciler(self, table: Table | None = None) -> Reconciler:
        return Reconciler(nats_url=self.server.url, clickhouse_url=self.store.url, table=table)


class Slow(Table):
    """Counts how often it is asked for copies with other bytes, and may not say."""

    asked = 0
    fails_from: float = math.inf

    async def conflicting(self, created: datetime, first: int, last: int) -> list[int]:
        self.asked += 1
        if first >= self.fails_from:
            raise TableUnavailable("Timeout exceeded")
        return await super().conflicting(created, first, last)


class Looking(Table):
    """Remembers from where on it was asked for events that are visible twice."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.after: list[int] = []

    async def visible_twice(self, created: datetime, after: int, last: int = 0) -> list[str]:
        self.after.append(after)
        return await super().visible_twice(created, after, last)


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            pass


@pytest.fixture(scope="module")
async def store(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreProcess]:
    async with store_process(tmp_path_factory.mktemp("store")) as running:
        yield running


@asynccontextmanager
async def _world(server: NatsServer, store: StoreProcess) -> AsyncIterator[World]:
    table = await connect(store.url)
    try:
        await apply_ddl(table)
        await table.command("TRUNCATE TABLE events")
        async with Bus.connect(server.url) as bus:
            yield World(server, store, bus, table)
    finally:
        await table.close()


@pytest.fixture
async def world(tmp_path: Path, store: StoreProcess) -> AsyncIterator[World]:
    async with nats_server(tmp_path / "nats", sync="default") as server, _world(server, store) as made:
        yield made


def _event(n: int, agent: str = "", number: int = 0, event_id: str = "") -> bytes:
    event = SwarmEvent(event_id=event_id or f"e-{n}", trace_id="a" * 32, agent_id=agent, agent_seq=number)
    event.decision.rationale = f"because {n}"
    return event.SerializeToString()


async def test_lost_rows_are_named_by_exact_range_and_healed_as_often_as_they_are_lost(world: World) -> None:
    every = range(1, 241)
    await world.publish([_event(n) for n in every], "m")
    await world.ingest()
    async with world.reconciler() as reconciler:
        whole = await reconciler.check()
        assert (whole.sound, whole.rows, whole.in_stream, whole.acknowledged) == (True, 240, 240, 240)

        lost = (3, 107, 108, 109, 240)
        await world.lose(f"stream_seq IN {lost}")
        seen = await reconciler.check(repair=False)
        assert not seen.sound
        assert seen.missing == seen.unhealed == Ranges(5, ((3, 3), (107, 109), (240, 240)))
        assert await world.seqs() == [seq for seq in every if seq not in lost]

        healed = await reconciler.check()
        assert (healed.sound, healed.healed, healed.missing) == (True, 5, seen.missing)
        parts = await world.table.query(f"SELECT uniqExact(_part) FROM events WHERE stream_seq IN {lost}")
        assert parts.result_rows == [(1,)], "each range was an insert of its own"
        # The very insert that ClickHouse has seen before, twice: its deduplication must not swallow it.
        for _ in range(2):
            await world.lose("1")
            again = await reconciler.check()
            assert (again.sound, again.healed, again.missing) == (True, 240, Ranges(240, ((1, 240),)))
    assert await world.seqs() == list(every)


async def test_copies_with_other_bytes_than_the_first_are_named_and_are_no_fault(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    same, other = _event(1), _event(2, event_id="e-1")
    await world.publish([same, same, other, _event(3), other, same], "m")
    await world.ingest()
    async with world.reconciler() as reconciler:
        report = await reconciler.check()
        assert (report.sound, report.rows, report.duplicates) == (True, 6, 4)
        assert report.conflicting == Ranges(2, ((3, 3), (5, 5)))

        # The message that comes first counts, also where its row is written last.
        await world.lose("stream_seq IN (1, 2)")
        report = await reconciler.check()
        assert (report.sound, report.healed, report.conflicting) == (True, 2, Ranges(2, ((3, 3), (5, 5))))
    data._show(report)
    assert "conflicting copies\t2: 3, 5" in capsys.readouterr().out


async def test_a_check_heals_and_ends_also_where_the_table_does_not_say_which_copies_have_other_bytes(
    world: World,
) -> None:
    await world.publish([_event(1), _event(2, event_id="e-1"), _event(3)], "m")
    await world.ingest()
    table = Slow(world.store.url)
    async with world.reconciler(table) as reconciler:
        assert (await reconciler.check()).conflicting == Ranges(1, ((2, 2),))
        await world.publish([_event(4, event_id="e-3")], "later")
        await world.ingest()
        await world.lose("stream_seq IN (1, 3)")
        table.fails_from = 0
        report = await reconciler.check()
        assert (report.sound, report.healed, report.agents) == (True, 2, Agents())
        assert report.conflicting == Ranges(1, ((2, 2),)), "what was known before"
        table.fails_from = math.inf
        assert (await reconciler.check()).conflicting == Ranges(2, ((2, 2), (4, 4)))


async def test_what_the_table_said_is_not_asked_again_because_it_did_not_say_all(world: World) -> None:
    table, now = Slow(world.store.url), datetime.now(UTC)
    copies = [_Copies(now, (1, 10), 1), _Copies(now, (11, 20), 1)]
    async with world.reconciler(table) as reconciler:
        table.fails_from = 11
        for asked in (2, 3):
            assert await reconciler._told_apart(now, copies, whole=True) == Ranges()
            assert table.asked == asked


async def test_copies_are_looked_at_once_but_again_after_a_first_one_was_away_and_only_these_are_remembered(
    tmp_path: Path, store: StoreProcess
) -> None:
    async with nats_server(tmp_path / "nats", sync="default", limits=None) as server, _world(server, store) as world:
        for config in stream_configs(SMALL_LIMITS):
            # Ours refuse it; it does at once what age does in time.
            await world.bus.link.api(f"STREAM.CREATE.{config['name']}", {**config, "deny_purge": False})
        await world.publish([_event(1), _event(2, event_id="e-1"), *(_event(n) for n in range(3, 9))], "m")
        await world.ingest()
        await world.lose("stream_seq = 1")
        table, one = Slow(store.url), Ranges(1, ((2, 2),))
        async with world.reconciler(table) as reconciler:
            assert (await reconciler.check(repair=False)).conflicting == Ranges(), "its first one is away"
            assert (await reconciler.check()).conflicting == one
            asked = table.asked
            assert (await reconciler.check()).conflicting == one
            assert table.asked == asked
            for first, left in ((2, one), (4, Ranges()), (6, Ranges())):
                await world.bus.link.api(f"STREAM.PURGE.{EVENTS_STREAM}", {"seq": first})
                assert (await reconciler.check()).conflicting == left
            assert len(reconciler._conflicts) == 1


@pytest.mark.parametrize("anew", [True, False])
async def test_a_copy_is_hidden_again_after_the_part_with_its_mark_was_set_aside(
    world: World, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    # As if more had been acknowledged since than a check looks back.
    monkeypatch.setattr(reconciler_module, "FIRST_LOOK", 0)
    await world.publish([_event(n) for n in range(1, 6)], "first")
    await world.ingest()
    await world.publish([_event(3)], "copy")
    await world.ingest()
    await _show_copy(world, 6)
    async with _unmerged(world):
        await _hidden_again(world, anew)


async def _hidden_again(world: World, anew: bool) -> None:
    looking = Looking(world.store.url)
    async with world.reconciler(looking) as reconciler:
        assert (await reconciler.check(deep=True)).settled == 1
        assert await _visible(world) == [1, 2, 3, 4, 5]
        ((marked,),) = (await world.table.query("SELECT _part FROM events WHERE duplicate_of != 0")).result_rows
        await world.table.command(f"ALTER TABLE events DETACH PART '{marked}'")
        assert await _visible(world) == [1, 2, 3, 4, 5, 6]
        if not anew:
            assert (await reconciler.check()).settled == 1
            assert (await reconciler.check()).settled == 0
            assert looking.after == [0, 6, 0, 6], "all of it is looked at once more"
    if anew:
        async with world.reconciler() as another:
            assert (await another.check()).settled == 1
    assert await _visible(world) == [1, 2, 3, 4, 5]
    await world.table.command(f"ALTER TABLE events DROP DETACHED PART '{marked}' SETTINGS allow_drop_detached = 1")


@asynccontextmanager
async def _unmerged(world: World) -> AsyncIterator[None]:
    await world.table.command("SYSTEM STOP MERGES events")
    try:
        yield
    finally:
        await world.table.command("SYSTEM START MERGES events")


async def _visible(world: World) -> list[int]:
    found = await world.table.query("SELECT stream_seq FROM events FINAL WHERE duplicate_of = 0 ORDER BY stream_seq")
    return [int(seq) for (seq,) in found.result_rows]


async def _show_copy(world: World, seq: int) -> None:
    """A later copy is visible, as when two workers looked before either inserted."""
    await world.lose(f"stream_seq = {seq}")
    message = await message_at(world.bus.link, EVENTS_STREAM, {"seq": seq})
    assert message is not None
    micros = round(message.time.timestamp() * 1_000_000)
    row = read_row(seq, micros, message.subject, message.payload, redelivered=False)
    writer = Writer(world.store.url)
    # The salt: the store would take it for the worker's insert repeated.
    await writer._insert_plain([row], Target((await world.bus.stream_info()).created, "again"))
    await writer.close()


async def test_dead_letters_and_duplicates_are_dispositions(world: World) -> None:
    await world.publish([_event(1), b"\xff\xff", _event(1), _event(2), b"\x08"], "m")
    await world.ingest()
    async with world.reconciler() as reconciler:
        report = await reconciler.check()
        assert (report.sound, report.rows, report.duplicates, report.dead_letters) == (True, 3, 1, 2)
        assert not report.missing

        # Undecodable bytes whose dead letter is gone as well: they become one again.
        await world.bus.link.api("STREAM.DELETE.ENCHANTED_DEAD_LETTERS")
        await world.bus.ensure_streams(SMALL_LIMITS)
        await world.lose("stream_seq = 3")
        report = await reconciler.check()
        assert report.missing == Ranges(3, ((2, 3), (5, 5)))
        assert (report.sound, report.healed, report.buried, report.duplicates) == (True, 1, 2, 1)
        assert (await reconciler.check()).missing == Ranges()
    letters = await DeadLetters(world.bus).list()
    assert [(letter.original_seq, letter.payload) for letter in letters] == [(2, b"\xff\xff"), (5, b"\x08")]
    assert [letter.original_id for letter in letters] == ["m-1", "m-4"]


async def test_a_row_that_is_a_dead_letter_too_and_rows_above_the_streams_end_are_named(world: World) -> None:
    await world.publish([_event(n) for n in range(5)], "m")
    await world.ingest()
    async for raw in read_range(world.bus.link, EVENTS_STREAM, 2, 2):
        await DeadLetters(world.bus).put(raw, "refused", "by mistake")
    await world.table.command(
        "INSERT INTO events SELECT * REPLACE (stream_seq + 100 AS stream_seq, concat(event_id, 'x') AS event_id) "
        "FROM (SELECT * FROM events WHERE stream_seq < 3)"
    )
    async with world.reconciler() as reconciler:
        report = await reconciler.check()
    assert (report.sound, report.rows, report.dead_letters) == (False, 5, 0)
    assert (report.twofold, report.beyond) == (Ranges(1, ((2, 2),)), Ranges(2, ((101, 102),)))


async def test_two_reconcilers_and_a_worker_at_once_leave_one_row_for_each_message(world: World) -> None:
    await world.publish([_event(n) for n in range(300)], "m")
    await world.ingest()
    await world.lose("stream_seq % 3 = 0")
    await world.publish([_event(n) for n in range(300, 400)], "n")
    async with world.reconciler() as one, world.reconciler() as other:
        await asyncio.gather(world.ingest(), one.check(), other.check())
        report = await one.check()
    assert (report.sound, report.rows) == (True, 400)
    assert await world.seqs() == list(range(1, 401))


async def test_an_agents_missing_numbers_are_named(world: World) -> None:
    numbers = [1, 2, 5, 6, 9]
    await world.publish([_event(n, "agent-1", number) for n, number in enumerate(numbers)], "m")
    await world.publish([_event(100 + n, "agent-2", n) for n in (1, 2, 3)], "n")
    await world.ingest()
    async with world.reconciler() as reconciler:
        report = await reconciler.check()
        assert (report.agents.agents, report.agents.emitted, report.agents.stored) == (2, 12, 8)
        assert report.agents.gaps == (AgentGap("agent-1", 3, 4), AgentGap("agent-1", 7, 8))
        assert not report.sound


async def test_rows_of_a_former_stream_are_named_and_the_new_one_is_compared(world: World) -> None:
    await world.publish([_event(n) for n in range(10)], "m")
    await world.publish([b"\xff"], "dead")
    await world.ingest()
    async with world.reconciler() as reconciler:
        first = await reconciler.check()
        await world.bus.link.api(f"STREAM.DELETE.{EVENTS_STREAM}")
        await world.bus.ensure_streams(SMALL_LIMITS)
        await world.publish([_event(100 + n) for n in range(12)], "n")
        empty = await reconciler.check()
        assert (empty.acknowledged, empty.rows, empty.sound) == (0, 0, True)
        await world.ingest()
        await world.lose(f"stream_created != fromUnixTimestamp64Micro({_micros(first)}) AND stream_seq IN (2, 11)")
        report = await reconciler.check()
    # Sequence 11 was a dead letter of the former stream; here it is a missing row.
    assert report.missing == Ranges(2, ((2, 2), (11, 11)))
    assert (report.sound, report.rows, report.healed) == (True, 12, 2)
    (former,) = report.former_streams
    assert (former.created, former.rows, former.first_seq, former.last_seq) == (first.stream_created, 10, 1, 10)


def _micros(report: Report) -> int:
    return round(report.stream_created.timestamp() * 1_000_000)


async def test_a_hole_in_the_stream_is_named_loudly_and_its_rows_stay(
    tmp_path: Path, store: StoreProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async with nats_server(tmp_path / "nats", sync="default", limits=None) as server, _world(server, store) as world:
        for config in stream_configs(SMALL_LIMITS):
            # Ours refuse deletion; a damaged block does not ask.
            await world.bus.link.api(f"STREAM.CREATE.{config['name']}", {**config, "deny_delete": False})
        await world.publish([_event(n) for n in range(30)], "m")
        await world.ingest()
        for seq in (5, 6, 20):
            await world.bus.link.api(f"STREAM.MSG.DELETE.{EVENTS_STREAM}", {"seq": seq})
        await world.lose("stream_seq IN (6, 7, 20)")
        assert await holes(world.bus.link, EVENTS_STREAM) == [5, 6, 20]
        assert [raw.seq async for raw in read_range(world.bus.link, EVENTS_STREAM, 4, 8)] == [4, 7, 8]
        async with world.reconciler() as reconciler:
            with caplog.at_level(logging.ERROR):
                report = await reconciler.check()
    assert report.stream_gaps == Ranges(3, ((5, 6), (20, 20)))
    assert (report.sound, report.in_stream, report.rows, report.healed) == (False, 27, 28, 1)
    assert "the stream has lost messages 5-6, 20" in caplog.text


class Commands:
    """The command line over a world."""

    def __init__(self, endpoints: Endpoints, capsys: pytest.CaptureFixture[str]) -> None:
        self.endpoints = endpoints
        self._capsys = capsys

    async def run(self, *arguments: str, code: int = 0) -> str:
        ended = await asyncio.to_thread(execute, list(arguments))
        captured = self._capsys.readouterr()
        assert ended == code, captured.err
        return captured.out

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(await self.run(*arguments, "--json", code=code))


@pytest.fixture
def commands(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    nowhere = Path("/nowhere")
    endpoints = Endpoints(
        nats_url=world.server.url, clickhouse_url=world.store.url, api_url="", ray_address="", ray_dashboard_url="",
        token_file=nowhere, home=nowhere,
    )  # fmt: skip
    made = Commands(endpoints, capsys)
    monkeypatch.setattr(data, "_endpoints", lambda: made.endpoints)
    return made


async def test_reconcile_ends_with_0_when_all_are_equal_and_with_1_when_not(world: World, commands: Commands) -> None:
    await world.publish([_event(n) for n in range(20)], "m")
    await world.ingest()
    assert "verdict\tequal\n" in await commands.run("reconcile")
    await world.lose("stream_seq BETWEEN 4 AND 6")
    told = await commands.run("reconcile", "--no-repair", code=1)
    assert "not healed\t3: 4-6" in told
    assert "verdict\tNOT EQUAL" in told
    document = await commands.json("reconcile")
    assert (document["sound"], document["healed"]) == (True, 3)
    assert document["missing"] == {"count": 3, "spans": [[4, 6]]}
    await world.publish([_event(50)], "later")
    assert "verdict\tequal up to 20; 1 messages after it are not acknowledged yet" in await commands.run("reconcile")
    commands.endpoints = replace(commands.endpoints, clickhouse_url=f"http://u:p@127.0.0.1:{free_port()}/default")
    await commands.run("reconcile", code=4)


async def test_dead_letters_are_listed_shown_and_replayed(world: World, commands: Commands) -> None:
    await world.publish([_event(1), b"\xff\x00bad", _event(2)], "m")
    await world.ingest()
    good = _event(3, event_id="mended")
    async for raw in read_range(world.bus.link, EVENTS_STREAM, 3, 3):
        # As one put there by an ingest that could not use what it can use now.
        original = replace(raw, payload=good, headers={"Nats-Msg-Id": "its-own", "Producer": "p"}, seq=900)
        await DeadLetters(world.bus).put(original, "refused", "of old")

    (first, second) = (await commands.json("dead-letters", "list"))["data"]
    assert (first["seq"], first["reason"], first["original_seq"], first["bytes"]) == (1, "undecodable", 2, 5)
    assert (second["original_subject"], second["original_id"]) == (SUBJECT, "its-own")
    assert "refused" in await commands.run("dead-letters", "list", "--after", "1")
    assert "00000000  ff006261 64\n" in await commands.run("dead-letters", "show", "1")
    shown = await commands.json("dead-letters", "show", "2")
    assert (b64decode(shown["payload"]), shown["headers"]) == (good, {"Producer": "p"})
    await commands.run("dead-letters", "show", "77", code=3)

    # The first is within the duplicate window of its own message; nothing ingests the second.
    held, waiting = (await commands.json("dead-letters", "replay", "--wait", "0", code=1))["data"]
    assert (held["outcome"], held["message"]) == ("held already", 2)
    assert (waiting["outcome"], waiting["message"]) == ("not ingested yet", 4)
    await world.ingest()
    (raw,) = [raw async for raw in read_range(world.bus.link, EVENTS_STREAM, 4, 4)]
    assert (raw.payload, raw.subject, raw.headers["Nats-Msg-Id"]) == (good, SUBJECT, "its-own")
    assert 4 in await world.seqs()
    assert "does not exist" in await commands.run("dead-letters", "replay", "77", code=1)


async def test_a_replayed_letter_that_is_dead_again_is_said_to_be(world: World, commands: Commands) -> None:
    async for raw in _made(world, b"\xff", _event(1, event_id="one")):
        await DeadLetters(world.bus).put(replace(raw, headers={}), "refused", "of old")
    async with IngestWorker(nats_url=world.server.url, clickhouse_url=world.store.url) as worker:
        running = asyncio.create_task(worker.run())
        told = await commands.run("dead-letters", "replay", code=1)
        await worker.close()
        await running
    again, ingested = told.splitlines()
    assert again == "letter 1 is message 1 now, and a DEAD LETTER AGAIN: letter 3"
    assert ingested == "letter 2 is message 2 now, and in the table"


async def _made(world: World, *payloads: bytes) -> AsyncIterator[RawMessage]:
    """Messages no stream has any more."""
    created = (await world.bus.stream_info()).created
    for n, payload in enumerate(payloads, 1):
        yield RawMessage(seq=1_000 + n, time=created, subject=SUBJECT, payload=payload, headers={})
