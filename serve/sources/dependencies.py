"""What the handlers lean on, handed to the app once and to each handler as an argument."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from enchanted.actors.work import RunRequest
from enchanted.serve.guard.auth import Access
from enchanted.serve.guard.rate import Rate
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.store import Store

HEARTBEAT = 15.0
SLOW_CLIENT = 30.0
MAX_STREAMS = 256
MAX_PLAYS = 32
SETTLED = timedelta(minutes=2)
MAX_SPAN = timedelta(days=400)
RATE = Rate()


class RunStarter(Protocol):
    """Whoever can start and stop runs; the cluster's composition hands one in."""

    async def start(self, request: RunRequest) -> str:
        """Begin the run and return its id, without waiting for its end."""
        ...

    async def resume(self, run_id: str) -> None:
        """Make sure that somebody drives a run that was recorded; harmless when somebody does."""
        ...

    async def cancel(self, run_id: str) -> None:
        """Ask the run to end; harmless when it has."""
        ...


class ClusterView(Protocol):
    """Whoever knows the machines; the cluster's composition hands one in."""

    @property
    def dashboard_url(self) -> str:
        """Of Ray; empty where it has none."""
        ...

    async def nodes(self) -> list[dict[str, Any]] | None:
        """Ray's nodes, the dead ones too; None while Ray does not say."""
        ...

    async def engines(self) -> list[dict[str, Any]] | None:
        """Engines on this cluster with their counts since they started; None while Ray does not say."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependencies:
    """Everything `create_app` needs."""

    store: Store
    bus: BusLink
    access: Access
    reader: Store | None = None
    """What `POST /sql` asks with: a login that can only read; by default the API's own."""
    cache: Path
    """Folder for rebuilt repositories; may be deleted at any time."""
    starter: RunStarter | None = None
    reconciliation: Callable[[], Awaitable[dict[str, Any] | None]] | None = None
    """The last reconciliation's report; None while nobody can say."""
    ingest_workers: Callable[[], Awaitable[list[dict[str, Any]]]] | None = None
    """What each ingest worker has done; those that do not say are named without figures."""
    cluster: ClusterView | None = None
    heartbeat: float = HEARTBEAT
    """Seconds between signs of life on a live stream."""
    slow_client: float = SLOW_CLIENT
    """Seconds a live client may take for one piece before it is cut off; it resumes by Last-Event-ID."""
    settled: timedelta = SETTLED
    """Age of an event after which none before it is still on its way into the table, where producers number theirs."""
    max_streams: int = MAX_STREAMS
    max_plays: int = MAX_PLAYS
    """Runs that are played at a time; those may take days, and have places of their own."""
    max_span: timedelta = MAX_SPAN
    """Time that one question may be about, from `since` to `until`; 0 is no limit."""
    rate: Rate = RATE


# `async`, since FastAPI takes a plain function through its thread pool, for each request anew.
async def _dependencies(connection: HTTPConnection) -> Dependencies:
    dependencies: Dependencies = connection.app.state.dependencies
    return dependencies


Deps = Annotated[Dependencies, Depends(_dependencies)]
