"""`enchanted play`: a run's facts again in the order they came, at a chosen speed; nothing is executed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Annotated

import typer

from enchanted.cluster.commands.reading import OutputOption, RunArgument, event_line
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, emit_lines, json_line
from enchanted.serve.live.pacing import FASTEST, LONGEST_GAP, MOST_GAP, SLOWEST, SPEED, Pace, said_at


def play(
    run: RunArgument,
    speed: Annotated[float, typer.Option(min=SLOWEST, max=FASTEST, help="Times as fast as it was.")] = SPEED,
    start: Annotated[int, typer.Option("--from", min=0, help="The first sequence.")] = 0,
    gap: Annotated[
        float, typer.Option(min=0.0, max=MOST_GAP, help="Longest pause between two events, in seconds of the run.")
    ] = LONGEST_GAP,
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
        emit_lines(map(line, paced(events, Pace(speed=speed, max_gap=gap), _wait)))


def paced(events: Iterable[Document], pace: Pace, wait: Callable[[float], None]) -> Iterator[Document]:
    """The events, each after the pause it had to the one before, by the rule of ``pace``."""
    last: datetime | None = None
    for event in events:
        now = said_at(event)
        if (rest := pace.rest(last, now)) > 0:
            wait(rest)
        last = now
        yield event


def _wait(seconds: float) -> None:
    sys.stdout.flush()
    time.sleep(seconds)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("play")(play)
