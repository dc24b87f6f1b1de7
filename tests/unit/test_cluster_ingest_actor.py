"""What the ingest actor does when it is told that its end is near."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from enchanted.cluster import ingest_actor
from enchanted.cluster.ingest_actor import IngestActor
from enchanted.cluster.settings import IngestSettings


class Worker:
    """Ends when it is told to, or never."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends
        self.closed = False

    async def close(self) -> None:
        if not self._ends:
            await asyncio.Event().wait()
        self.closed = True


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An actor whose loop runs, and nothing in it."""
    running, ended = threading.Event(), threading.Event()

    async def until_ended(self: Any) -> None:
        self._running = asyncio.get_running_loop()
        running.set()
        while not ended.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.01)

    monkeypatch.setattr(IngestActor, "_with_signals", until_ended)
    monkeypatch.setattr(ingest_actor, "collect_seldom", lambda: None)
    made = IngestActor("ingest-0", "nats://127.0.0.1:1", "http://127.0.0.1:1", IngestSettings())
    running.wait()
    yield made
    ended.set()


def test_draining_closes_every_worker(actor: Any) -> None:
    events, spans = Worker(ends=True), Worker(ends=True)
    actor._worker, actor._spans = events, spans

    assert actor.drain()
    assert events.closed
    assert spans.closed


def test_draining_ends_in_time_when_a_worker_hangs_and_says_so(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_actor, "DRAIN_SECONDS", 0.1)
    events, spans = Worker(ends=False), Worker(ends=True)
    actor._worker, actor._spans = events, spans
    begun = time.monotonic()

    assert not actor.drain()
    assert time.monotonic() - begun < 10
    assert spans.closed


def test_an_actor_that_has_no_worker_yet_is_drained(actor: Any) -> None:
    assert actor.drain()
