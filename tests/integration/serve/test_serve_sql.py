"""`POST /sql`: what is answered, what is refused, and that nothing gets beyond the tables."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from enchanted.serve.guard.auth import Access
from enchanted.serve.queries.query import MAX_ANSWER
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, served
from enchanted.serve.testing_sql import ALONE, Canary, attacks, plain_attacks

SECRET = "the canary's secret"
ATTACKS = 10_000
SAMPLE = 300
SEED = 20261128
HARMLESS = re.compile(r"\b(IN |in\(1, |nullIn\(1, )'")
"""A text in quotes after IN is a text."""


@dataclass
class Watched:
    """A canary, and what came near it."""

    canary: Canary
    came: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody connected."""

    def files(self) -> dict[str, bytes]:
        """The canary's folder as it is."""
        return {path.name: path.read_bytes() for path in self.canary.folder.rglob("*") if path.is_file()}

    @property
    def untouched(self) -> bool:
        return not self.came.is_set() and self.files() == {"secret.txt": SECRET.encode()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret.txt").write_text(SECRET)
    return canary


@pytest.fixture
async def watched(folder: Path) -> AsyncIterator[Watched]:
    came = asyncio.Event()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        writer.close()

    server = await asyncio.start_server(connected, ALONE, 0)
    async with server:
        yield Watched(Canary(folder=folder, port=server.sockets[0].getsockname()[1]), came)


async def _ask(world: World, query: str, **rest: Any) -> httpx.Response:
    return await world.http.post("/api/v1/sql", json={"query": query, **rest})


async def _rows(world: World, query: str, **rest: Any) -> list[list[Any]]:
    response = await _ask(world, query, **rest)
    assert response.status_code == 200, response.text
    return list(response.json()["rows"])


async def test_one_select_is_answered_with_columns_rows_and_how_it_went(world: World, history: History) -> None:
    response = await _ask(
        world, f"SELECT kind, count() AS n FROM events_list WHERE run = '{history.run}' GROUP BY kind ORDER BY kind;"
    )

    document = response.json()
    assert document["columns"] == [{"name": "kind", "type": "LowCardinality(String)"}, {"name": "n", "type": "UInt64"}]
    kinds = [stored.event.WhichOneof("payload") for stored in history.events]
    assert document["rows"] == [[kind, kinds.count(kind)] for kind in sorted(set(kinds))]
    assert document["meta"]["truncated"] is False
    assert 0 < document["meta"]["elapsed_ms"] < 10_000


async def test_more_rows_than_asked_for_are_cut_and_said_to_be(world: World, history: History) -> None:
    ours = f"SELECT stream_seq AS seq FROM events WHERE run = '{history.run}'"
    for query in (f"SELECT seq FROM ({ours}) ORDER BY seq", "SELECT 1 UNION ALL SELECT 2"):
        whole = (await _ask(world, query)).json()
        cut = (await _ask(world, query, limit=1)).json()

        assert (whole["meta"]["truncated"], cut["meta"]["truncated"]) == (False, True)
        assert len(cut["rows"]) == 1
        assert cut["rows"][0] in whole["rows"]


async def test_values_come_as_json_takes_them(world: World, history: History) -> None:
    ((moment, raw, none, large, names),) = await _rows(
        world,
        f"SELECT stream_time, raw, 0 / 0, 18446744073709551615, map('a', [1]) FROM events "
        f"WHERE run = '{history.run}' ORDER BY stream_seq LIMIT 1",
    )
    page = await world.document("events", run=history.run, limit=1)

    assert moment == page["data"][0]["stream_time"]
    assert history.events[0].event.event_id in raw
    assert (none, large, names) == (None, 2**64 - 1, {"a": [1]})


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count() FROM events, events_list AS l, spans AS s, agent_hourly AS h WHERE 0",
        "WITH a AS (SELECT run FROM events), b AS (SELECT run FROM a) SELECT count() FROM b WHERE run IN a",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT max(n) FROM t",
        "WITH RECURSIVE a AS (SELECT 1 AS n), b AS (SELECT n FROM a UNION ALL SELECT n + 1 FROM b WHERE n < 3) "
        "SELECT max(n) FROM b",
        "WITH 'decision' AS k, n -> n + 1 AS f, `a` AS (SELECT run FROM events WHERE kind = k), "
        '"b_2" AS (SELECT f(count()) AS n FROM a) SELECT n, (SELECT count() FROM a) FROM b_2 ORDER BY n WITH FILL',
        "WITH a AS (SELECT run, count() AS n FROM events AS t GROUP BY t.run), (SELECT max(n) FROM a) AS m, "
        "b AS (SELECT a.run AS run, (SELECT sum(n) FROM a) AS s, s - 1, m FROM a) SELECT t.run AS run, m FROM b AS t",
        "WITH a AS (SELECT 1 AS n) SELECT n FROM (SELECT n FROM a UNION ALL SELECT n FROM a) GROUP BY ALL WITH TOTALS",
        "WITH a AS (SELECT 1 AS n) SELECT n FROM a UNION ALL SELECT n + 1 FROM a EXCEPT SELECT n + 2 FROM a",
        "WITH 3 AS x, (SELECT 1) AS y SELECT x + y",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SELECT 1 INTERSECT SELECT 1",
        "SELECT * EXCEPT (body, raw) REPLACE (upper(run) AS run) FROM events LIMIT 1",
        "SELECT COLUMNS('^agent') FROM events LIMIT 1",
        "SELECT rank() OVER (PARTITION BY run ORDER BY agent_seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM events",
        "SELECT arrayMap(x -> x + 1, [1, 2]), (1, 'a').2, [1, 2][1], 1::String, CAST('1', 'UInt8'), 1 ? 2 : 3",
        "SELECT kind FROM events WHERE kind IN ('decision', 'x') AND run IN (SELECT SpanId FROM spans) LIMIT 1 BY kind",
        "SELECT format('{} {}', run, 'INTO OUTFILE; SETTINGS') AS `format`, '-- /* ''' AS \"a b\" FROM events -- c\n;;",
        "SELECT toStartOfHour(stream_time) h FROM events GROUP BY h ORDER BY h WITH FILL STEP INTERVAL 1 DAY LIMIT 3",
        "SELECT quantilesIf(0.5, 0.9)(duration_ms, kind = 'tool_call'), count() FILTER (WHERE kind = 'x') FROM events",
        "SELECT target_resource AS file, count() AS url FROM events WHERE file != 'x' GROUP BY file ORDER BY url",
        "SELECT 1 /* ; DROP TABLE events */ + 1 # also a comment\n",
        "SELECT mapKeys(SpanAttributes), Events.Name, s.Duration FROM spans s WHERE Timestamp > now() - INTERVAL 1 DAY",
        "SELECT 'a line\u2028   Set', 'of\n   Set'",
    ],
)
async def test_what_people_ask_is_not_refused(world: World, history: History, query: str) -> None:
    response = await _ask(world, query)

    assert response.status_code == 200, response.text


PRODUCT = "(SELECT arrayJoin(range(1000000)) AS a), (SELECT arrayJoin(range(10000)) AS b)"
OTHER = "schema_migrations"
BAD = {
    "SELECT nope FROM events": "Unknown expression identifier `nope`",
    "SELECT 1 +": "Syntax error",
    "SELECT * FROM event": "the table event is not one of",
    "SELECT * FROM schema_migrations": "the table schema_migrations is not one of",
    "WITH x AS (SELECT * FROM x) SELECT * FROM x": "the table x is not one of",
    "SELECT * FROM x, (WITH x AS (SELECT 1) SELECT * FROM x)": "at the beginning of a query",
    'WITH "`schema_migrations`" AS (SELECT 1 AS a) SELECT * FROM schema_migrations': "a name in WITH is made of",
    "WITH `other.secrets` AS (SELECT 1 AS a) SELECT * FROM other.secrets": "a name in WITH is made of",
    "WITH events AS (SELECT 1 AS a) SELECT * FROM Events": "the table Events is not one of",
    f"WITH RECURSIVE {OTHER} AS (SELECT * FROM {OTHER}) SELECT * FROM {OTHER}": f"the table {OTHER} is not one of",
    f"WITH RECURSIVE {OTHER} AS (SELECT * FROM {OTHER} UNION ALL SELECT 1) SELECT 1": f"the table {OTHER} is",
    f"WITH {OTHER} AS (SELECT s), (SELECT count() FROM {OTHER}) AS s SELECT * FROM {OTHER}": "an alias of what reads",
    f"WITH {OTHER} AS (SELECT f(1)), q -> q IN {OTHER} AS f SELECT * FROM {OTHER}": "an alias of what reads it",
    f"WITH {OTHER} AS (SELECT a AS a) SELECT (SELECT * FROM {OTHER}) AS a FROM {OTHER}": "an alias of what reads it",
    "WITH": "Syntax error",
    f"WITH {OTHER} AS (SELECT 1) SELECT 1 UNION ALL WITH x AS (SELECT 1) SELECT 1 FROM {OTHER}": "at the beginning",
    f"WITH {OTHER} AS (SELECT s) SELECT * FROM (WITH 1 AS s SELECT * FROM {OTHER})": "at the beginning of a query",
    f"WITH {OTHER} AS events SELECT 1 IN events": "after IN write (SELECT … FROM events)",
    "SELECT throwIf(1, 'my own words')": "my own words",
    "SELECT toUInt8('x')": "Cannot parse",
}
HEAVY = [
    "SELECT count() FROM events a, events b, events c, events d, events e, events f, events g, events h",
    "SELECT arrayJoin(range(100000000))",
    "SELECT groupArray(repeat('x', 1000000)) FROM (SELECT arrayJoin(range(1000)))",
    "SELECT repeat('x', 1000000) FROM (SELECT arrayJoin(range(100)))",
    f"SELECT sum(sipHash64(a, b)) FROM {PRODUCT}",
    f"SELECT {'(' * 5_000}1{')' * 5_000}",
    f"SELECT {'1,' * 40_000}1",
    f"SELECT 1{' UNION ALL SELECT 1' * 5_000}",
]


@pytest.mark.parametrize("query", BAD)
async def test_bad_sql_is_a_problem_that_says_why(world: World, history: History, query: str) -> None:
    response = await _ask(world, query)

    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert BAD[query] in response.json()["detail"]


@pytest.mark.parametrize("query", HEAVY, ids=range(len(HEAVY)))
async def test_heavy_sql_is_answered_or_refused_and_the_store_goes_on(
    world: World, history: History, query: str
) -> None:
    response = await _ask(world, query)

    assert response.status_code in (200, 400), response.text[:500]
    assert len(response.content) < MAX_ANSWER * 2
    if response.status_code == 400:
        assert response.json()["code"] in ("sql-refused", "sql-failed", "sql-result-too-large")
    assert await _rows(world, "SELECT 1") == [[1]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"query": 1}',
        b'{"query": ""}',
        b'{"query": "\\ud800"}',
        b'{"query": "SELECT 1", "limit": 0}',
        b'{"query": "SELECT 1", "limit": 10001}',
        b'{"query": "SELECT 1", "settings": {}}',
        b'{"query": "' + b"x" * 200_000 + b'"}',
    ],
)
async def test_bodies_that_are_no_question_are_refused(world: World, body: bytes) -> None:
    response = await world.http.post("/api/v1/sql", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422, response.text[:300]


async def test_the_canary_notices_what_is_not_guarded(world: World, watched: Watched) -> None:
    canary = watched.canary

    read = await world.table.query(f"SELECT file('{canary.secret}')")
    assert read.result_rows == [(SECRET,)]
    assert watched.untouched
    await world.table.command(f"SELECT 1 INTO OUTFILE '{canary.out}'")
    assert set(watched.files()) == {"secret.txt", "out.txt"}
    asking = asyncio.create_task(world.table.query(f"SELECT * FROM url('http://{canary.host}/', 'CSV', 'a String')"))
    await asyncio.wait_for(watched.came.wait(), 10)
    asking.cancel()
    with suppress(asyncio.CancelledError, ClickHouseError):
        await asking
    assert not watched.untouched


async def test_no_attack_of_ten_thousand_reaches_a_file_or_a_socket(watched: Watched, tmp_path: Path) -> None:
    statements = attacks(watched.canary, ATTACKS, SEED)
    assert len(set(statements)) == ATTACKS

    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("sql_attack_run.py")), str(tmp_path / "engine"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate(json.dumps(statements).encode())
    result = json.loads(output)

    assert process.returncode == 0
    assert watched.untouched
    assert sum(result["counts"].values()) == ATTACKS
    # Some disguises turn an attack into a harmless question; those have run, with every right.
    assert len(result["passed"]) < ATTACKS / 100
    assert [sql for sql, answer in result["passed"] if SECRET in answer] == []
    plain = set(plain_attacks(watched.canary))
    assert [sql for sql, _ in result["passed"] if sql in plain and not HARMLESS.search(sql)] == []
    # Each of the three lines of defence has something to do.
    assert min(result["counts"][by] for by in ("signs", "parser", "tree")) > 100
    assert sorted(result["tables"]) == ["agent_hourly", "events", "events_list", "spans"]


@pytest.mark.parametrize("login", ["reader", "writer"])
async def test_a_sample_of_them_is_refused_by_the_api_whatever_its_login_may_do(
    world: World, history: History, watched: Watched, login: str
) -> None:
    before = (await world.table.query("SELECT count() FROM events FINAL")).result_rows
    statements = random.Random(SEED).sample(attacks(watched.canary, 3_000, SEED + 1), SAMPLE // 2)
    async with _api(world, login) as http:
        for sql in statements:
            response = await http.post("/api/v1/sql", json={"query": sql})
            assert response.status_code in (200, 400), (sql, response.text)
            assert SECRET not in response.text, sql
            if response.status_code == 400:
                assert response.json()["code"] in ("sql-refused", "sql-failed")

    assert watched.untouched
    assert (await world.table.query("SELECT count() FROM events FINAL")).result_rows == before


@asynccontextmanager
async def _api(world: World, login: str) -> AsyncIterator[httpx.AsyncClient]:
    """An API that asks with the writer's login, as with a ClickHouse server that has no other; or the world's own."""
    if login == "reader":
        yield world.http
        return
    deps = Dependencies(
        store=Store(world.store_url, deadline=30),
        bus=BusLink(world.nats.url),
        access=Access(token="t"),
        cache=world.folder / "cache",
    )
    async with (
        served(deps) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer t"}, timeout=30) as http,
    ):
        yield http
