"""Commands about one file of a run: every change of it, and who wrote each line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import AtOption, JsonOption, PathHexOption, RunArgument, WorkspaceOption
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, one_line, plain
from enchanted.cluster.errors import USAGE, CommandFailed

HISTORY_COLUMNS = ("seq", "reason", "agent", "mode", "blob", "decision", "path")
BLAME_COLUMNS = ("seq", "agent", "decision", "line", "text")
WIDEST = 1_000
"""Characters of a line that are shown."""

PathArgument = Annotated[
    str | None, typer.Argument(metavar="[PATH]", help="The file, from the workspace's root.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("history")(show_history)
    app.command("blame")(show_blame)


def show_history(
    run: RunArgument,
    path: PathArgument = None,
    path_hex: PathHexOption = None,
    at: AtOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """List every change of a file, the newest last."""
    _check_one_name(path, path_hex)
    with api(url, token_file) as client:
        document = client.history(run, path, path_hex=path_hex, at=at, workspace=workspace)
    if as_json:
        console.emit_json(document)
    else:
        console.emit_table(HISTORY_COLUMNS, map(_change_row, document["data"]))


def show_blame(
    run: RunArgument,
    path: PathArgument = None,
    path_hex: PathHexOption = None,
    at: AtOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show each line of a file with the change, the agent and the decision behind it."""
    _check_one_name(path, path_hex)
    with api(url, token_file) as client:
        document = client.blame(run, path, path_hex=path_hex, at=at, workspace=workspace)
    if as_json:
        console.emit_json(document)
    else:
        console.emit_table(BLAME_COLUMNS, _line_rows(document))


def _check_one_name(path: str | None, path_hex: str | None) -> None:
    if (path is None) == (path_hex is None):
        many = "no file is named" if path is None else "a file has one name"
        raise CommandFailed(many, "give PATH, or --path-hex for a name that is not UTF-8", USAGE)


def _change_row(change: Document) -> tuple[str, ...]:
    blob = change["new_blob"][:12] or "removed"
    agent = one_line(change["agent_name"] or change["agent_id"], 24)
    return (
        str(change["seq"]),
        one_line(change["reason"]),
        agent,
        one_line(change["new_mode"]),
        one_line(blob),
        one_line(change["decision_id"], 40),
        one_line(change["path"], 400),
    )


def _line_rows(document: Document) -> Iterator[tuple[str, ...]]:
    for line in document["lines"]:
        agent = one_line(line["agent_name"] or line["agent_id"], 24)
        text = plain(line["text"][:WIDEST]).replace("\t", "    ")
        # Of a fork a line may be of a change of the run before it.
        run = "" if line["run_id"] == document["run_id"] else f"{one_line(line['run_id'], 64)} "
        yield f"{run}{line['seq']}", agent, one_line(line["decision_id"], 40), str(line["line"]), text
