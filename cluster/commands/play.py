"""`enchanted play`: a run's facts again in the order they came, at a chosen speed; nothing is executed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from enchanted.cluster.commands.reading import OutputOption, RunArgument, event_line
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, emit_lines, json_line

LONGEST_GAP = 2.0
"""Seconds that a pause between two events is shown for at most, before the speed counts."""


def play(
    run: RunArgument,
    speed: Annotated[float, typer.Option(min=0.01, max=100_000.0, help="Times as fast as it was.")] = 10.0,
    start: Annotated[int, typer.Option("--from", min=0, help="The first sequence.")] = 0,
    gap: Annotated[float, typer.Option(min=0.0, help="Longest pause between two events, in seconds of the run.")] = (
        LONGEST_GAP
    ),
    output: OutputOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON document a line, as `--output ndjson`.")] = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show a run's events again in the order they came, idle gaps compressed; nothing is executed."""
    with api(url, token_file) as client:
        client.run(run)
        events = client.all_events(run=run, after=max(0, start - 1) if start else 0)
        lines_of_json = as_json or (output is not None and output != "table")
        line = json_line if lines_of_json else event_line
        emit_lines(map(line, paced(events, speed=speed, gap=gap, wait=_wait)))


def paced(events: Iterable[Document], *, speed: float, gap: float, wait: Callable[[float], None]) -> Iterator[Document]:
    """The events, each after the pause it had to the one before, ``gap`` at most, ``speed`` times as fast."""
    last: datetime | None = None
    for event in events:
        now = _said_at(event)
        if last is not None and (pause := min(gap, (now - last).total_seconds()) / speed) > 0:
            wait(pause)
        last = now
        yield event


def _said_at(event: Document) -> datetime:
    """When the event says it was, since an imported run came into the stream at once; else when the stream got it."""
    try:
        said = datetime.fromisoformat(event["timestamp"])
        return said if said.tzinfo else said.replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError):
        return datetime.fromisoformat(event["stream_time"])


def _wait(seconds: float) -> None:
    sys.stdout.flush()
    time.sleep(seconds)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("play")(play)
