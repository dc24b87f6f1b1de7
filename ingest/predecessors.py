"""Inserts of who wrote before us: a worker's goes on when it is gone, and is looked up in vain until its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from enchanted.ingest.errors import TableForbidden
from enchanted.ingest.tables import EXECUTION_DEADLINE

log = logging.getLogger(__name__)

_UNDER_WAY = "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' AND query LIKE '%{table}%'"
_LOOK = 0.1
"""Seconds between two looks."""

Ask = Callable[[str], Awaitable[set[str]]]
"""The only column of the answer to a query."""


async def outlast(table: str, ask: Ask) -> set[str]:
    """Wait for the inserts into a table that are under way now, 30 s at most; returns which have not ended by then.

    None of a worker's takes so long; what somebody else does in the table may take a day. Where the login may not see
    them nothing is waited for.
    """
    sql = _UNDER_WAY.format(table=table)
    left: set[str] = set()
    try:
        async with asyncio.timeout(EXECUTION_DEADLINE):
            left = await ask(sql)
            while left:
                await asyncio.sleep(_LOOK)
                left &= await ask(sql)
    except TimeoutError:
        log.warning("inserts %s into %s take longer than any of a worker may", sorted(left), table)
    except TableForbidden as error:
        log.warning("whether a former worker's insert is under way is not known: %s", error)
    return left
