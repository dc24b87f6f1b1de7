"""What an actor does as metrics of Ray, which its dashboard and Prometheus read. Tags are few and bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ray.util.metrics import Counter, Gauge

from enchanted.bus.publisher import PublisherStatistics

_PUBLISHED = {
    "messages": "Messages acknowledged",
    "batches": "Batches committed",
    "retries": "Tries to commit without an acknowledgement",
    "duplicates": "Messages that were in the stream already",
}
_PUBLISHING = {
    "waiting": "Messages queued behind the batch in flight",
    "mean_batch": "Messages per committed batch",
    "largest_batch": "Messages of the largest batch",
    "last_commit": "Seconds from sending the latest batch to its acknowledgement",
    "mean_commit": "The same over all batches",
    "spool_bytes": "Bytes of the spool that are not in the stream yet",
}


class Totals:
    """Counters ``<prefix>_<name>_total`` that follow totals which their owner counts."""

    def __init__(self, prefix: str, described: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self._counters = {
            name: Counter(f"{prefix}_{name}_total", description=text, tag_keys=tuple(tags))
            for name, text in described.items()
        }
        for counter in self._counters.values():
            counter.set_default_tags(dict(tags))
        self._before: dict[str, float] = dict.fromkeys(described, 0)

    def follow(self, owner: object) -> None:
        """Count what the owner's members of these names have grown by since the last call."""
        now: dict[str, float] = {name: getattr(owner, name) for name in self._counters}
        for name, grown in increments(self._before, now).items():
            if grown:
                self._counters[name].inc(grown)
        self._before = now


class Levels:
    """Gauges ``<prefix>_<name>``."""

    def __init__(self, prefix: str, described: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self._gauges = {
            name: Gauge(f"{prefix}_{name}", description=text, tag_keys=tuple(tags)) for name, text in described.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags(dict(tags))

    def show(self, owner: object) -> None:
        """Set each to the owner's member of its name."""
        for name, gauge in self._gauges.items():
            gauge.set(getattr(owner, name))


class PublisherMetrics:
    """The metrics of one process's publisher. One tag: the role it publishes for."""

    def __init__(self, role: str, statistics: Callable[[], PublisherStatistics]) -> None:
        tags = {"role": role}
        self._statistics = statistics
        self._totals = Totals("enchanted_publisher", _PUBLISHED, tags)
        self._levels = Levels("enchanted_publisher", _PUBLISHING, tags)

    def record(self) -> None:
        """Hand Ray what it is now."""
        statistics = self._statistics()
        self._totals.follow(statistics)
        self._levels.show(statistics)


def increments(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """By how much each has grown; where one went back, all are those of an owner that was made again."""
    if any(now[name] < before[name] for name in now):
        return dict(now)
    return {name: now[name] - before[name] for name in now}
