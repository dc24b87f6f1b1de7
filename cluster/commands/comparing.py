"""`enchanted compare`: two runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import JsonOption, RunArgument, checked_id
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, one_line

ROWS = ("state", "reason", "events", "decisions", "changes", "model_calls", "tool_calls", "output_tokens")
FILES = 20


def compare(
    run: RunArgument,
    other: Annotated[
        str,
        typer.Argument(
            metavar="OTHER", help="Another run, a fork of it, or what it was forked from.", show_default=False
        ),
    ],
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show two runs side by side: where they part first, what they cost, which files differ."""
    with api(url, token_file) as client:
        document = client.compare(run, str(checked_id(other)))
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
    for file in document["files"][:FILES]:
        console.say(f"differs: {one_line(file['path'], 200)}")
    if document["files_differing"] > FILES:
        console.say(f"and {document['files_differing'] - FILES} more files")


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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)
