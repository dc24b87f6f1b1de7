"""Faulty parts: a simulation that runs one of them has to fail, or its faults and its checker are worth nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.delivery import Delivery
from enchanted.bus.errors import PublishForbidden, PublishOutcomeUnknown
from enchanted.bus.publisher import Publisher
from enchanted.ingest.rows import Row
from enchanted.ingest.worker import IngestWorker
from tests.simulation.parts import Parts
from tests.simulation.table import SimulatedWriter


class AcknowledgesFirst(IngestWorker):
    """Tells the bus it is done before the table has confirmed."""

    async def _flush(self, deliveries: Sequence[Delivery]) -> None:
        await self._acknowledge(deliveries)
        await super()._flush(deliveries)


class LooksNothingUp(SimulatedWriter):
    """Inserts what is delivered again, and copies of an event, as if they were new."""

    async def _present(self, suspects: Sequence[Row], stream_created: datetime) -> set[int]:
        return set()

    async def _first_copies(self, ids: Collection[str], stream_created: datetime) -> dict[str, Any]:
        return {}


class LooksNoRedeliveryUp(LooksNothingUp):
    """Finds copies of an event among other messages, and takes a message delivered again for a new one."""

    async def _first_copies(self, ids: Collection[str], stream_created: datetime) -> dict[str, Any]:
        present = {row.event_id for row in self._table.rows.values() if row.duplicate_of == 0}
        fresh = await SimulatedWriter._first_copies(self, set(ids) & present, stream_created)
        return {event_id: copy for event_id, copy in fresh.items() if copy.seq not in self._own}

    _own: frozenset[int] = frozenset()

    async def write(self, rows: Sequence[Row], stream_created: datetime, *, again: bool) -> Any:
        self._own = frozenset(row.seq for row in rows)
        return await super().write(rows, stream_created, again=again)


class TakesUnknownForRefused(Publisher):
    """Says "nothing was stored" when it does not know; an agent then uses the numbers again."""

    async def publish_many(self, messages: Sequence[Outgoing], *, retry_for: float | None = None) -> list[Ack]:
        try:
            return await super().publish_many(messages, retry_for=retry_for)
        except PublishOutcomeUnknown as error:
            raise PublishForbidden(messages[0].subject, "not acknowledged") from error


CONTROLS: dict[str, Parts] = {
    "a worker that acknowledges before the insert": Parts(worker=AcknowledgesFirst),
    "a writer that looks nothing up": Parts(writer=LooksNothingUp),
    "a writer without the look-up of redeliveries": Parts(writer=LooksNoRedeliveryUp),
    "a publisher that takes unknown for refused": Parts(publisher=TakesUnknownForRefused),
    "a server that recognises no id": Parts(window=0.0),
    "a server that acknowledges before the fsync": Parts(safe_server=False),
}
