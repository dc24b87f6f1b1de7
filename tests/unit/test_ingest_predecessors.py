"""What is waited for before rows are looked up that a former worker may be inserting."""

from __future__ import annotations

import logging

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from enchanted.ingest import predecessors
from enchanted.ingest.errors import TableForbidden, TableUnavailable
from enchanted.ingest.predecessors import outlast
from enchanted.ingest.tables import unavailable

pytestmark = pytest.mark.anyio


class Server:
    """Answers with each set in turn, and with the last one for ever."""

    def __init__(self, *answers: set[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def ask(self, sql: str) -> set[str]:
        self.asked.append(sql)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


async def test_only_inserts_that_were_under_way_at_the_beginning_are_waited_for() -> None:
    server = Server({"a", "b"}, {"b", "c"}, {"c", "d"})
    assert await outlast("events", server.ask) == set()
    assert len(server.asked) == 3
    assert "query LIKE '%events%'" in server.asked[0]


async def test_one_that_takes_longer_than_any_of_a_worker_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(predecessors, "EXECUTION_DEADLINE", 0.05)
    with caplog.at_level(logging.WARNING):
        assert await outlast("events", Server({"for-ever"}).ask) == {"for-ever"}
    assert "for-ever" in caplog.text


async def test_a_login_that_may_not_look_does_not_keep_events_out(caplog: pytest.LogCaptureFixture) -> None:
    async def refused(_: str) -> set[str]:
        error = DatabaseError("Code: 497. DB::Exception: app: Not enough privileges, grant SELECT", code=497)
        raise unavailable(error)

    with caplog.at_level(logging.WARNING):
        assert await outlast("events", refused) == set()
    assert "Not enough privileges" in caplog.text


async def test_a_server_that_is_away_is_an_error_as_ever() -> None:
    async def away(_: str) -> set[str]:
        raise unavailable(OSError("refused"))

    with pytest.raises(TableUnavailable) as caught:
        await outlast("events", away)
    assert not isinstance(caught.value, TableForbidden)
