"""Pauses of a run that is played."""

from __future__ import annotations

import pytest

from enchanted.cluster.commands.play import paced


@pytest.mark.parametrize(("speed", "pauses"), [(1.0, [0.5, 2.0]), (10.0, [0.05, 0.2])])
def test_pauses_are_as_they_were_at_the_speed_and_idle_gaps_are_cut(speed: float, pauses: list[float]) -> None:
    times = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.500000Z", "2026-01-01T01:00:00Z", "2026-01-01T00:59:59Z"]
    waited: list[float] = []
    events = [{"seq": seq, "stream_time": time} for seq, time in enumerate(times)]
    assert list(paced(events, speed=speed, gap=2.0, wait=waited.append)) == events
    assert waited == pytest.approx(pauses)
