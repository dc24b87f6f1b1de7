"""The roles of one run, as the Orchestrator calls them."""

from __future__ import annotations

from typing import Protocol

from enchanted.actors.errors import ActorError
from enchanted.actors.work import (
    Assignment,
    CheckReport,
    CheckRequest,
    Plan,
    PlanRequest,
    Review,
    ReviewRequest,
    Submission,
)


class AgentLost(ActorError):
    """A role's process ended while it worked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} ended in the middle of its work; the task is given to a new one")


class Team(Protocol):
    """The roles of one run, wherever they live. A role that dies is replaced; its caller gets `AgentLost`."""

    @property
    def coders(self) -> int:
        """How many Coders can work at once."""

    async def plan(self, request: PlanRequest) -> Plan:
        """Ask the Architect."""

    async def code(self, coder: int, job: Assignment) -> Submission:
        """Give a task to a Coder (0, 1, ...)."""

    async def check(self, request: CheckRequest) -> CheckReport:
        """Have the Reviewer run the checks."""

    async def review(self, request: ReviewRequest) -> Review:
        """Have the Reviewer judge a candidate."""

    async def disband(self) -> None:
        """End every role; returns when they write no more."""
