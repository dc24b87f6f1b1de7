"""What every command shares: settings from flags, data on stdout, chatter on stderr, errors in two lines."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from enchanted.cluster.errors import CHECK_FAILED, ClusterError
from enchanted.cluster.home import refuse_unusable

if TYPE_CHECKING:
    from enchanted.cluster.settings import Settings
    from enchanted.cluster.settings_sources import Loaded


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Invocation:
    """The options given before the command's name."""

    def __init__(self) -> None:
        self.overrides: dict[str, Any] = {}
        self.debug = False
        self.quiet = False


INVOCATION = Invocation()


def loaded_settings(**flags: Any) -> Loaded:
    """Settings with this command line's flags on top; None means not given, ``__`` nests."""
    from enchanted.cluster.settings_sources import load  # pydantic costs a tenth of a second of every `--help`

    given = {name.replace("__", "."): value for name, value in flags.items() if value is not None}
    return load({**INVOCATION.overrides, **given})


def settings(**flags: Any) -> Settings:
    """As ``loaded_settings``, without the origins.

    Raises:
        HomeRefused: the home is no folder and cannot become one.
    """
    found = loaded_settings(**flags).settings
    refuse_unusable(found.home)
    return found


def say(text: str) -> None:
    """One line of chatter."""
    if not INVOCATION.quiet:
        print(text, file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """One line of data."""
    print(text, flush=True)


def emit_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON document on stdout."""
    emit(json.dumps(document, indent=2, default=str))


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns on a terminal, tab-separated values without a heading elsewhere."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in texts:
            emit("\t".join(row))
        return
    from rich.console import Console  # only where someone looks at it
    from rich.table import Column, Table
    from rich.text import Text

    # Text, not markup: what agents wrote, or somebody named a column, must not colour or link anything.
    table = Table(*(Column(Text(name)) for name in columns), box=None, pad_edge=False, header_style="bold")
    for row in texts:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def report(error: Exception) -> int:
    """Say cause and remedy of ``error`` on stderr; returns the exit code it stands for."""
    if INVOCATION.debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, ClusterError):
        cause, remedy = error.cause, error.remedy
    else:
        # The other folders' errors are one sentence: "what is wrong; what to do".
        cause, _, remedy = str(error).partition("; ")
        cause = cause or type(error).__name__
    print(f"error: {_line(cause)}", file=sys.stderr)
    print(f"remedy: {_line(remedy) or 'run it again with `enchanted --debug …` for the traceback'}", file=sys.stderr)
    code = getattr(error, "exit_code", CHECK_FAILED)
    return code if isinstance(code, int) else CHECK_FAILED


def _line(text: str) -> str:
    """One line, with nothing in it that would do something to a terminal: others' words may be in an error."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
