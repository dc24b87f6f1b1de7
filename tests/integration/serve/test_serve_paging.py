"""Pages of events: bounded by bytes where large events follow small ones, with both of two that share a sequence."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast, get_args

import pyarrow.ipc
import pyarrow.parquet
import pytest

from enchanted.bus.streams import StreamInfo
from enchanted.cluster.store.testing import running_store
from enchanted.ingest.rows import row_of
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.writer import Writer
from enchanted.schemas.events import StoredEvent, SwarmEvent, system_signal, tool_call
from enchanted.serve.errors import BadCursor, ServeError, StoreExhausted, StoreSlow, TooMuchAsked
from enchanted.serve.export import data, formats
from enchanted.serve.export.data import ExportQuery, pieces
from enchanted.serve.export.formats import Format, Page, encoder
from enchanted.serve.live import play, stream
from enchanted.serve.live.shared import PIECE, Piece
from enchanted.serve.queries.events import EventQuery, read_page
from enchanted.serve.queries.runs import read_runs
from enchanted.serve.queries.runs_list import list_runs
from enchanted.serve.sources import store as store_module
from enchanted.serve.sources.cursor import Cursor, digest_of
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import PAGE_BYTES, Store

FORMER = datetime(2026, 3, 1, tzinfo=UTC)
PRESENT = datetime(2026, 3, 9, tzinfo=UTC)
AGAIN = (datetime(2026, 3, 10, tzinfo=UTC), datetime(2026, 3, 11, tzinfo=UTC))
"""Two more streams, that one run has events in."""
FORMATS = get_args(Format)
SMALL, LARGE = 600, 70
RUNS = (("new-19", AGAIN[1], 19), ("new-15", AGAIN[1], 15), ("old-90", AGAIN[0], 90), ("old-15", AGAIN[0], 15))
"""Runs that did something, the newest first, with the stream and the sequence of the one event of each."""


@pytest.fixture(scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    """A table of its own, with two streams' events of the same sequences, and a run that grows heavy."""
    async with running_store(tmp_path_factory.mktemp("paging")) as url, Store(url, deadline=60) as store:
        table = await connect(url)
        await apply_ddl(table)
        await table.close()
        writer = Writer(url)
        for created, last in ((FORMER, 7), (PRESENT, 9)):
            for run in range(3):
                await written(writer, created, f"{created.day}-{run}", *range(run + 1, last + 1, 3))
        for created in AGAIN:
            await written(writer, created, "both", *range(1, 6))
        for name, created, seq in RUNS:
            await written(writer, created, name, seq, make=lambda: tool_call(tool="t", arguments={}, outcome="OK"))
        await written(writer, PRESENT, "heavy", *range(1_000, 1_000 + SMALL))
        for seq in range(1_000 + SMALL, 1_000 + SMALL + LARGE, 10):
            await written(writer, PRESENT, "heavy", *range(seq, seq + 10), size=1_000_000)
        await writer.close()
        yield store


async def written(
    writer: Writer, created: datetime, run: str, *seqs: int, size: int = 1, make: Callable[[], SwarmEvent] | None = None
) -> None:
    rows = []
    for seq in seqs:
        event = make() if make else system_signal(status="HEALTHY", detail="x" * size)
        event.event_id, event.run_id = f"{created.day}-{seq}", run
        raw = event.SerializeToString()
        time = created + timedelta(seconds=seq)
        rows.append(row_of(StoredEvent(seq=seq, time=time, subject="s", raw=raw, event=event), redelivered=False))
    done = await writer.write(rows, created, again=False)
    assert done.inserted == len(rows), done.refused


class Counted:
    """An encoder that says what its pages took."""

    def __init__(self, output: Format) -> None:
        self._inner = encoder(output)
        self.sizes = list[int]()
        self.refused = list[ServeError]()

    async def page(self, store: Store, bound: Mapping[str, Any]) -> Page:
        try:
            page = await self._inner.page(store, bound)
        except ServeError as error:
            self.refused.append(error)
            raise
        self.sizes.append(page.size)
        return page

    def end(self) -> bytes:
        return self._inner.end()


async def exported(store: Store, query: ExportQuery, writer: Any = None) -> list[str]:
    """The event ids of an export."""
    body = b"".join([piece async for piece in pieces(store, query, writer or encoder(query.format))])
    if query.format == "ndjson":
        return [json.loads(line)["event_id"] for line in body.splitlines()]
    if query.format == "parquet":
        return list(pyarrow.parquet.read_table(io.BytesIO(body)).column("event_id").to_pylist())
    return list(pyarrow.ipc.open_stream(body).read_all().column("event_id").to_pylist())


@pytest.mark.parametrize("output", FORMATS)
async def test_no_page_of_an_export_is_larger_than_its_bytes_where_large_events_follow_small_ones(
    store: Store, output: Format
) -> None:
    writer = Counted(output)
    ids = await exported(store, ExportQuery(run="heavy", format=output), writer)
    assert ids == [f"9-{seq}" for seq in range(1_000, 1_000 + SMALL + LARGE)]
    assert max(writer.sizes) <= PAGE_BYTES
    assert len(writer.sizes) < LARGE, "a page is not one event"


async def test_an_export_goes_on_with_smaller_pages_where_large_ones_take_longer_than_the_deadline(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FIRST_PAGE", 20)
    asked, read = list[int](), Store.rows

    async def slow(self: Store, name: str, **parameters: Any) -> list[dict[str, Any]]:
        if name == "events_page":
            asked.append(parameters["limit"])
            if parameters["limit"] > 100:
                raise StoreSlow(15)
        return await read(self, name, **parameters)

    monkeypatch.setattr(Store, "rows", slow)
    ids = await exported(store, ExportQuery(run="heavy"))
    assert len(ids) == len(set(ids)) == SMALL + LARGE
    assert max(asked) > 100

    monkeypatch.setattr(data, "FIRST_PAGE", 400)
    with pytest.raises(StoreSlow):
        await exported(store, ExportQuery(run="heavy"))


@pytest.mark.parametrize("output", FORMATS)
async def test_a_page_that_takes_the_store_too_much_memory_is_read_in_smaller_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch, output: Format
) -> None:
    monkeypatch.setitem(formats._MOST, "most_memory", 80_000_000)
    writer = Counted(output)
    ids = await exported(store, ExportQuery(run="heavy", format=output), writer)
    assert len(ids) == len(set(ids)) == SMALL + LARGE
    assert any("memory" in str(error) for error in writer.refused if isinstance(error, StoreExhausted))


async def test_an_event_that_alone_is_too_large_ends_an_export(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    async def never(_: Store, bound: Mapping[str, Any]) -> Page:
        asked.append(bound["limit"])
        raise TooMuchAsked("it has a gigabyte")

    writer = encoder("ndjson")
    monkeypatch.setattr(writer, "page", never)
    with pytest.raises(TooMuchAsked):
        await exported(store, ExportQuery(run="heavy"), writer)
    assert asked == [100, 25, 6, 1]


def every(last: int = 9) -> list[str]:
    """The light events up to a sequence in stream order: of two with one sequence the older one first."""
    return [name for seq in range(1, last + 1) for name in (f"1-{seq}", f"9-{seq}") if name[0] == "9" or seq <= 7]


async def paged(store: Store, **query: Any) -> list[list[str]]:
    """The event ids of each page."""
    pages, cursor = list[list[str]](), None
    while True:
        page = await read_page(store, EventQuery(**query, cursor=cursor))
        pages.append([event["event_id"] for event in page["data"]])
        cursor = page["meta"]["cursor"]
        if cursor is None:
            return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_a_page_that_ends_between_two_events_of_one_sequence_hides_neither(store: Store, limit: int) -> None:
    until = PRESENT + timedelta(minutes=1)
    forwards = await paged(store, until=until, limit=limit)
    assert [name for page in forwards for name in page] == every()
    backwards = await paged(store, until=until, limit=limit, before=900)
    assert [name for page in reversed(backwards) for name in page] == every()
    assert all(len(page) <= limit for page in forwards + backwards)
    inside = await paged(store, until=until, limit=limit, after=2, before=5)
    assert [name for page in inside for name in page] == ["1-3", "9-3", "1-4", "9-4"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("output", FORMATS)
async def test_an_export_has_both_events_of_one_sequence_wherever_its_pages_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, output: Format, size: int
) -> None:
    monkeypatch.setattr(data, "FIRST_PAGE", size)
    monkeypatch.setattr(data, "next_size", lambda *_: size)
    until = PRESENT + timedelta(minutes=1)
    assert await exported(store, ExportQuery(until=until, format=output)) == every()
    # The last sequence of all is a shared one.
    until = PRESENT + timedelta(seconds=7.5)
    assert await exported(store, ExportQuery(until=until, format=output)) == every(7)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_who_reads_a_whole_run_gets_both_events_of_one_sequence_wherever_pages_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for place in (store_module, stream):
        monkeypatch.setattr(place, "PAGE", size)
    monkeypatch.setattr(play, "FIRST", size)
    monkeypatch.setattr(play, "PAGE", size)
    deps = cast("Dependencies", SimpleNamespace(store=store, max_streams=1, max_plays=1))
    both = [f"{created.day}-{seq}" for seq in range(1, 6) for created in AGAIN]
    assert [row.event_id async for row in store.run_events("both")] == both
    assert [row.event_id async for row in play._rows(deps, {"run_id": "both", "last_seq": 5}, 0)] == both
    pieces = stream.Streams(deps)._from_table(stream.LiveQuery(run="both"), 0, 6)
    told = [json.loads(document)["event_id"] async for piece in pieces for _, document in piece.events]
    assert told == both


async def test_a_live_client_that_catches_up_from_the_table_is_told_in_pieces(store: Store) -> None:
    deps = cast("Dependencies", SimpleNamespace(store=store, max_streams=1, max_plays=1))
    told = stream.Streams(deps)._from_table(stream.LiveQuery(run="heavy"), 0, 2_000)
    pieces = [piece.events async for piece in told]
    assert [seq for piece in pieces for seq, _ in piece] == list(range(1_000, 1_000 + SMALL + LARGE))
    assert max(sum(len(document) for _, document in piece[:-1]) for piece in pieces) < PIECE
    assert len(pieces) < SMALL, "a piece is not one event"


@pytest.mark.parametrize("run", ["nowhere-yet", "heavy"])
async def test_a_live_client_of_a_run_skips_nothing_though_a_former_stream_was_longer(
    store: Store, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    info = StreamInfo(created=AGAIN[1], first_seq=1, last_seq=25, messages=25, bytes=0)

    async def stream_info() -> StreamInfo:
        return info

    async def ends_of_run(_: str) -> None:
        """As of a producer without runs: no subject is the run's."""

    monkeypatch.setattr(stream, "LAG", 0)
    bus = SimpleNamespace(stream_info=stream_info, ends_of_run=ends_of_run)
    deps = cast("Dependencies", SimpleNamespace(store=store, bus=bus, max_streams=1, max_plays=1))
    async with aclosing(await stream.Streams(deps).begin(stream.LiveQuery(run=run), 0)) as pieces:
        assert await anext(pieces) == Piece(seen=19), "the last that the table has of this stream"


async def listed(store: Store, limit: int) -> list[list[str]]:
    """The ids of each page of runs."""
    deps = cast("Dependencies", SimpleNamespace(store=store))
    pages, cursor = list[list[str]](), None
    while True:
        page = json.loads((await list_runs(deps, cursor, limit)).body)
        pages.append([run["run_id"] for run in page["data"]])
        cursor = page["meta"]["cursor"]
        if cursor is None:
            return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_runs_are_listed_newest_first_and_none_is_lost_though_a_later_stream_counts_anew(
    store: Store, limit: int
) -> None:
    pages = await listed(store, limit)
    assert [name for page in pages for name in page] == [name for name, _, _ in RUNS]
    assert {len(page) for page in pages[:-1]} <= {limit}


async def test_one_run_is_found_whenever_it_began(store: Store) -> None:
    for name in ("old-15", "new-19", "heavy"):
        assert [run["run_id"] for run in await read_runs(store, run=name)] == [name]


async def test_a_cursor_that_names_no_time_is_refused_by_the_list_of_runs(store: Store) -> None:
    deps = cast("Dependencies", SimpleNamespace(store=store))
    with pytest.raises(BadCursor):
        await list_runs(deps, Cursor(order="d", seq=15, digest=digest_of("runs")).encode(), 1)
