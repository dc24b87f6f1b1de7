"""What ingest does as metrics of Ray, which its dashboard and Prometheus read. One tag: the worker's name."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from enchanted.actors.ray_metrics import Levels, Totals
from enchanted.ingest.reconcile_report import Report
from enchanted.ingest.reconciler import Lag
from enchanted.ingest.spans import SpanStatistics
from enchanted.ingest.worker import IngestStatistics

_WORKED = {
    "batches": "Batches written",
    "messages": "Messages taken, in all batches",
    "inserts": "Writes that the table confirmed",
    "insert_seconds": "Seconds that these took together",
    "dead_letters": "Messages put among the dead letters",
    "present": "Delivered again although they were in the table: dropped",
    "retries": "Tries that failed because bus or table were away",
    "rebuilds": "Times the consumer was made again because it had fallen silent",
}
_WORKING = {
    "rows_per_second": "Rows inserted per second, over a minute",
    "last_batch": "Messages of the latest batch",
    "last_insert_seconds": "Seconds until the table confirmed the latest batch",
}
_EVENTS = {
    "rows": "Rows inserted, later copies of an event included",
    "duplicates": "Later copies of an event id",
    "conflicting": "Later copies with other bytes than the first",
}
_SPANS = {"spans": "Spans inserted"}


class SpanMetrics:
    """The metrics of the worker that stores spans."""

    def __init__(self, worker: str) -> None:
        tags = {"worker": worker}
        self._totals = Totals("enchanted_spans", _WORKED | _SPANS, tags)
        self._levels = Levels("enchanted_spans", _WORKING, tags)

    def add(self, statistics: SpanStatistics) -> None:
        """Count what was done since the last call."""
        self._totals.follow(statistics)
        self._levels.show(statistics)


class IngestMetrics:
    """The metrics of one worker."""

    def __init__(self, worker: str) -> None:
        tags = {"worker": worker}
        self._totals = Totals("enchanted_ingest", _WORKED | _EVENTS, tags)
        self._levels = Levels("enchanted_ingest", _WORKING, tags)
        self._lag_seconds = Gauge(
            "enchanted_ingest_lag_seconds", description="Age of the oldest message not ingested", tag_keys=("worker",)
        )
        self._lag_events = Gauge(
            "enchanted_ingest_lag_events",
            description="Messages from that one to the stream's end",
            tag_keys=("worker",),
        )
        self._unsound = Gauge(
            "enchanted_reconciler_unsound", description="1: the last reconciliation found a fault", tag_keys=("worker",)
        )
        self._healed = Counter(
            "enchanted_reconciler_healed_total", description="Messages written again", tag_keys=("worker",)
        )
        self._damage = Gauge(
            "enchanted_scrub_damaged",
            description="Messages lost or altered, and damaged parts of the table that could not be healed",
            tag_keys=("worker",),
        )
        self._parts_healed = Counter(
            "enchanted_scrub_parts_healed_total",
            description="Damaged parts of the table that were set aside and written again from the stream",
            tag_keys=("worker",),
        )
        reconciler = (self._unsound, self._healed, self._damage, self._parts_healed)
        for metric in (self._lag_seconds, self._lag_events, *reconciler):
            metric.set_default_tags(tags)

    def add(self, statistics: IngestStatistics) -> None:
        """Count what was done since the last call."""
        self._totals.follow(statistics)
        self._levels.show(statistics)

    def behind(self, lag: Lag) -> None:
        """How far ingest is behind now."""
        self._lag_seconds.set(lag.seconds)
        self._lag_events.set(lag.events)

    def reconciled(self, report: Report) -> None:
        """What a reconciliation found."""
        self._unsound.set(0 if report.sound else 1)
        if report.healed + report.buried:
            self._healed.inc(report.healed + report.buried)
        scrub = report.scrub
        messages = (scrub.unreadable, scrub.altered, scrub.replaced, scrub.lost)
        self._damage.set(sum(ranges.count for ranges in messages) + len(scrub.left))
        if healed := len(scrub.damaged_parts) - len(scrub.left):
            self._parts_healed.inc(healed)
