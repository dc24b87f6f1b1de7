"""One class per condition; every message names the remedy."""

from __future__ import annotations


class SchemaError(Exception):
    """Base of everything the contract can object to."""


class NotAnEvent(SchemaError):
    """The bytes are not a SwarmEvent."""

    def __init__(self, why: str) -> None:
        super().__init__(f"not a SwarmEvent: {why}; publish a serialised enchanted.events.v1.SwarmEvent")


class ChainBroken(SchemaError):
    """An event does not continue its agent's chain."""

    def __init__(self, agent_id: str, why: str) -> None:
        super().__init__(f"chain of agent {agent_id}: {why}; `enchanted verify RUN` names the first bad event")
