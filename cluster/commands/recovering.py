"""`enchanted recover`: the last valid state of a run, and how to go on from it."""

from __future__ import annotations

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import JsonOption, RunArgument
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, one_line, plain
from enchanted.cluster.errors import CHECK_FAILED

SHOWN = 20
"""Later states that are named."""


def recover(
    run: RunArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Find the last state of a run whose checks passed and whose log verifies; exit 1 when there is none."""
    with api(url, token_file) as client:
        document = client.recovery(run)
    if as_json:
        console.emit_json(document)
    else:
        console.emit(_found(document))
    _explain(document)
    if document["valid"] is None:
        raise typer.Exit(CHECK_FAILED)


def _found(document: Document) -> str:
    valid, run = document["valid"], document["run_id"]
    if valid is None:
        return f"{run}: no valid state"
    where = f"sequence {valid['seq']} ({one_line(valid['reason'])}, tree {valid['tree'][:12]})"
    return f"{run}: the last valid state is {where}, checked at {valid['checked_at']}"


def _explain(document: Document) -> None:
    for state in document["later"][-SHOWN:]:
        console.say(f"not valid: sequence {state['seq']} ({plain(state['reason'])}): {one_line(state['why_not'], 300)}")
    if (more := document["later_states"] - SHOWN) > 0:
        console.say(f"and {more} before those")
    if fault := document["fault"]:
        console.say(f"the log does not verify from sequence {fault['seq']} on: {one_line(fault['why'], 300)}")
    if not document["closed"]:
        console.say(f"the run is still at work ({document['state'] or 'no state'}): this may change")
    if document["valid"] is None and document["base"]:
        console.say("what the run began with can be had, its checks did not pass:")
    for command in document["next"]:
        console.say(f"next: {command}")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("recover")(recover)
