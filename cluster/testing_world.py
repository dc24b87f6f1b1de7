"""For tests: everything the API leans on, without Ray, and the API before it on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from enchanted.bus.connection import Bus
from enchanted.bus.testing import nats_server
from enchanted.cluster.store.testing import store_process
from enchanted.ingest.spans import SpanWorker
from enchanted.ingest.tables import apply_ddl, connect
from enchanted.ingest.worker import IngestWorker
from enchanted.serve.guard.auth import Access
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import ScriptedStarter, World, served

TOKEN = "api-token"
LIMITS = httpx.Limits(keepalive_expiry=2)
"""A server closes what rests for five seconds, maybe just when it is used again."""


@contextlib.asynccontextmanager
async def served_world(folder: Path) -> AsyncIterator[World]:
    """A bus, a store, a worker for events and one for spans, and the API; all end with the block."""
    token_file = folder / "token"
    token_file.write_text(TOKEN + "\n")
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(nats_server(folder / "nats"))
        store = await stack.enter_async_context(store_process(folder / "store"))
        table = await connect(store.url)
        stack.push_async_callback(table.close)
        await apply_ddl(table)
        bus = await stack.enter_async_context(Bus.connect(server.url))
        worker = await stack.enter_async_context(IngestWorker(nats_url=server.url, clickhouse_url=store.url))
        stack.push_async_callback(_ended, asyncio.create_task(worker.run()))
        spans = await stack.enter_async_context(SpanWorker(nats_url=server.url, clickhouse_url=store.url))
        stack.push_async_callback(_ended, asyncio.create_task(spans.run()))
        starter = ScriptedStarter(bus)
        deps = Dependencies(
            store=Store(store.url, deadline=30),
            reader=Store(store.reader_url, deadline=9),
            bus=BusLink(server.url, deadline=30),
            access=Access(token=TOKEN),
            cache=folder / "cache",
            starter=starter,
            ingest_workers=partial(_figures, worker, spans),
        )
        url = await stack.enter_async_context(served(deps))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, headers=headers, timeout=30, limits=LIMITS)
        )
        yield World(
            nats=server, store_url=store.url, store_pid=store.pid, table=table, bus=bus, http=http, url=url,
            token_file=token_file, starter=starter, folder=folder,
        )  # fmt: skip


async def _figures(worker: IngestWorker, spans: SpanWorker) -> list[dict[str, Any]]:
    figures = {"events": worker.statistics().as_dict(), "spans": spans.statistics().as_dict()}
    return [{"name": "ingest-0", **figures}]


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
