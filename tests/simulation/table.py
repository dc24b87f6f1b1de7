"""The table as Writer and reconciler see it: inserts with tokens, look-ups, answers that are lost, rows that go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from enchanted.bus.connection import Bus
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.ingest.errors import RowRefused, TableUnavailable
from enchanted.ingest.ranges import Span
from enchanted.ingest.reconcile_report import Agents, FormerStream
from enchanted.ingest.reconcile_table import Block, Table
from enchanted.ingest.rows import Row
from enchanted.ingest.scrub import Look, Scrubber
from enchanted.ingest.scrub_parts import Extent
from enchanted.ingest.scrub_report import DamagedPart, Scrub
from enchanted.ingest.writer import Target, Writer, token
from enchanted.schemas.events import parse_event
from tests.simulation.loop import OUTSIDE, PROCESS, Process, SimulatedLoop

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PATIENCE = 35.0
"""Seconds a client waits for an answer."""
LATEST = 30.0
"""Seconds after which no insert is applied any more: the server's max_execution_time."""
UNDECODABLE = b"\xff\xff\xff"
"""Protobuf rejects what begins like this."""
REFUSED_PLAIN = b"the table does not read this by itself"
REFUSED = b"the table takes this in no way"


@dataclass(frozen=True, slots=True)
class Kept:
    """A row in the table."""

    seq: int
    event_id: str
    sha256: str
    raw: bytes
    time: datetime
    duplicate_of: int
    agent_id: str
    agent_seq: int


@dataclass(slots=True, eq=False)
class _Insert:
    """One INSERT on its way; its client may be gone before it is applied."""

    rows: list[Kept]
    token: str
    kind: str
    answer: asyncio.Future[None]
    process: Process | None
    query_id: str

    @property
    def alone(self) -> bool:
        return self.answer.done() or (self.process is not None and self.process.dead)

    def confirm(self) -> None:
        if not self.alone:
            self.answer.set_result(None)

    def break_off(self) -> None:
        if not self.alone:
            self.answer.set_exception(TableUnavailable("simulated: the answer is lost"))


class SimulatedTable:
    """What is confirmed is safe; what is not confirmed may be in, may come in late, or not at all."""

    def __init__(self, loop: SimulatedLoop, chance: Random) -> None:
        self._loop = loop
        self._chance = chance
        self.rows: dict[int, Kept] = {}
        """By sequence; the last insert of one sequence counts, as after a merge."""
        self.copies: dict[int, int] = {}
        """How often a sequence was inserted."""
        self.late: set[int] = set()
        """Sequences of inserts that were applied after their client had given up."""
        self.overtaken: set[int] = set()
        """Sequences of rows inserted again as copies of an earlier message."""
        self.twice_for_a_while = False
        """Whether an event may be visible twice until the reconciler has looked."""
        self.up = True
        self.over = False
        self.visible: dict[str, set[int]] = {}
        self.damaged: set[str] = set()
        """Ids of events of which a row was lost. Known not to hold for them: while the reconciler writes such a row
        again, the worker may insert a copy that it looked up before."""
        self._tokens: set[str] = set()
        self._under_way: dict[_Insert, None] = {}
        self._inserts = 0
        self.fault: Callable[[str], str] = lambda _: ""
        """Asked before each statement: what goes wrong with it."""
        self.note: Callable[..., None] = lambda *_: None

    async def insert(self, rows: Sequence[Row], target: Target, way: str) -> None:
        """One INSERT, as the client sees it."""
        kind = self.fault("insert")
        await self._pass(kind)
        marks = [REFUSED, REFUSED_PLAIN] if way == "plain" else [REFUSED]
        if any(mark in row.raw for row in rows for mark in marks):
            raise RowRefused("simulated: cannot parse")
        kept = [_kept(row) for row in rows]
        self._inserts += 1
        answer, process = self._loop.create_future(), PROCESS.get(None)
        insert = _Insert(kept, token(rows, target), kind, answer, process, f"insert-{self._inserts}")
        self._under_way[insert] = None
        seconds = self._seconds(kind, LATEST)
        self._loop.call_later(seconds, self._arrive, insert, context=OUTSIDE)
        if kind == "adrift":
            self._loop.call_later(seconds * self._chance.random(), insert.break_off, context=OUTSIDE)
        try:
            async with asyncio.timeout(PATIENCE):
                await insert.answer
        except TimeoutError as error:
            raise TableUnavailable("simulated: no answer in time") from error

    async def ask(self, what: str, query: Callable[[], Any]) -> Any:
        """One SELECT."""
        kind = self.fault(what)
        await self._pass(kind)
        await asyncio.sleep(self._seconds(kind, 10.0))
        if kind == "lost answer" or not self.up:
            raise TableUnavailable("simulated: the answer is lost")
        found = query()
        await asyncio.sleep(0.0002)
        return found

    @property
    def busy(self) -> bool:
        """Whether an insert is under way, waited for or not."""
        return bool(self._under_way)

    @property
    def under_way(self) -> list[tuple[str]]:
        """The query ids of inserts that are not over."""
        return [(insert.query_id,) for insert in self._under_way]

    def kill(self) -> None:
        """What is under way may be in, its answer is lost."""
        self.up = False
        for insert in list(self._under_way):
            if self._chance.random() < 0.5:
                self._apply(insert)
            insert.break_off()
        self._under_way.clear()

    def lose(self, share: float) -> list[int]:
        """A part of the table goes, with all copies of its rows."""
        lost = [seq for seq in self.rows if self._chance.random() < share]
        for seq in lost:
            self.damaged.add(self.rows[seq].event_id)
            self._hide(self.rows.pop(seq))
        return lost

    async def _pass(self, kind: str) -> None:
        await asyncio.sleep(0.0005 + 0.002 * self._chance.random())
        if not self.up or self.over or kind == "refused":
            raise TableUnavailable("simulated: it is away")

    def _seconds(self, kind: str, longest: float) -> float:
        usual = 0.001 + 0.01 * self._chance.random()
        return self._chance.uniform(0.1, longest) if kind in ("slow", "adrift") else usual

    def _arrive(self, insert: _Insert) -> None:
        if insert not in self._under_way:
            return
        del self._under_way[insert]
        if insert.kind != "never":
            self._apply(insert)
        seconds = 0.001 + 0.003 * self._chance.random()
        end = insert.break_off if insert.kind in ("never", "lost answer") else insert.confirm
        self._loop.call_later(seconds, end, context=OUTSIDE)

    def _apply(self, insert: _Insert) -> None:
        if insert.token in self._tokens:
            return
        self._tokens.add(insert.token)
        self.note("insert", [row.seq for row in insert.rows], [row.duplicate_of for row in insert.rows])
        # A reader sees all of them or none, so what they hide is hidden before what they show.
        for row in sorted(insert.rows, key=lambda row: row.duplicate_of == 0):
            self._keep(row, late=insert.alone)

    def _keep(self, row: Kept, *, late: bool) -> None:
        seq = row.seq
        if seq in self.rows:
            self._hide(self.rows[seq])
            if row.duplicate_of and row.duplicate_of != self.rows[seq].duplicate_of:
                self.overtaken.add(seq)
        self.rows[seq] = row
        self.copies[seq] = self.copies.get(seq, 0) + 1
        if late:
            self.late.add(seq)
        if row.duplicate_of == 0 and row.event_id:
            shown = self.visible.setdefault(row.event_id, set())
            shown.add(seq)
            if len(shown) > 1 and row.event_id not in self.damaged and not self.twice_for_a_while:
                raise AssertionError(f"a reader sees event {row.event_id} at {sorted(shown)}")

    def _hide(self, row: Kept) -> None:
        if row.duplicate_of == 0 and row.event_id:
            self.visible[row.event_id].discard(row.seq)


def _kept(row: Row) -> Kept:
    event = parse_event(row.raw)
    return Kept(row.seq, row.event_id, row.sha256, row.raw, row.time, row.duplicate_of, event.agent_id, event.agent_seq)


class SimulatedWriter(Writer):
    """Writer with its three ways to ClickHouse replaced: one query, two kinds of insert."""

    def __init__(self, table: SimulatedTable) -> None:
        super().__init__("http://127.0.0.1:8123")
        self._table = table

    async def _insert_plain(self, rows: Sequence[Row], target: Target) -> None:
        await self._table.insert(rows, target, "plain")

    async def _insert_values(self, rows: Sequence[Row], target: Target) -> None:
        await self._table.insert(rows, target, "values")

    async def _query(self, sql: str, parameters: Any = None, settings: Any = None) -> Sequence[Sequence[Any]]:
        table = self._table
        if "system.processes" in sql:
            return list(await table.ask("under way", lambda: table.under_way))
        if "max(stream_seq)" in sql:
            wanted = 2 if "max(stream_time)" in sql else 1
            return list(await table.ask("highest", lambda: [_highest(table)[:wanted]]))
        if "event_id >=" in sql:
            return list(await table.ask("young", lambda: _young(table, parameters)))
        if "stream_seq IN" in sql:
            found = await table.ask("present", lambda: _present(table, parameters))
            return list(found)
        if "hex(raw)" in sql:
            ids = _ids_of(sql, parameters)
            return list(await table.ask("visible copies", lambda: _visible_copies(table, ids)))
        if "min((stream_created" in sql:
            ids = _ids_of(sql, parameters)
            return list(await table.ask("copies", lambda: _first_copies(table, ids, parameters["created"])))
        raise AssertionError(f"the simulated table does not know {sql}")


def _highest(table: SimulatedTable) -> tuple[int, int]:
    newest = max((row.time for row in table.rows.values()), default=_EPOCH)
    return max(table.rows, default=0), (newest - _EPOCH) // timedelta(microseconds=1)


def _young(table: SimulatedTable, parameters: dict[str, Any]) -> list[tuple[str]]:
    ids = sorted({row.event_id for row in table.rows.values()})
    young = [(one,) for one in reversed(ids) if one >= parameters["oldest"] and one[14:15] == "7"]
    return young[: parameters["limit"]]


def _present(table: SimulatedTable, bounds: dict[str, Any]) -> list[tuple[int]]:
    first, last = bounds["first"], bounds["last"]
    return [(seq,) for seq in bounds["seqs"] if seq in table.rows and first <= table.rows[seq].time <= last]


def _ids_of(sql: str, parameters: Any) -> set[str]:
    if "ids" in parameters:
        return set(parameters["ids"])
    return set(sql.split("materialize('")[1].split("')")[0].split("\n"))


def _first_copies(table: SimulatedTable, ids: set[str], created: datetime) -> list[tuple[str, tuple[Any, ...], int]]:
    seen: dict[str, list[Kept]] = {}
    for row in table.rows.values():
        if row.duplicate_of == 0 and row.event_id in ids:
            seen.setdefault(row.event_id, []).append(row)
    found = []
    for event_id, rows in seen.items():
        first = min(rows, key=lambda row: row.seq)
        found.append((event_id, (created, first.seq, first.sha256), max(row.seq for row in rows)))
    return found


def _visible_copies(table: SimulatedTable, ids: set[str]) -> list[tuple[int, int, str, str, str]]:
    return [
        (row.seq, (row.time - _EPOCH) // timedelta(microseconds=1), "", row.raw.hex(), row.sha256)
        for row in table.rows.values()
        if row.event_id in ids and row.duplicate_of == 0
    ]


class SimulatedCounts(Table):
    """What the reconciler asks of the table."""

    def __init__(self, table: SimulatedTable) -> None:
        super().__init__("http://127.0.0.1:8123")
        self._table = table

    async def blocks(self, created: datetime, first: int, last: int, size: int) -> dict[int, Block]:
        def counted() -> dict[int, Block]:
            blocks: dict[int, Block] = {}
            for seq, row in self._table.rows.items():
                if first <= seq <= last:
                    was = blocks.get(seq // size, Block())
                    blocks[seq // size] = Block(was.rows + 1, was.duplicates + (row.duplicate_of != 0))
            return blocks

        return dict(await self._table.ask("blocks", counted))

    async def sequences(self, created: datetime, first: int, last: int) -> list[int]:
        return list(
            await self._table.ask("sequences", lambda: sorted(s for s in self._table.rows if first <= s <= last))
        )

    async def among(self, created: datetime, seqs: Sequence[int]) -> list[int]:
        return list(await self._table.ask("among", lambda: [seq for seq in seqs if seq in self._table.rows]))

    async def conflicting(self, created: datetime, first: int, last: int) -> list[int]:
        # Only told, and acted upon by nobody; so it takes no time and meets no fault.
        firsts = {row.event_id: row.sha256 for _, row in sorted(self._table.rows.items(), reverse=True)}
        rows = sorted(self._table.rows.items())
        return [s for s, row in rows if first <= s <= last and row.duplicate_of and row.sha256 != firsts[row.event_id]]

    async def above(self, created: datetime, last: int) -> list[int]:
        return list(await self._table.ask("above", lambda: sorted(s for s in self._table.rows if s > last)))

    async def visible_twice(self, created: datetime, after: int, last: int = 0) -> list[str]:
        def counted() -> list[str]:
            seqs = (
                (event_id, [seq for seq in shown if seq > after]) for event_id, shown in self._table.visible.items()
            )
            return [event_id for event_id, above in seqs if len(above) > 1]

        return list(await self._table.ask("visible twice", counted))

    async def former_streams(self, created: datetime) -> tuple[FormerStream, ...]:
        return ()

    async def agents(self, created: datetime, last: int) -> Agents:
        return Agents()


class SimulatedScrubber(Scrubber):
    """Finds no damage: files that rot are not simulated, tests/chaos/test_corruption.py damages real ones."""

    def __init__(self, bus: Bus) -> None:
        super().__init__("http://127.0.0.1:8123", bus, EVENTS_STREAM)

    async def step(self, look: Look, seconds: float) -> bool:
        return False

    async def all_parts(self) -> bool:
        return False

    async def deal(self, extent: Extent, *, repair: bool) -> list[DamagedPart]:
        return []

    async def report(self, look: Look, parts: list[DamagedPart], dead: Sequence[Span]) -> Scrub:
        return Scrub()
