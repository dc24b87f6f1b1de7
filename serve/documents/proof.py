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


class PatchesDocument(BaseModel):
    """Whether the patches of a run lead from each tree that it names to the next; to the first that does not."""

    run_id: str
    intact: bool | None
    """Null where not every change could be held against its trees: see `why`, `skipped` and `whole`."""
    whole: bool
    """The end of the run was reached."""
    changes: int
    """Changes of files that lead where they say."""
    skipped: int
    """Changes by producers without a chain, whose beginning is no tree of the run."""
    until: int
    """The sequence up to which everything was looked at."""
    seconds: float
    why: str
    """Why it could not go on; empty where it could, or where the time was over."""
    first_bad: FaultDocument | None


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
    patches: PatchesDocument | None = None
    """With `deep`; a false patch makes `intact` false too."""
