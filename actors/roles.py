"""A role of a run put together: the same live and in a rerun, so that only model, site and log differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from enchanted.actors.agent import Agent
from enchanted.actors.architect import Architect
from enchanted.actors.coder import Coder
from enchanted.actors.desk import Site
from enchanted.actors.models.model import Model
from enchanted.actors.reviewer import Reviewer
from enchanted.actors.work import CheckReport, RoleName, RunRequest
from enchanted.bus.agent_log import AgentLog


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a role asks its model."""

    guided: bool
    """It only chooses among what tools found."""
    temperature: float


def make_role(
    role: RoleName,
    request: RunRequest,
    *,
    name: str,
    number: int,
    log: AgentLog,
    model: Model,
    manner: Manner,
    site: Site,
    reports: Iterable[CheckReport] = (),
) -> Architect | Coder | Reviewer:
    """The role; ``number`` says which of the Coders, and makes their seeds differ; ``reports`` are a Reviewer's own."""
    agent = Agent(
        name=name,
        run_id=request.run_id,
        log=log,
        model=model,
        seed=request.seed * 100 + number,
        temperature=manner.temperature,
    )
    if role == "architect":
        return Architect(agent, guided=manner.guided)
    if role == "coder":
        return Coder(agent, site, guided=manner.guided, budget=request.budget, offers=request.variables)
    return Reviewer(agent, site, checks=request.checks, guided=manner.guided, reports=reports)
