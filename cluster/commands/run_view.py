"""A run as it happens: one model of it, shown as a live table on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CLOSED = frozenset({"merged", "rejected", "failed", "cancelled"})
Event = dict[str, Any]


@dataclass
class AgentLine:
    """What one agent does just now."""

    name: str
    doing: str = ""
    decisions: int = 0
    tokens: int = 0


@dataclass
class RunProgress:
    """Everything a watcher wants to know about a run."""

    run_id: str
    started: float
    state: str = ""
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    """What the last transition said beside its reason."""
    stored: int = 0
    """Events acknowledged by the stream."""
    last_seq: int = 0
    output_tokens: int = 0
    last_decision: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    agents: dict[str, AgentLine] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """The run has its verdict."""
        return self.state in CLOSED

    def add(self, event: Event) -> str:
        """Take one event in; returns it as a sentence where a person wants to read one, else ""."""
        self.stored += 1
        self.last_seq = int(event["seq"])
        name = event.get("agent_name") or event.get("agent_id", "")
        agent = self.agents.setdefault(name, AgentLine(name))
        match event["kind"]:
            case "run_transition":
                return self._transition(event)
            case "decision":
                return self._decision(agent, event)
            case "state_change":
                change = event["state_change"]
                agent.doing = f"{change.get('reason', 'changed')} {change.get('target_resource', '')}"
                return f"{name} changed {change.get('target_resource', '')} ({change.get('reason', '')})"
            case "model_call":
                tokens = event["model_call"].get("output_tokens", 0)
                agent.tokens += tokens
                self.output_tokens += tokens
            case "tool_call":
                call = event["tool_call"]
                agent.doing = f"{call.get('tool', '')} {call.get('outcome', '').lower()}"
                if call.get("outcome") == "DENIED":
                    return f"{name} was denied {call.get('tool', '')}: {call.get('reason', '')}"
        return ""

    def close(self, run: dict[str, Any]) -> None:
        """Take the verdict of a closed run from the API's document."""
        self.state, self.reason, self.details = run["state"], run["reason"], run["details"] or {}
        self.stored, self.last_seq, self.output_tokens = run["events"], run["last_seq"], run["output_tokens"]

    def _transition(self, event: Event) -> str:
        step = event["run_transition"]
        if step.get("subject") == "task":
            self.tasks[event.get("task_id", "")] = step.get("to_state", "")
            return f"{event.get('task_id', '')} {step.get('to_state', '')}: {step.get('reason', '')}"
        self.state, self.reason = step.get("to_state", ""), step.get("reason", "")
        self.details = parsed(step.get("details", ""))
        return f"run {self.state}: {self.reason}"

    def _decision(self, agent: AgentLine, event: Event) -> str:
        decision = event["decision"]
        agent.decisions += 1
        sentence = " ".join(decision.get("rationale", "").split())
        self.last_decision = f"{agent.name}: {sentence}"
        agent.doing = "decided"
        return f"{agent.name} decided: {sentence}"

    def tokens_per_second(self, now: float) -> float:
        """Output tokens over the run's wall time so far."""
        return self.output_tokens / max(now - self.started, 0.001)


class PlainView:
    """One line for each thing worth reading, on stderr."""

    def __init__(self, progress: RunProgress, say: Callable[[str], None]) -> None:
        self._progress = progress
        self._say = say

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def show(self, sentence: str) -> None:
        """Print what just happened."""
        if sentence:
            elapsed = time.monotonic() - self._progress.started
            self._say(f"[{elapsed:6.1f}s] {printable(sentence)[:200]}")


class LiveView:
    """A table that is drawn anew a few times a second."""

    def __init__(self, progress: RunProgress) -> None:
        from rich.console import Console  # only where someone looks at it
        from rich.live import Live

        self._progress = progress
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=4)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, sentence: str) -> None:
        """Keep transitions above the table; the rest is in it."""
        if sentence.startswith(("run ", "task-")):
            from rich.text import Text

            self._console.print(Text(printable(sentence)))

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        progress, now = self._progress, time.monotonic()
        table = Table("agent", "doing", "decisions", "tokens", box=None, pad_edge=False)
        for agent in progress.agents.values():
            table.add_row(Text(agent.name), Text(printable(agent.doing)[:60]), str(agent.decisions), str(agent.tokens))
        head = (
            f"{progress.run_id}  {progress.state}  {now - progress.started:.0f} s  {progress.stored} events stored  "
            f"{progress.tokens_per_second(now):.1f} tokens/s"
        )
        return Group(Text(head), table, Text(printable(progress.last_decision)[:160]))


def view_of(progress: RunProgress, say: Callable[[str], None]) -> PlainView | LiveView:
    """A live table on a terminal, lines elsewhere."""
    return LiveView(progress) if sys.stderr.isatty() else PlainView(progress, say)


def parsed(text: str) -> dict[str, Any]:
    """The object in a transition's details; empty where another producer wrote something else."""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def printable(text: str) -> str:
    """Model output and repository text on one line, without control characters (they could drive the terminal)."""
    return "".join(c if c.isprintable() else " " for c in text)
