"""Rates and means of what a worker did."""

from __future__ import annotations

from enchanted.ingest.statistics import WINDOW, Throughput
from enchanted.ingest.worker import IngestStatistics


def test_a_young_worker_is_measured_over_its_own_age() -> None:
    throughput = Throughput(begun=100.0).plus(30, 102.0).plus(20, 102.5).plus(50, 104.0)

    assert throughput.per_second(105.0) == 20.0


def test_what_is_older_than_the_window_no_longer_counts_and_is_forgotten() -> None:
    throughput = Throughput(begun=0.0)
    for second in range(1_000):
        throughput = throughput.plus(7, second + 0.25).plus(3, second + 0.75)

    assert throughput.per_second(999.9) == 10.0
    assert len(throughput.seconds) == WINDOW
    assert throughput.per_second(999.9 + WINDOW / 2) == 5.0
    assert throughput.per_second(2_000.0) == 0.0


def test_nothing_done_yet_has_means_of_zero() -> None:
    figures = IngestStatistics().as_dict()

    assert (figures["mean_batch"], figures["mean_insert_seconds"], figures["rows_per_second"]) == (0, 0, 0)


def test_means_are_per_batch_and_per_confirmed_insert() -> None:
    figures = IngestStatistics(batches=4, messages=10, inserts=2, insert_seconds=0.5, last_error="secret").as_dict()

    assert (figures["mean_batch"], figures["mean_insert_seconds"]) == (2.5, 0.25)
    assert "secret" not in str(figures)
