"""Subjects are built and taken apart here and nowhere else."""

from __future__ import annotations

import re

from enchanted.schemas.events import SwarmEvent, kind_of, role_of

EVENTS = "swarm.events"
DEAD = "swarm.dead"
SPANS = "swarm.spans"
ALL_EVENTS = f"{EVENTS}.>"
OTLP_SPANS = f"{SPANS}.otlp"
"""Where exports go that came over OTLP."""

MAX_SUBJECT = 1024
"""Bytes; the server cuts the connection of a client whose control line exceeds 4,096."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(rb"%([0-9A-F]{2})")


def encode_token(text: str) -> str:
    """Any text as one subject token: letters, digits, ``-`` and ``_`` stay, other bytes become ``%XX``."""
    if not text:
        return "%"
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode()).decode()


def decode_token(token: str) -> str:
    """The text `encode_token` was given."""
    if token == "%":
        return ""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), token.encode()).decode()


def event_subject(event: SwarmEvent) -> str:
    """``swarm.events.<role>.<kind>[.<run>]``, and ``.<workspace>`` after it for a state change."""
    kind = kind_of(event)
    subject = f"{EVENTS}.{role_of(event)}.{kind}"
    if not event.run_id:
        return subject
    subject = f"{subject}.{encode_token(event.run_id)}"
    return f"{subject}.{encode_token(event.workspace_id)}" if kind == "state_change" else subject


def run_filters(run_id: str) -> list[str]:
    """The subject filters that select every event our producers write for a run."""
    run = encode_token(run_id)
    return [f"{EVENTS}.*.*.{run}", f"{EVENTS}.*.*.{run}.>"]


def state_filter(run_id: str, workspace_id: str) -> str:
    """The filter whose last sequence is the head of one workspace's state."""
    return f"{EVENTS}.*.state_change.{encode_token(run_id)}.{encode_token(workspace_id)}"


def dead_subject(reason: str) -> str:
    """Where a message goes that ingest cannot use."""
    return f"{DEAD}.{encode_token(reason)}"


def matches(pattern: str, subject: str) -> bool:
    """Whether a filter with ``*`` (one token) and ``>`` (one or more at the end) selects a subject."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1] if len(tokens) >= len(wanted) else []
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))
