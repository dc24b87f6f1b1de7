"""Why a run cannot be run again; every message names the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from enchanted.actors.errors import ActorError


class CannotRerun(ActorError):
    """The log does not hold what a rerun needs."""

    def __init__(self, run: str, why: str, remedy: str = "rerun another run: `enchanted runs` lists them") -> None:
        super().__init__(f"run {run} cannot be run again: {why}; {remedy}")


class NotARecording(ActorError):
    """The file is no recording."""

    def __init__(self, file: object, why: str) -> None:
        super().__init__(f"{file} is no recording: {why}; `enchanted rerun RUN --record FILE` writes one")


class CannotImport(ActorError):
    """A recorded run cannot become a run of this bus."""

    def __init__(self, run: str, why: str, remedy: str) -> None:
        super().__init__(f"run {run} cannot be imported: {why}; {remedy}")


class HeldElsewhere(CannotImport):
    """The log has its events already, as those of another run."""

    def __init__(self, run: str, which: str) -> None:
        super().__init__(
            run, f"the log holds {which} under another run", "look at that run, or import it into another home"
        )


@contextmanager
def as_the_swarm_writes(run: str) -> Iterator[None]:
    """Reading what anybody may have published in the swarm's name.

    Raises:
        CannotRerun: it is not what the swarm writes.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CannotRerun(
            run, f"its events are not such as the swarm writes ({type(error).__name__}: {error})"
        ) from error
