"""Which login asks the store for what."""

from __future__ import annotations

from pathlib import Path

import pytest

from enchanted.cluster.home import Home
from enchanted.cluster.plan import plan
from enchanted.cluster.settings import Settings

THEIRS = "http://u:p@db.example:8123/events"
READER = "http://r:p@db.example:8123/events"


def _settings(folder: Path, **given: str) -> Settings:
    free = {"api_port": 0, "nats_port": 0, "clickhouse_port": 0, "ray_dashboard_port": 0}
    return Settings(home=folder, **free, **given)  # type: ignore[arg-type]


def test_the_embedded_store_has_a_login_that_can_only_read(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()

    endpoints = plan(_settings(home.path), home).endpoints

    assert endpoints.clickhouse_url.startswith("http://enchanted:")
    assert endpoints.clickhouse_reader_url.startswith("http://reader:")
    assert endpoints.clickhouse_reader_url.rpartition("@")[2] == endpoints.clickhouse_url.rpartition("@")[2]


@pytest.mark.parametrize(("given", "reader"), [({}, ""), ({"clickhouse_reader_url": READER}, READER)])
def test_a_server_of_the_users_has_the_login_they_name(tmp_path: Path, given: dict[str, str], reader: str) -> None:
    home = Home(tmp_path / "home")
    home.prepare()

    endpoints = plan(_settings(home.path, clickhouse_url=THEIRS, **given), home).endpoints

    assert (endpoints.clickhouse_url, endpoints.clickhouse_reader_url) == (THEIRS, reader)
