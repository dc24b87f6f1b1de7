"""The processes of `enchanted bench publish`, against a real nats-server."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from enchanted.benchmarks.load import RUNS, load
from enchanted.benchmarks.publish import Case, Sample, measure
from enchanted.benchmarks.publishers import PATIENCE, WAYS, Taken, Unit, loop
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BusUnavailable
from enchanted.bus.subjects import event_subject
from enchanted.bus.testing import nats_server
from enchanted.schemas.events import kind_of


@pytest.mark.parametrize(
    ("case", "published", "measured"),
    [
        (Case(way="single", processes=2, connections=3, publishers=2, each=5), 2 * 3 * (16 + 10), 60),
        (Case(way="hand", each=3, size=20), 20 * (2 + 3), 3),
        (Case(way="group", processes=2, connections=3, publishers=2, each=5), 2 * 3 * (16 + 10), 60),
    ],
    ids=lambda value: value.way if isinstance(value, Case) else "",
)
async def test_every_way_stores_each_event_of_the_mix_once_on_its_own_subject(
    case: Case, published: int, measured: int, tmp_path: Path
) -> None:
    async with nats_server(tmp_path) as server:
        sample = await measure(server.url, case, 1.0, itertools.count(1))
        async with Bus.connect(server.url) as bus:
            last = (await bus.stream_info()).last_seq
            stored = [one for run in range(RUNS) for one in await bus.read_run(f"run-{run}")]

    assert case.way in WAYS
    assert last == published  # what was measured, and what each connection warmed up with
    assert len({one.event.event_id for one in stored}) == len(stored) == published
    assert all(one.subject == event_subject(one.event) for one in stored)
    assert {"decision", "state_change"} <= set(Counter(kind_of(one.event) for one in stored))
    assert len(sample.milliseconds) == measured
    assert sample.errors == []
    assert 0 < max(sample.milliseconds) < PATIENCE * 1000


async def test_a_publish_that_fails_is_counted_and_the_next_goes_on() -> None:
    units: list[Unit] = [[one.outgoing] for one in load(3)]
    taken = Taken()

    async def publish(unit: Unit) -> None:
        if unit is units[1]:
            raise BusUnavailable("the stream", "it is gone")

    await loop(publish, units, taken)

    assert len(taken.milliseconds) == 2
    assert len(taken.errors) == 1
    assert taken.errors[0].startswith("BusUnavailable: ")


def test_a_case_lasts_from_its_first_process_to_its_last() -> None:
    parts = [
        {"start": 10.0, "end": 11.0, "cpu": 0.3, "milliseconds": [1.0, 2.0], "errors": []},
        {"start": 10.5, "end": 12.0, "cpu": 0.1, "milliseconds": [3.0, 4.0], "errors": ["x"]},
    ]

    sample = Sample.of(parts, 5)

    assert (sample.rate, sample.cpu) == (10.0, 20_000.0)
    assert (sample.milliseconds, sample.errors) == ([1.0, 2.0, 3.0, 4.0], ["x"])


def test_too_low_a_limit_of_open_files_is_an_error_that_says_how_to_raise_it() -> None:
    limited = f"ulimit -n 128; exec {sys.executable} -m enchanted.benchmarks publish --smoke --json"

    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert "500 connections need 189 open files in a process (allowed: 128)" in done.stderr
    assert "ulimit -n 1024" in done.stderr
    assert "Traceback" not in done.stderr
