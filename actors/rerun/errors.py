"""Why a run cannot be run again; every message names the remedy."""

from __future__ import annotations

from enchanted.actors.errors import ActorError


class CannotRerun(ActorError):
    """The log does not hold what a rerun needs."""

    def __init__(self, run: str, why: str, remedy: str = "rerun another run: `enchanted runs` lists them") -> None:
        super().__init__(f"run {run} cannot be run again: {why}; {remedy}")


class NotARecording(ActorError):
    """The file is no recording."""

    def __init__(self, file: object, why: str) -> None:
        super().__init__(f"{file} is no recording: {why}; `enchanted rerun RUN --record FILE` writes one")
