"""What the acting verbs need to know of a run, whoever wrote its log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from enchanted.schemas.chain import CLOSED_STATES
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.foreign import foreign_json


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """A run's own transitions, in short."""

    repo: str = ""
    """The user's repository; empty when the run names none."""
    base_commit: str = ""
    """The commit there that it began with."""
    state: str = ""
    closed: bool = False


def facts_of(events: Iterable[StoredEvent]) -> RunFacts:
    """Read a run's transitions; details of another form than ours say nothing."""
    repo = base_commit = state = ""
    closed = False
    for stored in events:
        step = stored.event.run_transition
        if step.subject != "run":
            continue
        details = _details(step.details)
        repo = repo or _text(details, "repo")
        base_commit = base_commit or _text(details, "base_commit")
        state, closed = step.to_state, closed or step.to_state in CLOSED_STATES
    return RunFacts(repo=repo, base_commit=base_commit, state=state, closed=closed)


def _details(text: str) -> dict[str, Any]:
    try:
        found = foreign_json(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(details: dict[str, Any], name: str) -> str:
    found = details.get(name, "")
    return found if isinstance(found, str) else ""
