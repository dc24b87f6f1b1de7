"""Variables that a command line offers to the checks of a run."""

from __future__ import annotations

from collections.abc import Iterable

from enchanted.actors.tools.variables import BadVariable, require_offerable
from enchanted.cluster.errors import USAGE, CommandFailed


def offered(given: Iterable[str]) -> dict[str, list[str]]:
    """Name -> values, of ``NAME=VALUE[,VALUE...]``; a name given again has more values.

    Raises:
        CommandFailed: one is of another form, or may not be offered.
    """
    offers: dict[str, list[str]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals:
            raise CommandFailed(f"--variable {text!r:.100} has no value", "give NAME=VALUE[,VALUE...]", USAGE)
        offers[name] = list(dict.fromkeys([*offers.get(name, ()), *values.split(",")]))
    try:
        require_offerable(offers)
    except BadVariable as error:
        cause, _, remedy = str(error).rpartition("; ")
        raise CommandFailed(cause, remedy, USAGE) from error
    return offers
