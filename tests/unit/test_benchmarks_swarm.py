"""The generated run that the page is measured with, and what a benchmark says on a machine that lacks something."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime

from enchanted.benchmarks.browsing import Frames
from enchanted.benchmarks.swarm import AGENTS, Pace, swarm_run
from enchanted.bus.batch import Outgoing
from enchanted.schemas.chain import Verdict, verify
from enchanted.schemas.events import KINDS, StoredEvent, kind_of, parse_event

PACE = Pace(begun=datetime(2026, 1, 1, tzinfo=UTC), mean=0.1, waits=0.01)


def _stored(messages: list[Outgoing]) -> list[StoredEvent]:
    return [
        StoredEvent(seq=seq, time=PACE.begun, subject=one.subject, raw=one.payload, event=parse_event(one.payload))
        for seq, one in enumerate(messages, start=1)
    ]


def _verdict(*, closed: bool) -> Verdict:
    return verify(_stored(swarm_run("run-1", 500, PACE, closed=closed)))


def test_a_generated_run_has_every_kind_and_agent_and_goes_on_in_time() -> None:
    stored = _stored(swarm_run("run-1", 500, PACE, closed=True))

    assert len(stored) == 500
    assert set(Counter(kind_of(one.event) for one in stored)) == set(KINDS)
    assert {one.event.agent_name for one in stored} == {name for _, name in AGENTS}
    times = [one.event.timestamp.ToMicroseconds() for one in stored]
    assert times == sorted(times)


def test_its_chains_hold_and_a_closed_one_is_complete() -> None:
    closed, open_run = _verdict(closed=True), _verdict(closed=False)

    assert (closed.intact, closed.complete, closed.closed, closed.unanchored) == (True, True, True, 0)
    assert (open_run.intact, open_run.closed) == (True, False)


def test_frames_a_second_come_from_the_intervals_between_frames() -> None:
    frames = Frames(times=[0.0, 20.0, 30.0, 80.0], places=3)

    assert frames.intervals == [20.0, 10.0, 50.0]
    assert frames.rates == [50.0, 100.0, 20.0]
    assert frames.seconds == 0.08


def test_without_a_browser_the_benchmark_says_how_to_get_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "enchanted.benchmarks", "ui", "--smoke", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ENCHANTED_CHROMIUM": "no-such-browser"},
    )

    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert "apt-get install" in done.stderr
    assert "Traceback" not in done.stderr
