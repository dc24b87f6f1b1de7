"""What schemathesis makes up, with the names of what is there among it; it writes nowhere but into a test's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import schemathesis

KNOWN = {name: os.environ[f"SCHEMA_{name.upper()}"] for name in ("run", "other", "event_id", "trace_id", "service")}
FOLDER = Path(os.environ["SCHEMA_FOLDER"])


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Two in three are of something that exists."""
    if isinstance(path_parameters, dict):
        for name, value in path_parameters.items():
            if name in KNOWN and len(str(value)) % 3:
                path_parameters[name] = KNOWN[name]
    return path_parameters


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A restore goes wherever its body says."""
    if isinstance(case.body, dict) and isinstance(case.body.get("into"), str) and case.body["into"]:
        case.body["into"] = str(FOLDER / "restored")
