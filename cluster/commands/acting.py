"""Commands that act on a run: cancel, and restore, undo and fork, which show first what they would do."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.offering import offered
from enchanted.cluster.commands.reading import AtOption, JsonOption, RunArgument, WorkspaceOption, checked_id
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.commands.reading_text import Document, one_line, plain
from enchanted.cluster.commands.run import (
    BudgetOption,
    CodersOption,
    ModelOption,
    VariableOption,
    cancel,
    follow_to_the_end,
    started,
)
from enchanted.cluster.commands.run_view import RunProgress
from enchanted.cluster.errors import CHECK_FAILED, DONE, USAGE, CommandFailed

if TYPE_CHECKING:
    from enchanted.actors.repository.restore import Preview
    from enchanted.serve.client import ApiClient

SHOWN = 20
"""Paths of a preview."""


def _given(text: str) -> Path:
    """A path; an empty one would be the current folder, which an unset variable of the shell is not meant to name."""
    if not text:
        raise CommandFailed("an empty path names no folder", "give its path; for the current folder, a dot", USAGE)
    return Path(text)


YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


def restore(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run id.", show_default=False)] = None,
    at: AtOption = None,
    into: Annotated[
        Path | None,
        typer.Option(
            help="Folder; what nobody restored or committed there stays.",
            parser=_given,
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(help="Or a new branch of the run's repository.", show_default=False)
    ] = None,
    repo: Annotated[
        Path | None,
        typer.Option(help="Another repository for --branch.", parser=_given, metavar="PATH", show_default=False),
    ] = None,
    workspace: WorkspaceOption = None,
    back: Annotated[bool, typer.Option("--back", help="Undo the last restore of the folder --into.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite work; the snapshot keeps it.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Put the files of a run at a sequence into a folder, or onto a new branch."""
    folder = None if into is None else into.expanduser().absolute()
    if back:
        if folder is None or run is not None:
            raise CommandFailed("--back needs a folder and no run", "enchanted restore --back --into FOLDER", USAGE)
        _back(folder, force=force, yes=yes, as_json=as_json)
        return
    if run is None or (folder is None) == (branch is None):
        raise CommandFailed("say which run, and where to", "enchanted restore RUN --into FOLDER", USAGE)
    body: dict[str, Any] = {"at": at, "into": None if folder is None else str(folder), "branch": branch}
    body |= {"repo": None if repo is None else str(repo.expanduser().absolute()), "workspace": workspace}
    body = {name: value for name, value in body.items() if value is not None} | {"force": force}
    with api(url, token_file) as client:
        preview = client.restore(str(checked_id(run)), body | {"dry_run": True})
        if not yes:
            _preview_restore(preview, force=force, as_json=as_json)
        body["at"] = preview["at"]
        document = client.restore(run, body)
    _tell(document, as_json=as_json)


def _back(folder: Path, *, force: bool, yes: bool, as_json: bool) -> None:
    from enchanted.actors.errors import ActorError  # git and what comes with it cost a tenth of a second of `--help`
    from enchanted.actors.repository.restore import Target
    from enchanted.bus.agent_log import new_id

    try:
        target = Target(folder)
        if not yes:
            before = {"into": str(folder), "unfinished": target.unfinished()}
            _preview_restore(before | _shown(target.preview_back()), force=force, as_json=as_json)
        done = target.put_back(operation=new_id(), force=force)
    except (ActorError, OSError) as error:
        cause, _, remedy = str(error).partition("; ")
        raise CommandFailed(cause, remedy or "look at the folder's permissions and disk", CHECK_FAILED) from error
    document = {"into": str(folder), **_shown(done.preview), "snapshot": done.snapshot}
    if as_json:
        console.emit_json({name: document[name] for name in ("into", "write", "delete", "snapshot")})
        return
    console.emit(f"{folder} is back: {len(document['write'])} files written, {len(document['delete'])} deleted")


def _shown(preview: Preview) -> dict[str, Any]:
    """A preview as the API shows it."""
    found = {name: getattr(preview, name) for name in ("write", "delete", "same", "kept", "dirty", "blocked")}
    for name in ("write", "delete", "dirty", "blocked"):
        found[name] = [os.fsencode(path).decode("utf-8", "backslashreplace") for path in found[name]]
    return found


def _preview_restore(preview: Document, *, force: bool, as_json: bool) -> None:
    if as_json:
        console.emit_json(preview)
    else:
        _show(preview)
    if preview.get("dirty") and not force:
        raise CommandFailed(
            "it would overwrite work that only this folder has", "commit it, or give --force", CHECK_FAILED
        )
    confirm("restore", as_json=as_json)


def _show(preview: Document) -> None:
    for verb in ("write", "delete", "dirty", "blocked"):
        paths = preview.get(verb, [])
        for path in paths[:SHOWN]:
            console.say(f"{verb:>8} {one_line(path, 200)}")
        if len(paths) > SHOWN:
            console.say(f"{'':>8} and {len(paths) - SHOWN} more to {verb}")
    if "branch" in preview:
        console.say(f"as one commit on branch {one_line(preview['branch'])} of {one_line(preview['repo'], 200)}")
    if "into" in preview:
        console.say(f"{preview['same']} files are as they should be, {preview['kept']} others stay")
    if preview.get("unfinished"):
        console.say(f"an earlier restore was cut off here: {preview['unfinished']}")


def _tell(document: Document, *, as_json: bool) -> None:
    if as_json:
        console.emit_json(document)
    elif document.get("commit"):
        where = f"{one_line(document['branch'])} of {one_line(document['repo'], 200)}"
        console.emit(f"branch {where} is at {document['commit'][:12]}")
    else:
        done = f"{len(document['write'])} files written, {len(document['delete'])} deleted, {document['same']} the same"
        where = f"{one_line(document['into'], 200)} is {one_line(document['run_id'])}"
        console.emit(f"{where} at {document['at']}: {done}")
        if document["snapshot"]:
            console.say(f"what was there is in {document['snapshot']}/old; `enchanted restore --back --into` undoes it")


def undo(
    run: RunArgument,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="A state change.", show_default=False)],
    yes: YesOption = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Take one change of a run back and keep later work, or say what conflicts."""
    with api(url, token_file) as client:
        if not yes:
            preview = client.undo(run, event_id, dry_run=True)
            if as_json:
                console.emit_json(preview)
            else:
                console.say(_variable_text(preview) if preview["variable"] else plain(preview["patch"]))
            confirm("undo it", as_json=as_json)
        document = client.undo(run, event_id)
    if as_json:
        console.emit_json(document)
        return
    what = _variable_text(document) if document["variable"] else one_line(", ".join(document["files"]), 2_000)
    console.emit(f"undone as {document['undo_event_id']} (sequence {document['seq']}): {what}")
    if document["branch"]:
        console.say(one_line(document["branch"], 200))


def _variable_text(document: Document) -> str:
    variable = document["variable"]
    before, after = (
        one_line(json.dumps(variable[value], ensure_ascii=False), 200) if variable[has] else "not set"
        for has, value in (("was_set", "before"), ("is_set", "after"))
    )
    return f"variable {one_line(variable['name'])} in workspace {one_line(document['workspace'])}: {before} -> {after}"


def fork(
    run: RunArgument,
    at: AtOption = None,
    model: ModelOption = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="Another task, in this file: plans anew from there.", show_default=False)
    ] = None,
    check: Annotated[list[str] | None, typer.Option(help="Other checks; may be repeated.", show_default=False)] = None,
    coders: CodersOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed.", show_default=False)] = None,
    repo: Annotated[
        Path | None, typer.Option(help="Repository for the branch.", parser=_given, metavar="PATH", show_default=False)
    ] = None,
    budget: BudgetOption = None,
    variable: VariableOption = None,
    yes: YesOption = False,
    detach: Annotated[bool, typer.Option("--detach", help="Print the new run's id and return.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Go on from a run's state at a sequence, live, as a new run."""
    begun = time.monotonic()
    body: dict[str, Any] = {"at": at, "model": model, "checks": check or None, "coders": coders, "seed": seed}
    body |= {"repo": None if repo is None else str(repo.expanduser().absolute()), "task": _text_of(prompt_file)}
    body = {name: value for name, value in body.items() if value is not None}
    if budget is not None:
        body["budget"] = {"seconds": budget}
    if variable:
        body["variables"] = offered(variable)
    with api(url, token_file) as client:
        parent = client.run(run)
        if not yes:
            begin = _begin_of_fork(client, run, at)
            body["at"] = begin["at"]
            client.fork(run, body | {"dry_run": True})
            _show_fork(begin, as_json=as_json)
            confirm("fork it", as_json=as_json)
        run_id = started(client, lambda key: client.fork(run, body, key=key))
        place = body.get("repo") or (parent["request"] or {}).get("repo", "")
        follow_to_the_end(client, run_id, place, detach=detach, as_json=as_json, begun=begun)


def _show_fork(begin: Document, *, as_json: bool) -> None:
    if as_json:
        console.emit_json(begin)
        return
    console.say(f"{begin['run_id']} at {begin['at']}: {begin['state'] or 'no state'}, {begin['files']} files")
    for task in begin["tasks"]:
        console.say(f"task {one_line(task['task_id'])}: {task['state']} {one_line(task['reason'])}")


def _begin_of_fork(client: ApiClient, run: str, at: int | None) -> Document:
    """Where the fork would begin, as a document."""
    state = client.state(run, at=at)
    files = state["workspaces"].get("main", {"files": []})["files"]
    return {"run_id": run, "at": state["at"], "state": state["state"], "files": len(files), "tasks": state["tasks"]}


def _text_of(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{path} cannot be read as text: {error}", "give a UTF-8 text file", USAGE) from error


def confirm(what: str, *, as_json: bool = False) -> None:
    """Ask whether to do ``what``, after its preview.

    Raises:
        CommandFailed: nobody can be asked, or they said no.
        KeyboardInterrupt: they pressed Ctrl-C.
    """
    # Who reads JSON gets one document: a question would lead to a second one.
    if as_json or not sys.stdin.isatty():
        raise CommandFailed("nothing was changed: this was the preview", f"add --yes to {what}", USAGE)
    if not _agreed(what):
        raise CommandFailed("nothing was changed", f"answer y to {what}", USAGE)


def _agreed(what: str) -> bool:
    try:
        return typer.confirm(f"{what}?", err=True)
    except typer.Abort as abort:  # Ctrl-C and Ctrl-D alike
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from abort
        typer.echo(err=True)  # the error begins a line of its own
        return False


def cancel_run(
    run: RunArgument, as_json: JsonOption = False, url: UrlOption = None, token_file: TokenOption = None
) -> None:
    """Ask a run to end, and wait until it has its verdict; one that has keeps it."""
    with api(url, token_file) as client:
        progress, known = RunProgress(run, time.monotonic()), client.run(run)
        progress.close(known) if known["closed"] else cancel(client, progress)
    if as_json:
        console.emit_json({"run_id": run, "verdict": progress.state or None, "reason": progress.reason})
    elif progress.closed:
        console.emit(one_line(f"{run} {progress.state}: {progress.reason}"))
    raise typer.Exit(DONE if progress.closed else CHECK_FAILED)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("cancel")(cancel_run)
    app.command("restore")(restore)
    app.command("undo")(undo)
    app.command("fork")(fork)
