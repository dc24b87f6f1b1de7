"""`enchanted compare`: two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import JsonOption, RunArgument, checked_id
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, one_line, plain
from enchanted.serve.client_errors import ApiUnreachable

if TYPE_CHECKING:
    from enchanted.serve.client import ApiClient

ROWS = (
    "state", "reason", "seconds", "events", "decisions", "changes", "model_calls", "tool_calls", "input_tokens",
    "output_tokens",
)  # fmt: skip
FILES = 20
"""That are named where no diffs are asked for."""
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
        bool,
        typer.Option("--diffs", help="Show the diffs of the files that differ too; both runs' files may be rebuilt."),
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show two runs side by side: where they part first, what they cost, which files differ."""
    with api(url, token_file) as client:
        document: Document = client.compare(run, str(checked_id(other)))
        if not as_json:
            _costs(document)
            _parting(document)
        if diffs:
            document = _with_diffs(client, document)
    if as_json:
        console.emit_json(document)
    else:
        _files(document, whole=diffs)


def _with_diffs(client: ApiClient, document: Document) -> Document:
    """The same comparison with diffs, or with why there are none: rebuilding may take longer than anybody waits."""
    try:
        return client.compare(document["a"]["run_id"], document["b"]["run_id"], diffs=True)
    except ApiUnreachable as error:
        return {**document, "diffs_unavailable": str(error)}


def _costs(document: Document) -> None:
    a, b = document["a"], document["b"]
    rows = [(name, one_line(str(a[name])), one_line(str(b[name]))) for name in ROWS]
    console.emit_table(("", a["run_id"], b["run_id"]), rows)
    forked_at = document["forked_at"] or document["a_forked_at"]
    since = f" since the fork at {forked_at}" if forked_at else ""
    console.say(f"{document['equal_events']} events are the same{since}")


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
        # Only at newlines: a line of a file may hold other characters that str.splitlines() breaks at.
        for line in file["diff"].removesuffix("\n").split("\n") if file["diff"] else ():
            console.say(f"  {plain(line)}")
    if document["files_differing"] > len(files):
        console.say(f"and {document['files_differing'] - len(files)} more files")
    if document["diffs_unavailable"]:
        console.say(f"no diffs: {one_line(document['diffs_unavailable'], 400)}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)
