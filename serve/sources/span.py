"""How much time one question may be about."""

from __future__ import annotations

import time
from datetime import timedelta

from enchanted.serve.errors import SpanTooLong
from enchanted.serve.sources.dependencies import Dependencies


def check_span(deps: Dependencies, since: int, until: int) -> None:
    """Refuse a time that is longer than the settings allow.

    Args:
        since: microseconds since 1970; 0 for none, then nothing is refused: other limits bound what there is to read.
        until: likewise; 0 is now.

    Raises:
        SpanTooLong: it is.
    """
    if not since or not deps.max_span:
        return
    asked = timedelta(microseconds=(until or time.time_ns() // 1_000) - since)
    if asked > deps.max_span:
        raise SpanTooLong(asked, deps.max_span)
