"""Budgets, slopes, percentiles and recommendations of the benchmarks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from enchanted.benchmarks import growth, pipeline, storage
from enchanted.benchmarks.case import Budget, Result, Row
from enchanted.benchmarks.figures import percentile, residual, slope
from enchanted.benchmarks.growth import Cost
from enchanted.benchmarks.load import load, mean_bytes
from enchanted.benchmarks.plot import by_unit, draw
from enchanted.benchmarks.rig import Ingestor
from enchanted.benchmarks.sweep import Figures, Point, recommended, result
from enchanted.bus.subjects import event_subject
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import kind_of, parse_event, role_of


def _point(rows: int, *, rate: float, cpu: float, p99: float) -> Point:
    figures = Figures(rate=rate, cpu=cpu, p50=p99 / 2, p99=p99, offered_cpu=cpu, parts=1.0)
    freak = replace(figures, rate=rate / 9, cpu=cpu / 9, p99=p99 * 9)
    return Point(ingestor=Ingestor(rows=rows), samples=[figures, freak, figures])


def test_points_on_a_line_give_its_slope_and_no_scatter() -> None:
    points = [(x, 3.0 * x + 10.0) for x in (0.0, 0.2, 1.0)]

    assert slope(points) == pytest.approx((3.0, 10.0))
    assert residual(points) == pytest.approx(0.0, abs=1e-9)


def test_points_at_one_place_have_no_slope() -> None:
    assert slope([(1.0, 4.0), (1.0, 6.0)]) == (0.0, 5.0)


def test_a_percentile_is_one_of_the_samples() -> None:
    samples = [float(number) for number in range(100, 0, -1)]

    assert percentile(samples, 0.5) == 51.0
    assert percentile(samples, 0.95) == 96.0
    assert percentile([7.0], 0.99) == 7.0


def test_a_budget_of_a_ratio_is_held_against_the_floor() -> None:
    floor = Row(name="bare", unit="events/s", samples=[1_000.0])
    ours = Row(
        name="ours",
        unit="events/s",
        samples=[650.0],
        floor="bare",
        budget=Budget(limit=0.7, least=True, of_ratio=True),
    )
    _, shown = Result(benchmark="b", question="q", rows=(floor, ours)).as_dict()["rows"]

    assert shown["ratio"] == 0.65
    assert shown["budget"] == 0.7
    assert shown["budget_is"] == "at least, for the ratio"
    assert shown["within"] is False


def test_a_budget_in_the_rows_unit_is_held_against_the_median() -> None:
    shown = Row(name="p99", unit="ms", samples=[1_400.0, 900.0, 9_000.0], budget=Budget(limit=1_500.0)).as_dict()

    assert shown["budget_is"] == "at most, for the median"
    assert shown["within"] is True


def test_a_row_without_a_budget_says_nothing_of_one() -> None:
    assert "within" not in Row(name="x", unit="ms", samples=[1.0]).as_dict()


def test_every_publish_and_ingest_budget_lands_on_its_row() -> None:
    rows = [Row(name=name, unit="x", samples=[1.0], floor="f") for name in (*pipeline.BUDGETS, "other")]

    budgets = {row.name: row.budget for row in pipeline.budgeted(rows)}

    assert budgets == {**pipeline.BUDGETS, "other": None}


def test_freshness_is_held_against_the_bare_and_the_obvious_from_the_same_run() -> None:
    taken = {pipeline.BARE: [(500.0, 1_000.0)], pipeline.NAIVE: [(600.0, 1_200.0)], pipeline.OURS: [(750.0, 1_100.0)]}
    rows = pipeline.freshness_rows(taken)
    shown = {row["name"]: row for row in Result(benchmark="b", question="q", rows=tuple(rows)).as_dict()["rows"]}

    ours = shown[f"freshness p50: {pipeline.OURS} over {pipeline.BARE}"]
    assert (ours["ratio"], ours["within"]) == (1.5, False)
    assert shown[f"freshness p99: {pipeline.OURS} over {pipeline.NAIVE}"]["within"] is True


def test_growth_has_slopes_of_ingest_and_of_publish() -> None:
    points = [(kib, Cost(kib=kib, agents=1, publish=20 + 3 * kib, ingest=50 + 7 * kib)) for kib in (0.5, 1.0, 4.0, 8.0)]

    found = {row.name: row.median for row in growth.slopes("KiB of event", points)}

    assert found["growth: slope per KiB of event"] == pytest.approx(7.0)
    assert found["growth: cost at no KiB of event"] == pytest.approx(50.0)
    assert found["growth of publish: slope per KiB of event"] == pytest.approx(3.0)
    assert found["growth of publish: cost at no KiB of event"] == pytest.approx(20.0)


def test_the_cheapest_of_the_fast_and_fresh_is_recommended() -> None:
    stale = _point(1, rate=10_000, cpu=10, p99=3_000)
    slow = _point(2, rate=5_000, cpu=20, p99=500)
    dear = _point(3, rate=10_000, cpu=90, p99=500)
    fit = _point(4, rate=9_500, cpu=50, p99=1_400)

    assert recommended([stale, slow, dear, fit]) is fit
    assert recommended([stale, _point(5, rate=1, cpu=1, p99=2_000)]).ingestor.rows == 5


def test_a_sweep_shows_each_sample_and_says_why_the_default_differs() -> None:
    shown = result([_point(1_000, rate=9_000, cpu=50, p99=400)], smoke=False).as_dict()

    rows = {row["name"]: row for row in shown["rows"]}
    assert (rows["rows 1000, 1 s, workers 1: rate"]["median"], rows["rows 1000, 1 s, workers 1: rate"]["samples"]) == (
        9_000.0,
        3,
    )
    assert "rows 1000, 1 s, workers 1: parts at 1,000 events/s" in rows
    assert any("the default is ingest.batch_seconds = 1," in note and "parts" in note for note in shown["notes"])


def test_as_many_rows_are_filled_as_fit_in_the_time() -> None:
    assert storage.fitting(10_000_000, pace=50_000, seconds=720) == 10_000_000
    assert storage.fitting(10_000_000, pace=10_000, seconds=720) == 3_600_000
    assert storage.fitting(50_000, pace=1, seconds=60) == 50_000


def test_the_load_is_as_large_and_as_mixed_as_it_says() -> None:
    events = load(2_000)
    kinds = Counter(kind_of(parse_event(one.raw)) for one in events)

    assert 870 < mean_bytes(events) < 970
    assert min(len(one.raw) for one in events) > 200
    assert max(len(one.raw) for one in events) < 8.5 * 1024
    assert len({one.event_id for one in events}) == 2_000
    assert 0.57 < kinds["decision"] / 2_000 < 0.63
    assert 0.27 < kinds["state_change"] / 2_000 < 0.33
    assert 7.5 * 1024 < mean_bytes(load(50, text=7_600)) < 8.5 * 1024


def test_the_load_is_on_its_own_subjects_in_chains_with_causes_and_workspaces() -> None:
    events = load(500, agents=20)
    parsed = [parse_event(one.raw) for one in events]
    last: dict[str, tuple[str, str, int]] = {}

    assert [one.subject for one in events] == [event_subject(event) for event in parsed]
    assert {event.run_id for event in parsed} == {f"run-{number}" for number in range(20)}
    for one, event in zip(events, parsed, strict=True):
        signal = kind_of(event) == "system_signal"
        assert bool(event.workspace_id) is bool(event.parent_event_id) is bool(event.task_id) is not signal
        if before := last.get(event.agent_id):
            assert event.parent_event_id in (("",) if signal else (before[0],))
            assert (event.previous_event_hash, event.agent_seq) == (before[1], before[2] + 1)
        last[event.agent_id] = event.event_id, sha256_hex(one.raw), event.agent_seq
    assert {role_of(event) for event in parsed if kind_of(event) == "state_change"} == {"coder"}


def test_a_result_is_drawn_with_every_row_and_budget(tmp_path: Path) -> None:
    floor = Row(name="a bare loop", unit="events/s", samples=[90.0, 110.0])
    ours = Row(name="group commit", unit="events/s", samples=[80.0, 95.0], floor=floor.name,
               budget=Budget(limit=0.7, least=True, of_ratio=True))  # fmt: skip
    late = Row(name="freshness", unit="ms", samples=[700.0], budget=Budget(limit=650.0))
    result = Result(benchmark="some", question="how fast", rows=(floor, late, ours)).as_dict()

    drawn = draw(result, tmp_path / "new").read_text()

    assert [(unit, [row["name"] for row in rows]) for unit, rows in by_unit(result["rows"])] == [
        ("events/s", ["a bare loop", "group commit"]),
        ("ms", ["freshness"]),
    ]
    assert all(f">{text}</text>" in drawn for text in ("a bare loop", "group commit", "freshness", "ms"))
    assert "#2b7a3d" in drawn
    assert "#b3261e" in drawn
