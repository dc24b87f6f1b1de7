"""What the acting verbs need to know of a run, whoever wrote its log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.chain import CLOSED_STATES
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, SwarmEvent, parse_event
from enchanted.schemas.foreign import foreign_json
from enchanted.serve.sources.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """A run's own transitions, in short."""

    repo: str = ""
    """The user's repository; empty when the run names none."""
    base_commit: str = ""
    """The commit there that it began with."""
    state: str = ""
    closed: bool = False


async def read_facts(store: Store, run: str) -> RunFacts:
    """Of the whole run, from the table; a transition that does not read back as it was stored says nothing."""
    rows = await store.rows("run_transitions", runs=[run])
    sound = (bytes(row["raw"]) for row in rows if sha256_hex(bytes(row["raw"])) == row["payload_sha256"])
    return _facts(_events(sound))


def _events(payloads: Iterable[bytes]) -> Iterator[SwarmEvent]:
    for raw in payloads:
        with suppress(NotAnEvent):
            yield parse_event(raw)


def facts_of(events: Iterable[StoredEvent]) -> RunFacts:
    """Read a run's transitions; details of another form than ours say nothing."""
    return _facts(stored.event for stored in events)


def _facts(events: Iterable[SwarmEvent]) -> RunFacts:
    repo = base_commit = state = ""
    closed = False
    for event in events:
        step = event.run_transition
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
