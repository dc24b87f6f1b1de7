"""What a check of a run's log found."""

from __future__ import annotations

from pydantic import BaseModel


class FaultDocument(BaseModel):
    """What is wrong, and where."""

    seq: int
    """0 where the event itself is missing."""
    agent_id: str
    agent_seq: int
    why: str


class StreamCheck(BaseModel):
    """The comparison of the table with the stream."""

    checked: bool
    why: str = ""
    """Why it was not checked."""
    events: int = 0
    only_in_stream: list[int] = []
    only_in_table: list[int] = []
    differing: list[int] = []


class VerifyDocument(BaseModel):
    """Both verdicts over a run."""

    run_id: str
    intact: bool
    complete: bool
    checked: int
    last_seq: int
    """Of what was checked; what came while it was is left to the next look."""
    closed: bool
    unanchored: int
    """Chained events that no closing transition vouches for."""
    first_bad: FaultDocument | None
    missing: list[FaultDocument]
    stream: StreamCheck
