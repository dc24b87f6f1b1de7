"""`enchanted tail --follow` over a stream that was made again: the table still has the former one's events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enchanted.cluster.commands import reading

CREATED = datetime(2026, 3, 9, tzinfo=UTC)
ACKNOWLEDGED, NEWEST = 3, 5


def event(seq: int, *, former: bool = False) -> dict[str, Any]:
    stored = CREATED + timedelta(seconds=seq) - timedelta(days=90 * former)
    return {"seq": seq, "stream_time": f"{stored:%Y-%m-%dT%H:%M:%S}.000000Z", "event_id": f"{int(former)}-{seq}"}


class Client:
    """An API whose table has a long former stream and a short present one."""

    def __init__(self, present: int) -> None:
        former = [event(seq, former=True) for seq in (1, 2, 4, 999_979, 999_980)]
        now = [event(seq) for seq in range(1, present + 1)]
        self._table = sorted(former + now, key=lambda one: (one["seq"], one["stream_time"]))

    def pipeline(self) -> dict[str, Any]:
        stream = {"created": CREATED.isoformat(), "last_seq": NEWEST}
        return {"stream": stream, "ingest": {"acknowledged_seq": ACKNOWLEDGED}}

    def events(self, *, before: int, limit: int, **_: object) -> dict[str, Any]:
        return {"data": [one for one in self._table if one["seq"] < before][-limit:]}

    def follow(self, *, after: int, **_: object) -> Iterator[dict[str, Any]]:
        return (event(seq) for seq in range(after + 1, 9))


def followed(client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **how: Any) -> Any:
    @contextmanager
    def api(*_: object) -> Iterator[Client]:
        yield client

    monkeypatch.setattr(reading, "api", api)
    reading.tail(**{"follow": True, "lines": 20, "output": reading.Output.NDJSON, **how})
    return [json.loads(line)["event_id"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("present", [0, 2, 3, 5])
def test_what_comes_after_a_stream_was_made_again_is_shown_though_its_sequences_are_lower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], present: int
) -> None:
    shown = followed(Client(present), monkeypatch, capsys)
    # What is acknowledged is in the table: where that has less, a follower is not given it again.
    first = 1 if present else ACKNOWLEDGED + 1
    assert shown == [f"0-{seq}" for seq in range(first, 9)]


def test_the_past_of_a_former_run_is_shown_and_what_is_told_of_it_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = followed(Client(0), monkeypatch, capsys, run="run-1", lines=2)
    assert shown == ["1-999979", "1-999980", *(f"0-{seq}" for seq in range(ACKNOWLEDGED + 1, 9))]


def test_no_lines_of_the_past_are_shown_where_none_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert followed(Client(5), monkeypatch, capsys, lines=0) == ["0-6", "0-7", "0-8"]
