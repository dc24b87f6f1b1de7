"""JSON that somebody else wrote."""

from __future__ import annotations

from typing import Any

import orjson

MOST_LEVELS = 100
"""What is nested deeper can be read, but not written again: orjson writes 254 levels, and answers add some."""


def foreign_json(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    value = orjson.loads(text)
    if is_deep(value):
        raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels")
    return value


def is_deep(value: Any) -> bool:
    """Whether lists and dicts are nested too deep."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
