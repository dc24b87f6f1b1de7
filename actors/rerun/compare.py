"""Whether two events say the same: everything but what a second performance cannot share with the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from enchanted.schemas.events import SwarmEvent, event_to_dict, kind_of
from enchanted.schemas.foreign import foreign_json

MASKED = (
    "event_id",
    "timestamp",
    "trace_id",
    "span_id",
    "agent_id",
    "agent_seq",
    "previous_event_hash",
    "predecessor_agent_id",
    "run_transition.heads",
)
"""Ids, times and spans, and the numbers and hashes made of them. A parent's id is compared: a rerun reuses the ids."""
_JSON = frozenset(
    {
        "decision.action",
        "model_call.messages",
        "model_call.parameters",
        "tool_call.arguments",
        "tool_call.data",
        "run_transition.details",
    }
)
MOST = 20
"""Differences that are named."""
_CHARS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One field that is not the same."""

    field: str
    """Dotted, inside JSON too."""
    recorded: str
    new: str


def masked(event: SwarmEvent) -> SwarmEvent:
    """A copy without what differs in every performance."""
    copy = SwarmEvent()
    copy.CopyFrom(event)
    for name in MASKED:
        if not name.startswith("run_transition."):
            copy.ClearField(name)
    if kind_of(copy) == "run_transition":
        copy.run_transition.ClearField("heads")
    return copy


def differences(recorded: SwarmEvent, new: SwarmEvent) -> tuple[Difference, ...]:
    """Where the two differ, masked fields aside; at most twenty places."""
    old, now = masked(recorded), masked(new)
    if old == now:
        return ()
    left, right = dict(_flat("", event_to_dict(old))), dict(_flat("", event_to_dict(now)))
    fields = [field for field in {**left, **right} if left.get(field) != right.get(field)]
    return tuple(_difference(field, left.get(field), right.get(field)) for field in fields[:MOST]) or (
        Difference(field="", recorded="other bytes", new="other bytes"),
    )


def _difference(field: str, recorded: Any, new: Any) -> Difference:
    old, now = _text(recorded), _text(new)
    # Of two long texts the place where they part is what one wants to see.
    start = max(0, _shared(old, now) - _CHARS // 3)
    return Difference(field=field, recorded=_cut(old, start), new=_cut(now, start))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if prefix in _JSON and isinstance(value, str):
        try:
            value = foreign_json(value)
        except ValueError:
            yield prefix, value
            return
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _flat(f"{prefix}[{number}]", inner)
    else:
        yield prefix, value


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _text(value: Any) -> str:
    return "(nothing)" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()


def _cut(text: str, start: int) -> str:
    shown = text if len(text) <= _CHARS else text[start : start + _CHARS]
    return shown if shown == text else f"{'…' if start else ''}{shown}{'…' if start + _CHARS < len(text) else ''}"
