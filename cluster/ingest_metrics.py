"""What ingest does as metrics of Ray, which its dashboard and Prometheus read. One tag: the worker's name."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from enchanted.ingest.reconcile_report import Report
from enchanted.ingest.reconciler import Lag
from enchanted.ingest.spans import SpanStatistics
from enchanted.ingest.worker import IngestStatistics

_COUNTED = {
    "rows": "Rows inserted, later copies of an event included",
    "batches": "Batches written",
    "dead_letters": "Messages put among the dead letters",
    "duplicates": "Later copies of an event id",
    "retries": "Tries that failed because bus or table were away",
}

_SPANS_COUNTED = {
    "spans": "Spans inserted",
    "present": "Spans that were in the table already",
    "dead_letters": "Messages of spans put among the dead letters",
    "retries": "Tries that failed because bus or table were away",
}


class SpanMetrics:
    """The metrics of the worker that stores spans."""

    def __init__(self, worker: str) -> None:
        self._counters = {
            name: Counter(f"enchanted_spans_{name}_total", description=text, tag_keys=("worker",))
            for name, text in _SPANS_COUNTED.items()
        }
        for counter in self._counters.values():
            counter.set_default_tags({"worker": worker})
        self._before = SpanStatistics()

    def add(self, statistics: SpanStatistics) -> None:
        """Count what was done since the last call; statistics that went back are those of a new worker."""
        now = {name: int(getattr(statistics, name)) for name in _SPANS_COUNTED}
        before = {name: int(getattr(self._before, name)) for name in _SPANS_COUNTED}
        if any(now[name] < before[name] for name in now):
            before = dict.fromkeys(now, 0)
        for name, counter in self._counters.items():
            if now[name] > before[name]:
                counter.inc(now[name] - before[name])
        self._before = statistics


class IngestMetrics:
    """The metrics of one worker."""

    def __init__(self, worker: str) -> None:
        tags = {"worker": worker}
        self._counters = {
            name: Counter(f"enchanted_ingest_{name}_total", description=text, tag_keys=("worker",))
            for name, text in _COUNTED.items()
        }
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
        for metric in (*self._counters.values(), self._lag_seconds, self._lag_events, *reconciler):
            metric.set_default_tags(tags)
        self._before = dict.fromkeys(_COUNTED, 0)

    def add(self, statistics: IngestStatistics) -> None:
        """Count what was done since the last call; statistics that went back are those of a new worker."""
        for name, total in increments(self._before, statistics).items():
            if total:
                self._counters[name].inc(total)
        self._before = counted(statistics)

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


def counted(statistics: IngestStatistics) -> dict[str, int]:
    """The statistics that are metrics."""
    return {name: int(getattr(statistics, name)) for name in _COUNTED}


def increments(before: dict[str, int], statistics: IngestStatistics) -> dict[str, int]:
    """By how much each has grown."""
    now = counted(statistics)
    if any(now[name] < before[name] for name in now):
        return now
    return {name: now[name] - before[name] for name in now}
