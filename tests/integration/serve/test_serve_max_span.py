"""How much time one question may be about: a limit that names itself, in every read that takes a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import History, World, served

NOW = datetime.now(UTC)
BY_TIME = ("/api/v1/events", "/api/v1/facets", "/api/v1/agents/stats", "/api/v1/export")


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def by_time(since: datetime | None = None, until: datetime | None = None) -> dict[str, str]:
    given = {"since": since, "until": until}
    return {name: moment.isoformat() for name, moment in given.items() if moment}


def traces(start: datetime, end: datetime | None = None) -> dict[str, Any]:
    given = {"start": start, "end": end}
    return {"service": "nobody"} | {name: int(one.timestamp() * 1e6) for name, one in given.items() if one}


def calls(days: float) -> dict[str, int]:
    return {"endTs": int(NOW.timestamp() * 1_000), "lookback": int(days * 86_400_000)}


TOO_LONG = [
    *((path, by_time(ago(401))) for path in BY_TIME),
    *((path, by_time(ago(1_000), ago(500))) for path in BY_TIME),
    ("/api/v1/events", by_time(datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))),
    ("/api/traces", traces(ago(401))),
    ("/api/traces", traces(datetime(1970, 1, 1, tzinfo=UTC), NOW)),
    ("/api/dependencies", calls(401)),
]
SHORT = [
    *((path, by_time(ago(399))) for path in BY_TIME),
    *((path, by_time(ago(5_000), ago(4_700))) for path in BY_TIME),
    *((path, by_time(until=NOW)) for path in BY_TIME),
    *((path, by_time(NOW, ago(1_000))) for path in BY_TIME),
    ("/api/traces", traces(ago(399))),
    ("/api/traces", traces(ago(5_000), ago(4_700))),
    ("/api/dependencies", calls(399)),
]


@pytest.mark.parametrize(("path", "asked"), TOO_LONG)
async def test_a_longer_time_than_the_limit_is_refused_by_its_name(
    world: World, path: str, asked: dict[str, Any]
) -> None:
    answer = await world.http.get(path, params=asked)
    assert (answer.status_code, answer.json()["code"]) == (400, "span-too-long")
    assert "at most 400 in one request" in answer.json()["detail"]
    assert "`api.max_days`" in answer.json()["detail"]


@pytest.mark.parametrize(("path", "asked"), SHORT)
async def test_a_time_within_the_limit_is_answered(
    world: World, history: History, path: str, asked: dict[str, Any]
) -> None:
    assert (await world.http.get(path, params=asked)).status_code == 200


@pytest.mark.parametrize(("most", "statuses"), [(timedelta(days=2), [200, 400]), (timedelta(0), [200, 200])])
async def test_the_limit_is_the_settings_and_none_is_no_limit(
    world: World, history: History, tmp_path: Path, most: timedelta, statuses: list[int]
) -> None:
    deps = Dependencies(
        store=Store(world.store_url, deadline=20),
        bus=BusLink(world.nats.url),
        access=Access(token="span-token"),
        cache=tmp_path,
        max_span=most,
    )
    headers = {"Authorization": "Bearer span-token"}
    async with served(deps) as url, httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
        for path in BY_TIME:
            answers = [await http.get(path, params=by_time(ago(days))) for days in (1, 3)]
            assert [answer.status_code for answer in answers] == statuses, path
