"""What the ingest actor does when it is told that its end is near."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

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


class Opened:
    """Workers that a loop makes one after the other; each is open once it is let."""

    def __init__(self) -> None:
        self.begun, self.let, self.ran, self.over = (threading.Event() for _ in range(4))

    def __call__(self, **_: Any) -> Self:
        return self

    async def __aenter__(self) -> Self:
        self.begun.set()
        await asyncio.to_thread(self.let.wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.over.set()

    async def run(self) -> None:
        self.ran.set()
        await asyncio.Event().wait()


@contextmanager
def looping(monkeypatch: pytest.MonkeyPatch, what: str, worker: str) -> Iterator[tuple[Any, Opened]]:
    """An actor in which one loop runs, and the workers it makes."""
    opened, ended = Opened(), threading.Event()

    async def until_ended(self: Any) -> None:
        self._running = asyncio.get_running_loop()
        loop = asyncio.create_task(getattr(self, what)())
        await asyncio.to_thread(ended.wait)
        loop.cancel()

    monkeypatch.setattr(ingest_actor, worker, opened)
    monkeypatch.setattr(IngestActor, "_with_signals", until_ended)
    monkeypatch.setattr(ingest_actor, "collect_seldom", lambda: None)
    try:
        yield IngestActor("ingest-0", "nats://127.0.0.1:1", "http://127.0.0.1:1", IngestSettings()), opened
    finally:
        opened.let.set()
        ended.set()


LOOPS = pytest.mark.parametrize(("what", "worker"), [("_loop", "IngestWorker"), ("_store_spans", "SpanWorker")])


@LOOPS
def test_a_worker_that_is_being_made_while_ingest_is_drained_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, what: str, worker: str
) -> None:
    monkeypatch.setattr(ingest_actor, "DRAINED_SECONDS", 600.0)
    with looping(monkeypatch, what, worker) as (made, opened):
        assert opened.begun.wait(30)

        assert made.drain()
        opened.let.set()
        assert opened.over.wait(30)
        opened.over.clear()

        assert not opened.ran.wait(1.5), "neither this one nor a next one"
        assert not opened.over.is_set()
        assert made._status == "STOPPING"


@LOOPS
def test_a_drained_actor_that_nobody_ended_goes_on(monkeypatch: pytest.MonkeyPatch, what: str, worker: str) -> None:
    monkeypatch.setattr(ingest_actor, "DRAINED_SECONDS", 0.5)
    with looping(monkeypatch, what, worker) as (made, opened):
        assert opened.begun.wait(30)
        made.drain()
        opened.let.set()

        assert opened.ran.wait(30)
        assert made._status == ("HEALTHY" if what == "_loop" else "STOPPING")


async def test_figures_that_cannot_be_read_do_not_end_ingest(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_actor, "MEASURED_EVERY", 0.0)
    tried = asyncio.Semaphore(0)

    class Broken:
        def statistics(self) -> None:
            tried.release()
            raise ValueError("no figures")

    actor._worker = Broken()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        measuring = group.create_task(actor._measure())
        for _ in range(3):
            await tried.acquire()
        measuring.cancel()


ENDS = """
import time
from enchanted.cluster.ingest_actor import IngestActor
from enchanted.cluster.settings import IngestSettings

async def fail(self):
    raise LookupError("of a kind nobody thought of")

IngestActor._with_signals = fail
IngestActor("ingest-0", "nats://127.0.0.1:1", "http://127.0.0.1:1", IngestSettings())
time.sleep(60)
"""


def test_a_process_whose_ingest_has_ended_ends_too_so_that_it_is_started_again() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True)
    assert (done.returncode, "of a kind nobody thought of" in done.stderr) == (1, True), done.stderr


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
