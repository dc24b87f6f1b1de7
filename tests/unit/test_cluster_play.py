"""Pauses of a run that is played."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from enchanted.cluster.commands.play import paced
from enchanted.serve.live.pacing import Pace


@pytest.mark.parametrize(("speed", "pauses"), [(1.0, [0.5, 2.0]), (2.0, [0.25, 1.0]), (10.0, [0.05, 0.2])])
def test_pauses_are_as_they_were_at_the_speed_and_idle_gaps_are_cut(speed: float, pauses: list[float]) -> None:
    times = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.500000Z", "2026-01-01T01:00:00Z", "2026-01-01T00:59:59Z"]
    waited: list[float] = []
    events = [{"seq": seq, "stream_time": time} for seq, time in enumerate(times)]
    assert list(paced(events, Pace(speed=speed, max_gap=2.0), waited.append)) == events
    assert waited == pytest.approx(pauses)


def test_nobody_waits_longer_than_an_hour_for_an_event_however_slow_the_play() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert Pace(speed=0.01, max_gap=3_600.0).rest(start, start + timedelta(days=1)) == 3_600.0
    assert Pace(speed=0.01, max_gap=10.0).rest(start, start + timedelta(days=1)) == 1_000.0


def test_an_imported_run_is_played_by_the_times_its_events_tell_and_others_by_the_streams() -> None:
    stored = "2026-01-01T00:00:00Z"
    told = [
        {"timestamp": "2025-06-01T10:00:00.123456789Z"},
        {"timestamp": "2025-06-01T10:00:01.123456789Z"},
        {"timestamp": {"seconds": "-99999999999999", "nanos": 0}},
        {},
        {"timestamp": "soon"},
    ]
    waited: list[float] = []
    events = [{"seq": seq, "stream_time": stored, **one} for seq, one in enumerate(told)]
    assert list(paced(events, Pace(speed=1.0, max_gap=2.0), waited.append)) == events
    assert waited == pytest.approx([1.0, 2.0])
