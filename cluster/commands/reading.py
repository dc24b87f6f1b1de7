"""Commands that read what happened: runs, events, traces, the live tail, the proof. All through the HTTP API."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import (
    Document,
    emit_lines,
    event_row,
    json_line,
    one_line,
    plain,
    run_row,
    span_row,
)
from enchanted.cluster.errors import USAGE, CommandFailed

if TYPE_CHECKING:
    from enchanted.serve.client import ApiClient

SPAN_COLUMNS = ("span", "parent", "started", "ms", "status", "service", "name")
EVENT_COLUMNS = ("seq", "time", "agent", "kind", "what")
RUN_COLUMNS = ("run", "state", "started", "events", "decisions", "changes", "tokens")
SHOWN = 100
"""Rows of a list unless more are asked for."""
LAST_SEQ = 2**63 - 1  # `serve.client` has it too, and costs a tenth of a second to import

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document.")]
MOST = 1_000_000_000
"""Rows of a list that may be asked for."""


def checked_id(text: str | None) -> str | None:
    """``text``, if it can be a part of the API's paths.

    Raises:
        CommandFailed: it cannot.
    """
    if text is not None and (not text.strip() or "/" in text or text in (".", "..")):
        raise CommandFailed(f"{text!r} is no id", "`enchanted runs` lists runs and, with --json, their traces", USAGE)
    return text


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run id, or the trace id of a producer without runs.",
        show_default=False,
        callback=checked_id,
    ),
]
SomeRunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Only this run.", show_default=False, callback=checked_id)
]
AtOption = Annotated[int | None, typer.Option(min=0, help="Stream sequence; by default the latest.")]
PathHexOption = Annotated[
    str | None,
    typer.Option(
        "--path-hex",
        metavar="HEX",
        help="A file whose name is not UTF-8, by the hex of its bytes; `state --json` has it as path_hex.",
    ),
]
WorkspaceOption = Annotated[str | None, typer.Option(help="Workspace; by default `main`.")]


class Output(StrEnum):
    """How events are written."""

    NDJSON = "ndjson"
    TABLE = "table"
    JSON = "json"


class Role(StrEnum):
    """Roles, as the subject spells them."""

    ARCHITECT = "architect"
    CODER = "coder"
    REVIEWER = "reviewer"
    OPERATOR = "operator"
    UNSPECIFIED = "unspecified"


class Kind(StrEnum):
    """Kinds of events."""

    DECISION = "decision"
    STATE_CHANGE = "state_change"
    SYSTEM_SIGNAL = "system_signal"
    MODEL_CALL = "model_call"
    TOOL_CALL = "tool_call"
    RUN_TRANSITION = "run_transition"


OutputOption = Annotated[
    Output | None, typer.Option("--output", "-o", help="By default a table on a terminal, else ndjson.")
]
RoleOption = Annotated[Role | None, typer.Option(help="Only this role.")]
KindOption = Annotated[Kind | None, typer.Option(help="Only this kind.")]
TextOption = Annotated[str | None, typer.Option("-q", "--query", help="Only events with this text.")]
AgentOption = Annotated[str | None, typer.Option(help="Only this agent, by id or name.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for name, command in (
        ("runs", list_runs),
        ("run-info", run_info),
        ("events", list_events),
        ("trace", show_trace),
        ("tail", tail),
    ):
        app.command(name)(command)


def list_runs(
    text: Annotated[
        str | None, typer.Option("-q", "--query", help="Only runs with all these words in id, task, verdict or reason.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, the newest first.")] = SHOWN,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """List the runs, the newest first."""
    with api(url, token_file) as client:
        page = client.runs(limit=limit, q=text)
    if as_json:
        console.emit_json(page)
        return
    console.emit_table(RUN_COLUMNS, map(run_row, page["data"]))
    if page["meta"]["cursor"]:
        console.say(f"older runs are not shown: --limit {min(1_000, limit * 2)}")


def run_info(
    run: RunArgument, as_json: JsonOption = False, url: UrlOption = None, token_file: TokenOption = None
) -> None:
    """Show where a run stands."""
    with api(url, token_file) as client:
        document = client.run(run)
    if as_json:
        console.emit_json(document)
        return
    rows = ((name, value_text(value)) for name, value in document.items() if value not in (None, ""))
    console.emit_table(("", ""), rows)


def value_text(value: object) -> str:
    """A value of a document as text for people."""
    if isinstance(value, dict | list):
        return one_line(json_line({"": value})[4:-1], 2_000)
    return plain(str(value))


def list_events(
    run: SomeRunArgument = None,
    trace: Annotated[str | None, typer.Option(help="Only this trace.")] = None,
    agent: AgentOption = None,
    role: RoleOption = None,
    kind: KindOption = None,
    since: Annotated[str | None, typer.Option(help="Stored at or after this time (RFC 3339).")] = None,
    until: Annotated[str | None, typer.Option(help="Stored before this time (RFC 3339).")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Only above this sequence.")] = None,
    before: Annotated[int | None, typer.Option(min=0, help="Only below this sequence.")] = None,
    text: TextOption = None,
    fields: Annotated[str | None, typer.Option(help="Only these fields, comma-separated, dotted inside.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=MOST, help=f"How many; {SHOWN}, but all for ndjson.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, whatever the output.")] = False,
    output: OutputOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """List events in stream order."""
    output = _output(output, as_json)
    if limit is None and not every and output is not Output.NDJSON:
        limit = SHOWN
    filters = {
        "run": run, "trace": trace, "agent": agent, "role": role, "kind": kind, "since": since, "until": until,
        "after": after, "before": before, "q": text, "fields": fields if output is not Output.TABLE else None,
    }  # fmt: skip
    with api(url, token_file) as client:
        found = _of_known_run(client, run, client.all_events(**filters))
        # One more than is shown tells whether there are more.
        _show(found if limit is None else islice(found, limit + 1), output, limit)


def _of_known_run(client: ApiClient, run: str | None, events: Iterable[Document]) -> Iterator[Document]:
    """``events``; NothingFound when there are none because there is no such run."""
    some = False
    for event in events:
        some = True
        yield event
    if run is not None and not some:
        client.run(run)


def _output(output: Output | None, as_json: bool) -> Output:
    if as_json:
        return Output.JSON
    return output or (Output.TABLE if sys.stdout.isatty() else Output.NDJSON)


def _show(events: Iterator[Document], output: Output, limit: int | None) -> None:
    if output is Output.NDJSON:
        emit_lines(map(json_line, islice(events, limit)))
        return
    found = list(events)
    shown = found[:limit]
    if output is Output.JSON:
        console.emit_json({"data": shown})
    else:
        console.emit_table(EVENT_COLUMNS, map(event_row, shown))
    if len(found) > len(shown):
        console.say("more events are not shown: --all, or --limit N")


def show_trace(
    trace_id: Annotated[str, typer.Argument(metavar="TRACE_ID", show_default=False, callback=checked_id)],
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show the events of a trace, grouped by span; the spans themselves where it has no events."""
    with api(url, token_file) as client:
        document = client.trace(trace_id)
    if as_json:
        console.emit_json(document)
        return
    if not document["meta"]["events"]:
        console.emit_table(SPAN_COLUMNS, map(span_row, document["spans"]))
        return
    rows = ((span["span_id"], *event_row(event)) for span in document["spans"] for event in span["events"])
    console.emit_table(("span", *EVENT_COLUMNS), rows)
    if document["meta"]["truncated"]:
        console.say(
            f"only the first {document['meta']['events']} events are shown: `enchanted events --trace` lists all"
        )


def tail(
    run: SomeRunArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=1_000, help="Past events to begin with.")] = 20,
    agent: AgentOption = None,
    role: RoleOption = None,
    kind: KindOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show the last events, and with --follow those to come."""
    output = _output(output, as_json)
    filters = {"run": run, "agent": agent, "role": role, "kind": kind}
    with api(url, token_file) as client:
        now = client.pipeline() if follow else None
        # Above its last sequence the table has at most what a former stream of this name had.
        before = LAST_SEQ if now is None or run is not None else now["stream"]["last_seq"] + 1
        page = client.events(**filters, before=before, limit=max(1, lines))["data"]
        past = list(_of_known_run(client, run, page))
        present = past if now is None else _since(past, now["stream"]["created"])
        shown = past if run is not None else present
        shown = shown[len(shown) - min(lines, len(shown)) :]
        if output is Output.JSON and not follow:
            console.emit_json({"data": shown})
            return
        line = event_line if output is Output.TABLE else json_line
        # Whatever is not in the table comes after what is acknowledged.
        to_come = [] if now is None else _going_on(client, present, now["ingest"]["acknowledged_seq"], filters)
        emit_lines(map(line, chain(shown, to_come)))


def _since(events: list[Document], created: str) -> list[Document]:
    """Those of the stream that was made then: of a former one, whose events the table keeps, sequences say nothing."""
    begun = datetime.fromisoformat(created)
    return [event for event in events if datetime.fromisoformat(event["stream_time"]) >= begun]


def _going_on(
    client: ApiClient, past: list[Document], whole: int, filters: dict[str, str | None]
) -> Iterator[Document]:
    """What comes after ``past``, and what was on its way between stream and table beyond sequence ``whole``."""
    known = {event["seq"] for event in past}
    first, last = (past[0]["seq"], past[-1]["seq"]) if past else (0, whole)
    for event in client.follow(after=min(whole, last), **filters):
        if event["seq"] > first and event["seq"] not in known:
            yield event


def event_line(event: Document) -> str:
    """An event as one line for people."""
    seq, when, agent, kind, what = event_row(event)
    return f"{seq:>8}  {when}  {agent:<12}  {kind:<14}  {what}"
