"""Commands that look at a run at a sequence: its state, one file, an agent's context window, and what changed."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading import (
    AtOption,
    JsonOption,
    PathHexOption,
    RunArgument,
    WorkspaceOption,
    value_text,
)
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, emit_content, one_line, plain
from enchanted.cluster.errors import USAGE, CommandFailed


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("state")(show_state)
    app.command("diff")(show_diff)


def show_state(
    run: RunArgument,
    at: AtOption = None,
    path: Annotated[str | None, typer.Option(help="Print this file's content.")] = None,
    path_hex: PathHexOption = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="AGENT", help="Print what this agent's model was given last; id or name."),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Show a run's files at a sequence, one file's content, or an agent's context window."""
    if sum(one is not None for one in (path, path_hex, context)) > 1:
        raise CommandFailed("more than one thing is asked for", "give --path, --path-hex or --context", USAGE)
    with api(url, token_file) as client:
        if context is not None:
            document = client.context(run, context, at=at)
        else:
            document = client.state(run, at=at, path=path, path_hex=path_hex, workspace=workspace)
    if as_json:
        console.emit_json(document)
    elif context is not None:
        _show_context(document)
    elif "content" in document:
        text = document["content"]
        emit_content(b64decode(text) if document["encoding"] == "base64" else text.encode())
    else:
        _show_state(document, workspace or "main")


def _show_state(document: Document, workspace: str) -> None:
    state = f"{document['state'] or 'no state'} {one_line(document['reason'])}"
    console.say(f"{document['run_id']} at {document['at']}: {state}")
    for task in document["tasks"]:
        console.say(f"task {plain(task['task_id'])}: {task['state']} {one_line(task['reason'])}")
    for line in _values(document, workspace):
        console.say(line)
    console.emit_table(("path", "mode", "size", "seq"), _files(document, workspace))


def _values(document: Document, workspace: str) -> Iterator[str]:
    space = document["workspaces"].get(workspace, {"variables": [], "schema_objects": []})
    for kind in ("variables", "schema_objects"):
        for one in space[kind]:
            value = "(stored apart)" if one["stored_apart"] else value_text(one["value"])
            yield f"{kind.removesuffix('s').replace('_', ' ')} {one_line(one['name'])}: {one_line(value)}"


def _files(document: Document, workspace: str) -> Iterator[tuple[str, ...]]:
    for file in document["workspaces"].get(workspace, {"files": []})["files"]:
        yield one_line(file["path"], 400), file["mode"], str(file["size"]), str(file["seq"])


_MATCHES = {
    True: "their hash is the recorded one",
    False: "their hash is NOT the recorded one",
    None: "no hash is recorded",
}


def _show_context(document: Document) -> None:
    agent, model = one_line(document["name"]), one_line(document["model"])
    console.say(f"{agent} at {document['seq']}, given to {model}; {_MATCHES[document['matches']]}")
    messages = document["messages"]
    for message in messages if isinstance(messages, list) else [messages]:
        # Whoever wrote the event chose the form.
        if isinstance(message, dict) and message.keys() == {"role", "content"}:
            console.emit(f"--- {one_line(value_text(message['role']))}\n{plain(value_text(message['content']))}")
        else:
            console.emit(f"---\n{plain(value_text(message))}")


def show_diff(
    run: RunArgument,
    start: Annotated[int, typer.Option("--from", min=0, help="The sequence to begin at.", show_default=False)],
    end: Annotated[
        int,
        typer.Option(
            "--to", min=0, help="The sequence to end at; an earlier one gives the way back.", show_default=False
        ),
    ],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Print what changed between two sequences, as a unified diff."""
    with api(url, token_file) as client:
        patch = client.diff(run, start, end, workspace=workspace)
    if as_json:
        where = {"run_id": run, "from": start, "to": end, "workspace": workspace or "main"}
        console.emit_json({**where, "patch": patch})
    else:
        emit_content(patch.encode())
