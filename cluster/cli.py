"""`enchanted`: the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands import (
    acting,
    bench,
    comparing,
    data,
    importing,
    play,
    querying,
    reading,
    reading_files,
    reading_moments,
    reading_proof,
    recovering,
    rerun,
    run,
    services,
)
from enchanted.cluster.errors import DONE, INTERRUPTED, READER_GONE, USAGE, CommandFailed

app = typer.Typer(
    name="enchanted",
    help="A swarm of software-engineering agents with a durable, queryable, replayable log.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        console.emit(f"enchanted {version('enchanted-swarm')}")
        raise typer.Exit


@app.callback()
def options(
    home: Annotated[
        Path | None, typer.Option(help="Folder of the embedded services' state.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No chatter on stderr, only errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options of every command."""
    console.INVOCATION.overrides = {} if home is None else {"home": home}
    console.INVOCATION.quiet = quiet
    console.INVOCATION.debug = debug


for module in (
    services,
    run,
    reading,
    reading_files,
    reading_moments,
    reading_proof,
    recovering,
    querying,
    play,
    comparing,
    rerun,
    importing,
    acting,
    data,
    bench,
):
    module.register(app)


def refuse_undecodable(arguments: Sequence[str]) -> None:
    """Raise CommandFailed for an argument that is not UTF-8: it can get into no event, request or file."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise CommandFailed(f"the argument {argument!r} is not UTF-8", "write it in UTF-8", USAGE) from error


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    try:
        refuse_undecodable(sys.argv[1:] if arguments is None else arguments)
        app(arguments, prog_name="enchanted")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            return READER_GONE
        return end.code if isinstance(end.code, int) else DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the process boundary: nothing else turns an error into two lines and a code
        return console.report(error)
    return DONE


def main() -> None:
    """Entry point of the console script."""
    sys.exit(execute())
