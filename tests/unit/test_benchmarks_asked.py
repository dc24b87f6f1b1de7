"""What `query` and `live` count, and how they state it."""

from __future__ import annotations

import asyncio
import random
from array import array
from typing import Any

import pytest

from enchanted.benchmarks import live, query
from enchanted.benchmarks.asked import QUESTIONS, deep, sql, word
from enchanted.benchmarks.case import Result
from enchanted.benchmarks.listeners import Listener, address, opening, text_frame
from enchanted.serve.queries.events import EventQuery
from enchanted.serve.sources.cursor import Cursor, digest_of


class _Wire(asyncio.Transport):
    def write(self, _: bytes | bytearray | memoryview) -> None:
        """To nobody."""


def _taken(ms: float) -> query.Taken:
    return query.Taken(asked=[[ms] * 20], bare=[[ms / 2] * 20])


def test_growth_is_the_slope_from_the_smallest_to_the_largest_size() -> None:
    sizes = {size: dict.fromkeys(QUESTIONS, _taken(10 + size / 1e6)) for size in (1_000_000, 3_000_000, 10_000_000)}

    rows = query.rows(sizes)
    shown = {row["name"]: row for row in Result(benchmark="b", question="q", rows=tuple(rows)).as_dict()["rows"]}

    assert shown["by trace: growth"]["median"] == pytest.approx(1.0)
    assert shown["by trace: p95"]["within"] is True
    assert shown["by trace: p50"]["ratio"] == 2.0
    assert shown["by trace: above the query, p50"]["median"] == 10.0
    assert "an agent's statistics, 30 days: above the query, p50" not in shown


def test_a_simple_read_has_its_budget_where_it_goes_through_ray_serve() -> None:
    def shown(ms: float) -> dict[str, Any]:
        rows = query.serve_rows({"by trace": _taken(ms)})
        document = Result(benchmark="b", question="q", rows=tuple(rows)).as_dict()
        return next(row for row in document["rows"] if row["name"].endswith("above the query, p50"))

    assert (shown(19)["median"], shown(19)["budget"], shown(19)["within"]) == (9.5, 10.0, True)
    assert shown(22)["within"] is False
    assert set(query.SIMPLE) == {name for name, question in QUESTIONS.items() if question.simple} != set()


def test_the_sizes_of_a_full_run_end_with_what_is_asked_for() -> None:
    assert query.full(10_000_000).sizes == (1_000_000, 3_000_000, 10_000_000)
    reduced = query.full(50_000)

    assert reduced.events + query.REVERTED + 2 * reduced.questions < reduced.sizes[0]


def test_a_deep_cursor_is_one_the_api_takes() -> None:
    cursor = Cursor.decode(deep("run-1", 77), digest_of(EventQuery(run="run-1").filters()))

    assert (cursor.order, cursor.seq) == ("a", 77)


def test_a_statement_is_filled_with_the_key() -> None:
    request = sql("SELECT 1 WHERE run = '{run}'").request({"run": "r-1", "more": 2})

    assert (request.method, request.resource) == ("POST", "sql")
    assert request.more["json"]["query"] == "SELECT 1 WHERE run = 'r-1'"


def test_a_word_is_drawn_from_those_of_the_load() -> None:
    assert word(random.Random(1)) == word(random.Random(1))


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_a_listener_counts_each_event_once_however_the_bytes_are_cut(size: int) -> None:
    listener = Listener("SSE", "h", 3)
    listener.connection_made(_Wire())
    raw = b"HTTP/1.1 200 OK\r\n\r\nretry: 1000\n\n" + b"".join(b'id: %d\ndata: {"a":1}\n\n' % n for n in range(3))

    for start in range(0, len(raw), size):
        listener.data_received(raw[start : start + size])

    assert len(listener.arrived) == 3
    assert listener.done.is_set()


def test_a_client_without_every_event_fails_the_benchmark() -> None:
    times = array("d", [1.0, 2.0, 3.0, 4.0])

    assert [list(one) for one in live.arrivals(times.tobytes(), [2, 2], 2)] == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(RuntimeError, match="1 of 2 clients"):
        live.arrivals(times.tobytes(), [2, 1], 2)


def test_freshness_is_from_the_handing_over_in_the_order_of_the_stream() -> None:
    assert live.latencies([1.0, 2.0, 3.0], [[1.5, 2.25, 3.125], [1.5, 2.5, 3.5]], 1) == [250.0, 125.0, 500.0, 500.0]


def test_a_short_text_is_one_masked_frame() -> None:
    assert text_frame("ab") == b"\x81\x82\0\0\0\0ab"
    with pytest.raises(ValueError, match="another head"):
        text_frame("x" * 126)
    assert opening("SSE", "h:1").endswith(b"\r\n\r\n")
    assert address("http://127.0.0.1:81") == ("127.0.0.1", 81)
