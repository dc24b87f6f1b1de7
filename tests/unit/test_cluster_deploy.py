"""What a deployment tells a person."""

from __future__ import annotations

import pytest

from enchanted.cluster.deploy import crowded
from enchanted.cluster.settings import IngestSettings, Settings


def test_several_workers_on_the_embedded_store_are_warned_of_with_the_remedy() -> None:
    (note,) = crowded(Settings(ingest=IngestSettings(workers=3)))

    assert note.startswith("3 ingest workers")
    assert "set ingest.workers to 1, or clickhouse_url" in note


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(ingest=IngestSettings(workers=3), clickhouse_url="http://user:password@host:8123/database"),
    ],
    ids=["one worker", "a store of others"],
)
def test_one_worker_or_a_server_of_others_is_not_warned_of(settings: Settings) -> None:
    assert crowded(settings) == []
