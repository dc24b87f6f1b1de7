"""The part of a tool's result that roles work with as values, as JSON in its event and back.

Of a fix only what a role sees is kept: the tool box alone needs the edits, and what they did is in the log as a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from enchanted.actors.tools.lint import Finding, Fix
from enchanted.actors.tools.mutations import Candidate
from enchanted.schemas.canonical import Json


def to_json(data: Mapping[str, Any]) -> Json:
    """Findings and repairs as plain values; None where a result has neither."""
    if "findings" in data:
        return {"findings": [_finding(finding) for finding in data["findings"]]}
    if "repairs" in data:
        return {"repairs": [asdict(repair) for repair in data["repairs"]]}
    return None


def from_json(text: str) -> dict[str, Any]:
    """The values of which `to_json` made this text.

    Raises:
        ValueError, TypeError, KeyError: it made no such text.
    """
    found = orjson.loads(text) if text else {}
    if "findings" in found:
        return {"findings": tuple(_finding_of(value) for value in found["findings"])}
    if "repairs" in found:
        return {"repairs": tuple(Candidate(**value) for value in found["repairs"])}
    return {}


def _finding(finding: Finding) -> dict[str, Any]:
    fix = finding.fix and {"message": finding.fix.message, "applicability": finding.fix.applicability}
    names = ("id", "code", "path", "line", "column", "message")
    return {**{name: getattr(finding, name) for name in names}, "fix": fix}


def _finding_of(value: Mapping[str, Any]) -> Finding:
    fix = value["fix"]
    return Finding(**{**value, "fix": fix and Fix(**fix, edits=())})
