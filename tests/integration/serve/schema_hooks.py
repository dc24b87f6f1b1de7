"""What schemathesis makes up, with what is there put into it; and it writes nowhere but into a test's folder."""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis

KNOWN: dict[str, Any] = json.loads(os.environ["SCHEMA_KNOWN"])
"""By the name of a parameter or a member."""
INTO = os.environ["SCHEMA_INTO"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Two of three values become what exists."""
    for given in (case.path_parameters, case.query, case.body):
        if isinstance(given, dict):
            for name in given.keys() & KNOWN.keys():
                if len(str(given[name])) % 3:
                    given[name] = KNOWN[name]
    # A restore goes wherever its body says.
    if isinstance(case.body, dict) and isinstance(case.body.get("into"), str) and case.body["into"]:
        case.body["into"] = INTO
