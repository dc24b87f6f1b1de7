"""Runs, and pages of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from enchanted.serve.documents.events import PageMeta


class RunDocument(BaseModel):
    """Where a run stands."""

    run_id: str
    trace_id: str
    state: str
    """Empty for producers that send no transitions."""
    closed: bool
    reason: str
    details: Any = None
    """Of the transition into the current state."""
    request: Any = None
    """Of the run's first transition."""
    started_at: str
    updated_at: str
    """Both by the stream's clock."""
    seconds: float
    """From the first transition to the close, by the clocks of who wrote them; of an open run, what the stream saw."""
    first_seq: int
    last_seq: int
    events: int
    agents: int
    decisions: int
    changes: int
    model_calls: int
    tool_calls: int
    input_tokens: int
    output_tokens: int


class ListedRun(RunDocument):
    """A run in a list."""

    activity: list[int]
    """How many events fell into each of 24 equal stretches of its time."""


class RunPage(BaseModel):
    """Runs, the newest first."""

    data: list[ListedRun]
    meta: PageMeta


class StartedRun(BaseModel):
    """A run that was accepted."""

    run_id: str
    """Empty for a dry run, as is the address."""
    url: str
