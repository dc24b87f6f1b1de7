"""Which ids the stream itself keeps from coming twice."""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.bus.agent_log import new_id
from enchanted.ingest import single
from enchanted.ingest.single import AHEAD, WINDOW, YoungIds, id_made_at, is_single, made_at

NOW = 1_790_000_000_000_000
ID = "01a0c1e2-f400-7abc-8def-0123456789ab"
MADE = 0x01A0C1E2F400 * 1000


def test_an_agents_id_tells_when_it_was_made() -> None:
    assert made_at(ID) == MADE
    made = made_at(new_id())
    assert made is not None
    assert made > NOW - 10**15


@pytest.mark.parametrize(
    "event_id",
    [
        "",
        "x",
        str(uuid.UUID(int=5, version=4)),
        ID.replace("0", "g"),
        ID.upper(),
        ID + "0",
        "日" * 36,
        "-" * 14 + "7" * 22,
    ],
)
def test_any_other_id_tells_nothing(event_id: str) -> None:
    assert made_at(event_id) is None
    assert not is_single(event_id, event_id.encode(), NOW)


@given(st.integers(0, 2**47))
def test_ids_sort_by_the_time_they_were_made(milliseconds: int) -> None:
    lowest = id_made_at(milliseconds * 1000)
    assert made_at(lowest) == milliseconds * 1000
    assert lowest <= f"{lowest[:19]}8{lowest[20:]}" < id_made_at((milliseconds + 1) * 1000)


@pytest.mark.parametrize(
    ("after", "expected"),
    [(0, True), (WINDOW, True), (WINDOW + 1, False), (-AHEAD, True), (-AHEAD - 1, False)],
)
def test_an_id_is_single_for_a_minute(after: int, expected: bool) -> None:
    assert is_single(ID, ID.encode(), MADE + after) is expected


def test_an_id_that_the_stream_does_not_watch_is_not_single() -> None:
    assert not is_single(ID, b"", MADE)
    assert not is_single(ID, b"other", MADE)


def test_ids_that_may_come_again_are_remembered_and_old_ones_are_not() -> None:
    young = YoungIds()
    young.add(ID, MADE)
    young.add(id_made_at(MADE + 10**12), MADE)
    young.add(id_made_at(MADE - WINDOW - 1000), MADE)
    young.add("foreign", MADE)

    assert young.may_have(ID, MADE)
    assert young.may_have(id_made_at(MADE + 10**12), MADE)
    assert not young.may_have(id_made_at(MADE - WINDOW - 1000), MADE)
    assert not young.may_have("foreign", MADE)


@pytest.mark.parametrize("at_once", [True, False])
def test_with_more_ids_than_are_remembered_nothing_is_sure_until_the_others_cannot_come_again(
    monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    monkeypatch.setattr(single, "REMEMBERED", 4)
    ids = [id_made_at(MADE + n * 1000) for n in range(5)]
    young = YoungIds(ids if at_once else ())
    for n, event_id in enumerate(ids):
        young.add(event_id, MADE + n * 1000)

    # The three oldest are forgotten; the last moment at which one of them is single is a window after it was made.
    assert young.may_have("any", MADE + 2000 + WINDOW)
    assert not young.may_have("any", MADE + 2000 + WINDOW + 1)
    assert young.may_have(ids[3], MADE + 2000 + WINDOW + 1)
    assert young.may_have(ids[4], MADE + 2000 + WINDOW + 1)


def test_many_more_ids_than_are_remembered_are_taken_in_little_time() -> None:
    """Each of them once made the worker look through all: a batch of 10,000 took minutes."""
    young = YoungIds(id_made_at(MADE + n) for n in range(0, 110_000_000, 1000))
    begun = time.process_time()
    for n in range(200_000):
        young.add(id_made_at(MADE + n * 1000), MADE + n * 1000)
    assert time.process_time() - begun < 20.0
