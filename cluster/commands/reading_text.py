"""Documents of the API as lines for people or of JSON. Nothing agents wrote reaches a terminal as a control code."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

WIDTH = 100
"""Characters of an event's text in a list."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_BREAKS = re.compile(r"\s+")

Document = Mapping[str, Any]


def plain(text: str) -> str:
    """``text`` without what no terminal should get: control characters, line breaks and tabs aside, and half signs."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, width: int = WIDTH) -> str:
    """``text`` on one line, cut to ``width``."""
    flat = plain(_LINE_BREAKS.sub(" ", text[: width * 4])).strip()
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def event_row(event: Document) -> tuple[str, ...]:
    """seq, time, agent, kind and what happened."""
    agent = str(event.get("agent_name") or event.get("agent_id") or "")
    when = str(event.get("stream_time", ""))[11:23]
    return (str(event["seq"]), when, one_line(agent, 24), str(event["kind"]), one_line(_what(event)))


def _what(event: Document) -> str:
    kind = str(event["kind"])
    if event.get("corrupted"):
        return "CORRUPTED: the stored bytes are not the published ones"
    describe = _DESCRIBE.get(kind)
    return "" if describe is None else describe(event.get(kind, {}))


def _changed(change: Document) -> str:
    return f"{change.get('reason', '')} {change.get('target_resource', '')} -> {change.get('new_state_hash', '')[:12]}"


def _called(call: Document) -> str:
    tokens = f"{call.get('input_tokens', 0)}+{call.get('output_tokens', 0)} tokens"
    return f"{call.get('model', '')} {tokens} {call.get('error', '') or call.get('completion', '')}"


def _used(call: Document) -> str:
    return f"{call.get('tool', '')} {call.get('outcome', '')} {call.get('reason', '') or call.get('arguments', '')}"


def _moved(step: Document) -> str:
    states = f"{step.get('from_state', '') or 'new'} -> {step.get('to_state', '')}"
    return f"{step.get('subject', '')} {states} {step.get('reason', '')}"


def _signalled(signal: Document) -> str:
    load = f"cpu {signal.get('cpu_load_percent', 0)} % mem {signal.get('memory_usage_mb', 0)} MB"
    return f"{signal.get('status', '')} {load} {signal.get('detail', '')}"


_DESCRIBE = {
    "decision": lambda decision: str(decision.get("rationale", "")),
    "state_change": _changed,
    "model_call": _called,
    "tool_call": _used,
    "run_transition": _moved,
    "system_signal": _signalled,
}


def span_row(span: Document) -> tuple[str, ...]:
    """span, parent, started, milliseconds, status, service and name."""
    took = f"{span.get('duration_ns', 0) / 1e6:.1f}"
    texts = (span.get(name, "") for name in ("status", "service", "name"))
    return (span["span_id"], span["parent_span_id"], span["started_at"][:23] + "Z", took, *map(one_line, texts))


def run_row(run: Document) -> tuple[str, ...]:
    """run, state, started, events, decisions, changes and tokens."""
    numbers = (run["events"], run["decisions"], run["changes"], run["input_tokens"] + run["output_tokens"])
    return (plain(run["run_id"]), plain(run["state"]), run["started_at"][:19] + "Z", *map(str, numbers))


def json_line(document: Document) -> str:
    """One line of JSON that is safe to print."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return re.sub(r"[\x7f-\x9f\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def emit_lines(lines: Iterable[str]) -> None:
    """Each line as soon as it is there.

    Raises:
        BrokenPipeError: the reader went away, which ends the command quietly.
    """
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def emit_content(content: bytes) -> None:
    """File content as it is; on a terminal without control characters."""
    if sys.stdout.isatty():
        sys.stdout.write(plain(content.decode("utf-8", "replace")))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    sys.stdout.flush()
