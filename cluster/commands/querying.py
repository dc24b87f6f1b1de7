"""Commands that ask across runs: statistics of agents, SQL, unsure decisions, exports. All through the HTTP API."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import (
    AgentOption,
    JsonOption,
    KindOption,
    RoleOption,
    SomeRunArgument,
    TextOption,
)
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, json_line, one_line, plain
from enchanted.cluster.errors import USAGE, CommandFailed
from enchanted.cluster.whole_file import written

AGENT_COLUMNS = (
    "agent", "name", "role", "start", "events", "decisions", "confidence", "changes", "reverts", "calls", "errors",
    "tokens", "model p95 ms",
)  # fmt: skip
FACET_COLUMNS = ("facet", "value", "events", "first_seq", "last_seq")
LEDGER_COLUMNS = ("seq", "run", "agent", "confidence", "taken back", "at", "rationale")
CELL = 200
"""Characters of a value in a table."""


class Bucket(StrEnum):
    """How fine statistics are."""

    HOUR = "hour"
    DAY = "day"
    WHOLE = "whole"


class By(StrEnum):
    """What statistics are of."""

    AGENT = "agent"
    NAME = "name"
    ROLE = "role"


class FileFormat(StrEnum):
    """How an export is written."""

    NDJSON = "ndjson"
    ARROW = "arrow"
    PARQUET = "parquet"


SinceOption = Annotated[str | None, typer.Option(help="Stored at or after this time (RFC 3339).")]
UntilOption = Annotated[str | None, typer.Option(help="Stored before this time (RFC 3339).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for name, command in (
        ("facets", facets),
        ("agents", agents),
        ("sql", sql),
        ("decisions", decisions),
        ("export", export),
    ):
        app.command(name)(command)


def facets(
    run: SomeRunArgument = None,
    agent: AgentOption = None,
    role: RoleOption = None,
    kind: KindOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    text: TextOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Values of each facet, the most frequent first.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show which tools, outcomes, models, agents and so on events have, and how many events have each."""
    filters = {"run": run, "agent": agent, "role": role, "kind": kind, "since": since, "until": until, "q": text}
    with api(url, token_file) as client:
        answer = client.facets(**filters, limit=limit)
    if as_json:
        console.emit_json(answer)
        return
    rows = ((name, value) for name, values in answer["data"].items() for value in values)
    console.emit_table(FACET_COLUMNS, ((name, *_facet_cells(value)) for name, value in rows))
    if hidden := answer["meta"]["truncated"]:
        console.say(f"more values of {', '.join(hidden)} are not shown: --limit {min(1_000, limit * 2)}")


def _facet_cells(value: Document) -> tuple[str, ...]:
    return (one_line(value["value"], CELL), *(str(value[name]) for name in FACET_COLUMNS[2:]))


def agents(
    run: SomeRunArgument = None,
    agent: AgentOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    bucket: Annotated[Bucket, typer.Option(help="A row for each hour or day (UTC), or one for all.")] = Bucket.WHOLE,
    by: Annotated[By, typer.Option(help="An agent is a process; its name goes on after a restart.")] = By.AGENT,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Rows.")] = 1_000,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show what agents did: decisions, changes, reverts, errors, confidence, tokens, latency."""
    filters = {"run": run, "agent": agent, "since": since, "until": until, "bucket": bucket, "by": by, "limit": limit}
    with api(url, token_file) as client:
        page = client.agent_stats(**filters)
    if as_json:
        console.emit_json(page)
        return
    console.emit_table(AGENT_COLUMNS, map(_agent_row, page["data"]))
    if page["meta"]["truncated"]:
        console.say("more rows are not shown: name an agent, a run or a shorter time")


def _agent_row(row: Document) -> tuple[str, ...]:
    tokens, latency = row["input_tokens"] + row["output_tokens"], row["latency_ms"]["model_call"]["p95"]
    numbers = ("changes", "reverts")
    return (
        one_line(row["agent"], 36),
        one_line(row["name"], 24),
        row["role"],
        f"{row['start'][:19]}Z",
        str(row["events"]),
        str(row["decisions"]),
        _number(row["confidence"], 2),
        *(str(row[name]) for name in numbers),
        str(row["model_calls"] + row["tool_calls"]),
        str(row["errors"]),
        str(tokens),
        _number(latency, 0),
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT; `-` reads it from stdin.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows.")] = 1_000,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Ask with one SELECT over events, events_list, spans and agent_hourly."""
    text = sys.stdin.read() if query == "-" else query
    with api(url, token_file) as client:
        answer = client.sql(text, limit=limit)
    if as_json:
        console.emit_json(answer)
    else:
        names = [one_line(column["name"], CELL) for column in answer["columns"]]
        console.emit_table(names, (list(map(_cell, row)) for row in answer["rows"]))
    if answer["meta"]["truncated"]:
        console.say(f"only {limit} rows are shown: --limit N, or `enchanted export`")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return one_line(value, CELL)
    return "" if value is None else one_line(json_line({"": value})[4:-1], CELL)


def decisions(
    run: SomeRunArgument = None,
    below: Annotated[float, typer.Option(min=0, max=2, help="Only those with less confidence.")] = 0.5,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Rows.")] = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show unsure decisions that led to a change which an undo or a rollback took back."""
    with api(url, token_file) as client:
        page = client.reverted_decisions(run=run, below=below, limit=limit)
    if as_json:
        console.emit_json(page)
        return
    console.emit_table(LEDGER_COLUMNS, map(_decision_row, page["data"]))
    if page["meta"]["truncated"]:
        console.say("more decisions are not shown: --limit N, or name a run")


def _decision_row(row: Document) -> tuple[str, ...]:
    seqs = [str(change["seq"]) for change in row["changes"]]
    at = sorted({change["reverted_at"] for change in row["changes"]})
    return (
        str(row["seq"]),
        plain(row["run"]),
        one_line(row["agent_name"] or row["agent_id"], 24),
        f"{row['confidence']:.2f}",
        one_line(" ".join(seqs), 40),
        one_line(" ".join(map(str, at)), 40),
        one_line(row["rationale"]),
    )


def export(
    run: SomeRunArgument = None,
    file_format: Annotated[
        FileFormat | None, typer.Option("--format", help="How it is written; ndjson by default.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default stdout.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write the run as one HTML file that needs nothing else.", show_default=False),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="What was written where, as one JSON document; for a file.")
    ] = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Write every event of a run, or of a time, as lines of JSON, an Arrow stream or a Parquet file; a run as HTML."""
    if html is not None:
        if any(one is not None for one in (file_format, output, since, until)):
            cause = "--html names its file and is of a whole run, without --format, --output, --since and --until"
            raise CommandFailed(cause, "leave those away, or --html", USAGE)
        _to_html(run, html, url, token_file, as_json=as_json)
        return
    file_format = file_format or FileFormat.NDJSON
    if output is None and as_json:
        cause = "--json describes a file, and stdout has the events themselves"
        raise CommandFailed(cause, "give --output FILE; without --json, ndjson is JSON already", USAGE)
    if output is None and file_format is not FileFormat.NDJSON and sys.stdout.isatty():
        raise CommandFailed(f"{file_format} is not for a terminal", "give --output FILE", USAGE)
    with api(url, token_file) as client:
        what = {"run": run, "format": file_format, "since": since, "until": until}
        pieces = client.export(**what)
        if output is None:
            _to_stdout(pieces)
            return
        _to_file(output, pieces, what, as_json=as_json)


def _to_html(run: str | None, output: Path, url: str | None, token_file: Path | None, *, as_json: bool) -> None:
    if run is None:
        raise CommandFailed("--html is of one run", "`enchanted runs` lists them", USAGE)
    with api(url, token_file) as client:
        _to_file(output, client.export_html(run), {"run": run, "format": "html"}, as_json=as_json)


def _to_file(output: Path, pieces: Iterable[bytes], what: Document, *, as_json: bool) -> None:
    size, digest = 0, hashlib.sha256()
    with written(output) as file:
        for piece in pieces:
            file.write(piece)
            size += len(piece)
            digest.update(piece)
    if as_json:
        console.emit_json({"file": str(output), **what, "bytes": size, "sha256": digest.hexdigest()})
    else:
        console.say(f"{output}: {size} bytes")


def _to_stdout(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
