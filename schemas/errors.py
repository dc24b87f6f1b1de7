"""One class per condition; every message names the remedy."""

from __future__ import annotations

from typing import Any


class PortableError(Exception):
    """An error that travels between processes: rebuilt from its message and attributes, not from its arguments."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(kind: type[PortableError], message: str, attributes: dict[str, Any]) -> PortableError:
    error = kind.__new__(kind, message)
    error.__dict__.update(attributes)
    return error


class SchemaError(PortableError):
    """Base of everything the contract can object to."""


class NotAnEvent(SchemaError):
    """The bytes are not a SwarmEvent."""

    def __init__(self, why: str) -> None:
        super().__init__(f"not a SwarmEvent: {why}; publish a serialised enchanted.events.v1.SwarmEvent")


class ChainBroken(SchemaError):
    """An event does not continue its agent's chain."""

    def __init__(self, agent_id: str, why: str) -> None:
        super().__init__(f"chain of agent {agent_id}: {why}; `enchanted verify RUN` names the first bad event")


class TreeNotUnderstood(SchemaError):
    """What ClickHouse printed of a statement is no syntax tree."""

    def __init__(self) -> None:
        super().__init__("the statement's syntax tree is not understood; write it more simply")


class BadReceipt(SchemaError):
    """The file is no receipt of this run, or not whole."""

    exit_code = 2

    def __init__(self, why: str) -> None:
        super().__init__(f"the receipt cannot be used: {why}; `enchanted verify RUN --export FILE` makes one")
