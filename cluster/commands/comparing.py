"""`enchanted compare`: two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import JsonOption, RunArgument, checked_id
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, one_line, plain

ROWS = (
    "state", "reason", "seconds", "events", "decisions", "changes", "model_calls", "tool_calls", "input_tokens",
    "output_tokens",
)  # fmt: skip
FILES = 20
LINES = 20
"""Of a file's diff that are shown unasked."""
WIDEST = 400
"""Characters of a line that are shown unasked."""
NOTES = {
    "binary": "binary",
    "cut": "the diff goes on: it is cut after 32 KiB",
    "too large": "no diff: it is larger than 1 MiB",
    "left out": "no diff: there is too much before it",
    "unavailable": "no diff",
}


def compare(
    run: RunArgument,
    other: Annotated[
        str,
        typer.Argument(
            metavar="OTHER", help="Another run, a fork of it, or what it was forked from.", show_default=False
        ),
    ],
    diffs: Annotated[
        bool | None,
        typer.Option(
            "--diffs/--no-diffs",
            help="Show whole diffs of the files that differ, or none; by default the beginning of each.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show two runs side by side: where they part first, what they cost, how their files differ."""
    with api(url, token_file) as client:
        document = client.compare(run, str(checked_id(other)), diffs=diffs is not False)
    if as_json:
        console.emit_json(document)
        return
    a, b = document["a"], document["b"]
    rows = [(name, one_line(str(a[name])), one_line(str(b[name]))) for name in ROWS]
    console.emit_table(("", a["run_id"], b["run_id"]), rows)
    forked_at = document["forked_at"] or document["a_forked_at"]
    since = f" since the fork at {forked_at}" if forked_at else ""
    console.say(f"{document['equal_events']} events are the same{since}")
    _parting(document)
    _files(document, whole=bool(diffs))


def _parting(document: Document) -> None:
    parting = document["divergence"]
    if parting is None:
        console.say("they never part")
        return
    sides = [(side, parting[side]) for side in ("a", "b")]
    places = [f"{side} at {event['seq']}" if event else f"{side} says nothing more" for side, event in sides]
    console.say(f"they part first at {one_line(parting['agent'])}: {', '.join(places)}")
    for one in parting["differences"][:5]:
        console.say(f"  {one['field']}: {one_line(one['a'])} | {one_line(one['b'])}")


def _files(document: Document, *, whole: bool) -> None:
    files = document["files"] if whole else document["files"][:FILES]
    for file in files:
        note = NOTES.get(file["diff_note"], "")
        console.say(f"differs: {one_line(file['path'], 200)}{f' ({note})' if note else ''}")
        _diff(file["diff"].splitlines(), whole=whole)
    if document["files_differing"] > len(files):
        console.say(f"and {document['files_differing'] - len(files)} more files")
    if document["diffs_unavailable"]:
        console.say(f"no diffs: {one_line(document['diffs_unavailable'], 400)}")


def _diff(lines: Sequence[str], *, whole: bool) -> None:
    shown = lines if whole else [line[:WIDEST] for line in lines[:LINES]]
    for line in shown:
        console.say(f"  {plain(line)}")
    if len(lines) > len(shown):
        console.say(f"  and {len(lines) - len(shown)} more lines; --diffs shows them")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)
