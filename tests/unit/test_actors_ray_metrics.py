"""What is handed to Ray's metrics: growth of totals, and levels as they are."""

from __future__ import annotations

from typing import Any

import pytest

from enchanted.actors import ray_metrics
from enchanted.actors.ray_metrics import PublisherMetrics, increments
from enchanted.bus.publisher import PublisherStatistics
from enchanted.cluster.ingest_metrics import IngestMetrics, SpanMetrics
from enchanted.ingest.spans import SpanStatistics
from enchanted.ingest.worker import IngestStatistics


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], float]:
    """By metric and tag what Ray would export."""
    values: dict[tuple[str, str], float] = {}

    class Recording:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            self._name, self._tags, self._keys = name, "", tag_keys

        def set_default_tags(self, tags: dict[str, str]) -> None:
            assert tuple(tags) == self._keys
            self._tags = ",".join(f"{key}={value}" for key, value in tags.items())

        def inc(self, value: float) -> None:
            assert value > 0
            self.set(values.get((self._name, self._tags), 0) + value)

        def set(self, value: float) -> None:
            values[self._name, self._tags] = value

    for name in ("Counter", "Gauge"):
        monkeypatch.setattr(ray_metrics, name, Recording)
    return values


def test_growth_is_counted_and_an_owner_that_was_made_again_goes_on() -> None:
    before = {"rows": 10, "batches": 2, "retries": 1}
    assert increments(before, {"rows": 15, "batches": 3, "retries": 1}) == {"rows": 5, "batches": 1, "retries": 0}
    assert increments(before, {"rows": 4, "batches": 3, "retries": 1}) == {"rows": 4, "batches": 3, "retries": 1}


def test_an_ingest_worker_is_counted_over_its_restarts(recorded: dict[tuple[str, str], float]) -> None:
    metrics, tag = IngestMetrics("ingest-3"), "worker=ingest-3"
    first = IngestStatistics(
        rows=30, conflicting=2, duplicates=5, inserts=4, insert_seconds=0.5, last_insert_seconds=0.2, rebuilds=1
    )
    for statistics in (first, first, IngestStatistics(rows=7, inserts=1, insert_seconds=0.25, last_batch=7)):
        metrics.add(statistics)

    told = {name.removeprefix("enchanted_ingest_"): value for (name, tags), value in recorded.items() if tags == tag}
    assert (told["rows_total"], told["duplicates_total"], told["conflicting_total"]) == (37, 5, 2)
    assert (told["inserts_total"], told["insert_seconds_total"], told["rebuilds_total"]) == (5, 0.75, 1)
    assert (told["last_batch"], told["last_insert_seconds"]) == (7, 0.0)


def test_a_worker_of_spans_has_metrics_of_its_own(recorded: dict[tuple[str, str], float]) -> None:
    SpanMetrics("ingest-0").add(SpanStatistics(spans=9, dead_letters=1, rows_per_second=1.5))

    assert recorded["enchanted_spans_spans_total", "worker=ingest-0"] == 9
    assert recorded["enchanted_spans_dead_letters_total", "worker=ingest-0"] == 1
    assert recorded["enchanted_spans_rows_per_second", "worker=ingest-0"] == 1.5


def test_a_publisher_shows_its_queue_its_commits_and_its_spool(recorded: dict[tuple[str, str], float]) -> None:
    statistics: Any = iter(
        [
            PublisherStatistics(messages=8, batches=2, waiting=3, mean_batch=4.0, last_commit=0.1, spool_bytes=99),
            PublisherStatistics(messages=9, batches=3, waiting=0, mean_batch=3.0, last_commit=0.3, retries=1),
        ]
    )
    metrics = PublisherMetrics("coder", lambda: next(statistics))

    def told(name: str) -> float:
        return recorded[f"enchanted_publisher_{name}", "role=coder"]

    metrics.record()
    assert (told("messages_total"), told("waiting"), told("spool_bytes"), told("mean_batch")) == (8, 3, 99, 4.0)
    metrics.record()
    assert (told("messages_total"), told("waiting"), told("spool_bytes"), told("retries_total")) == (9, 0, 0, 1)
    assert told("last_commit") == 0.3
