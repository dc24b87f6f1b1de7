"""Which classes a simulation runs: the product's, or a faulty one for a negative control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.blobs import BlobStore
from enchanted.bus.connection import Bus
from enchanted.bus.publisher import Publisher
from enchanted.ingest.reconciler import Reconciler
from enchanted.ingest.worker import IngestWorker
from tests.simulation.table import SimulatedWriter

URL = "nats://simulated:4222"
STORE = "http://127.0.0.1:8123"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Replace one to see whether the checker notices."""

    publisher: type[Publisher] = Publisher
    agent_log: type[AgentLog] = AgentLog
    worker: type[IngestWorker] = IngestWorker
    writer: type[SimulatedWriter] = SimulatedWriter
    reconciler: type[Reconciler] = Reconciler
    safe_server: bool = True
    """The server acknowledges what an fsync has made safe."""
    window: float = 120.0
    """Seconds in which the server recognises an id."""
    workers: int = 0
    """How many ingest; 0: drawn."""
    copies_among_workers: bool = False
    """Publish one event under several message ids also where two workers ingest. Each may hold one copy, look the event
    up before the other has inserted it, and insert its own as the first: both are seen until the reconciler looks."""


class SimulatedBus(Bus):
    """A Bus whose publisher takes its time and its jitter from the simulation."""

    def __init__(
        self,
        name: str,
        parts: Parts,
        clock: Callable[[], float],
        chance: Random,
        *,
        ack_timeout: float = 10.0,
        retry_for: float = 75.0,
    ) -> None:
        super().__init__(URL, name=name, ack_timeout=ack_timeout, retry_for=retry_for)
        self.publisher = parts.publisher(
            self.link, ack_timeout=ack_timeout, retry_for=retry_for, clock=clock, chance=chance
        )
        self.blobs = BlobStore(self.link, self.publisher)
