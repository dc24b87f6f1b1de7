"""A verdict as plain values, for people's terminals, the API and tests."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from enchanted.actors.rerun.compare import MASKED
from enchanted.actors.rerun.driver import Verdict
from enchanted.actors.rerun.script import Divergence
from enchanted.schemas.events import StoredEvent, SwarmEvent, event_to_dict, kind_of

_CHARS = 2_000
"""Of a text inside an event that is shown."""


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Every member is always there; ``divergence`` is null when the rerun is equal."""
    return {
        "run_id": verdict.run_id,
        "equal": verdict.equal,
        "after": verdict.after,
        "compared": sum(part.equal for part in verdict.parts),
        "recorded": sum(part.recorded for part in verdict.parts),
        "agents": [asdict(part) for part in verdict.parts],
        "divergence": verdict.divergence and _divergence(verdict.divergence),
        "masked": list(MASKED),
        "not_compared": {"system_signals": verdict.signals, "other_agents": verdict.strangers},
        "model_calls": verdict.model_calls,
        "tool_calls": verdict.tool_calls,
        "live_seconds": round(verdict.live_seconds, 3),
        "rerun_seconds": round(verdict.rerun_seconds, 3),
        "times_faster": round(verdict.live_seconds / max(verdict.rerun_seconds, 1e-9), 1),
    }


def _divergence(found: Divergence) -> dict[str, Any]:
    return {
        "agent": found.agent,
        "why": found.why,
        "recorded": found.recorded and _stored(found.recorded),
        "new": None if found.new is None else _event(found.new),
        "differences": [asdict(difference) for difference in found.differences],
    }


def _stored(stored: StoredEvent) -> dict[str, Any]:
    return {"seq": stored.seq, **_event(stored.event)}


def _event(event: SwarmEvent) -> dict[str, Any]:
    return {"kind": kind_of(event), "event": _short(event_to_dict(event))}


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value[:100]]
    return f"{value[:_CHARS]}…" if isinstance(value, str) and len(value) > _CHARS else value
