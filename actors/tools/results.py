"""What tools give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enchanted.schemas.events import ToolOutcome


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """One use of a tool, ready to be an event."""

    outcome: ToolOutcome
    output: str = ""
    """For a model to read; valid UTF-8, cut to its limit."""
    exit_code: int = 0
    reason: str = ""
    """Why it was denied, failed or stopped."""
    duration_ms: float = 0.0
    sandboxed: bool = True
    """No process ran, or each ran in the sandbox."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The same for code to read; each tool says what it holds."""


def cut(text: str, limit: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
