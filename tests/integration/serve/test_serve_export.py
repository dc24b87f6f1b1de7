"""Exports: whole, once, in stream order, made while they are sent, ended when nobody reads."""

from __future__ import annotations

import asyncio
import io
import json
from base64 import b64decode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.ipc
import pyarrow.parquet
import pytest

from enchanted.cluster.cli import execute
from enchanted.schemas.canonical import sha256_hex
from enchanted.serve.errors import StoreUnavailable
from enchanted.serve.export import data, html
from enchanted.serve.export.data import next_size
from enchanted.serve.guard.auth import Access
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, served


async def _exported(world: World, **what: Any) -> bytes:
    response = await world.get("export", **what)
    assert response.status_code == 200, response.text
    return response.content


async def _every(world: World, run: str) -> list[dict[str, Any]]:
    return list((await world.document("events", run=run, limit=1_000))["data"])


def _table(body: bytes, output: str) -> Any:
    if output == "parquet":
        return pyarrow.parquet.read_table(io.BytesIO(body))
    return pyarrow.ipc.open_stream(body).read_all()


async def test_lines_are_the_documents_of_a_page_of_events(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FIRST_PAGE", 3)

    body = await _exported(world, run=history.run)

    assert [json.loads(line) for line in body.splitlines()] == await _every(world, history.run)


@pytest.mark.parametrize("output", ["arrow", "parquet"])
async def test_a_table_holds_every_event_once_in_stream_order_and_its_bytes(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setattr(data, "FIRST_PAGE", 3)

    table = _table(await _exported(world, run=history.run, format=output), output)

    assert table.column("seq").to_pylist() == [stored.seq for stored in history.events]
    assert [b64decode(text) for text in table.column("raw_base64").to_pylist()] == [s.raw for s in history.events]
    assert table.column("sha256").to_pylist() == [sha256_hex(stored.raw) for stored in history.events]
    assert str(table.schema.field("stream_time").type) == "timestamp[us, tz=UTC]"


@pytest.mark.parametrize("output", ["ndjson", "arrow", "parquet"])
async def test_a_time_without_events_is_a_whole_and_empty_file(world: World, history: History, output: str) -> None:
    body = await _exported(world, until="2020-01-01T00:00:00Z", format=output)

    if output == "ndjson":
        assert body == b""
    else:
        assert _table(body, output).num_rows == 0
        assert _table(body, output).schema.names[0] == "seq"


async def test_without_a_run_every_runs_events_come_in_stream_order(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FIRST_PAGE", 7)
    moment = (await _every(world, history.run))[5]["stream_time"]

    seqs = [json.loads(line)["seq"] for line in (await _exported(world)).splitlines()]
    later = [json.loads(line)["seq"] for line in (await _exported(world, since=moment)).splitlines()]

    ((stored,),) = (await world.table.query("SELECT count() FROM events FINAL WHERE duplicate_of = 0")).result_rows
    assert seqs == sorted(set(seqs))
    assert len(seqs) == stored
    assert later == [seq for seq in seqs if seq >= later[0]]
    assert history.events[5].seq in later
    assert history.events[4].seq not in later


async def test_a_later_copy_of_an_event_is_not_exported(world: World, history: History) -> None:
    copies = (await world.table.query("SELECT count() FROM events FINAL WHERE duplicate_of != 0")).result_rows[0][0]
    ids = [json.loads(line).get("event_id") for line in (await _exported(world)).splitlines()]

    named = [one for one in ids if one]
    assert len(named) == len(set(named)), copies


async def test_a_run_that_is_not_there_is_said_before_the_first_byte(world: World) -> None:
    response = await world.get("export", run="nobody")

    assert (response.status_code, response.json()["code"]) == (404, "run-not-found")


async def test_a_client_that_goes_away_ends_the_export(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FIRST_PAGE", 1)
    monkeypatch.setattr(data, "next_size", lambda *_: 1)
    pages, stopped = 0, asyncio.Event()
    read = Store.events

    async def held(store: Store, name: str, **parameters: object) -> Any:
        nonlocal pages
        pages += 1
        if pages == 1:
            return await read(store, name, **parameters)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    monkeypatch.setattr(Store, "events", held)
    async with world.http.stream("GET", "/api/v1/export", params={"run": history.run}) as response:
        first = await anext(response.aiter_raw())
    assert json.loads(first.splitlines()[0])["seq"] == history.events[0].seq

    await asyncio.wait_for(stopped.wait(), 10)
    assert pages == 2


async def test_an_export_that_breaks_off_does_not_end_as_a_whole_one(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FIRST_PAGE", 1)
    monkeypatch.setattr(data, "next_size", lambda *_: 1)
    read, asked = Store.events, 0

    async def failing(store: Store, name: str, **parameters: object) -> Any:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise StoreUnavailable("gone")
        return await read(store, name, **parameters)

    monkeypatch.setattr(Store, "events", failing)
    with pytest.raises(httpx.RemoteProtocolError):
        await world.get("export", run=history.run)


async def test_a_client_that_takes_nothing_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = asyncio.Event()

    async def endless(*_: object) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 1_000_000
        finally:
            stopped.set()

    monkeypatch.setattr(data, "pieces", endless)
    deps = Dependencies(
        store=Store(world.store_url),
        bus=BusLink(world.nats.url),
        access=Access(token="t"),
        cache=world.folder / "cache",
        slow_client=0.3,
    )
    async with (
        served(deps) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer t"}, timeout=30) as http,
        http.stream("GET", "/api/v1/export") as response,
    ):
        assert response.status_code == 200
        await asyncio.wait_for(stopped.wait(), 10)


def test_pages_grow_to_their_bytes_and_shrink_with_large_events() -> None:
    assert next_size(100, 100, 40_000) == 400
    assert next_size(4_000, 4_000, 1_600_000) == data.MAX_PAGE
    assert next_size(4_000, 4_000, 4_000_000_000) == data.SMALLEST_PAGE
    assert next_size(100, 0, 0) == 400


async def test_no_html_file_is_begun_of_a_run_that_the_table_has_nothing_of_yet(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_the_stream(deps: Dependencies, _: str) -> dict[str, Any]:
        return await find_run(deps, history.run)

    monkeypatch.setattr(html, "find_run", in_the_stream)
    answer = await world.get("runs/run-just-begun/export.html")
    assert (answer.status_code, answer.json()["code"]) == (404, "run-not-found")


async def test_a_run_is_one_html_file_that_cannot_act_and_an_unknown_one_is_a_problem(
    world: World, history: History, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await world.get(f"runs/{history.run}/export.html")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"] == f'attachment; filename="{history.run}.html"'
    assert answer.text.startswith("<!doctype html>")
    assert answer.text.rstrip().endswith("</html>")
    assert answer.text.count("<article") == len(history.events)
    missing = await world.get("runs/nobody/export.html")
    assert (missing.status_code, missing.json()["code"]) == (404, "run-not-found")

    async def written(*arguments: str) -> int:
        access = ["--url", world.url, "--token-file", str(world.token_file)]
        return await asyncio.to_thread(execute, ["export", *arguments, *access])

    file = tmp_path / "run.html"
    assert await written(history.run, "--html", str(file)) == 0
    assert file.read_text() == answer.text
    assert await written("nobody", "--html", str(tmp_path / "none.html")) == 3
    assert await written("--html", str(tmp_path / "none.html")) == 2
    assert await written(history.run, "--html", str(tmp_path / "no folder" / "run.html")) == 2
    for more in (("--format", "ndjson"), ("-o", str(tmp_path / "x")), ("--since", "2020-01-01T00:00:00Z")):
        assert await written(history.run, "--html", str(tmp_path / "more.html"), *more) == 2
    assert sorted(await asyncio.to_thread(lambda: [one.name for one in tmp_path.iterdir()])) == ["run.html"]
    assert capfd.readouterr().out == ""
