"""An event loop without a clock, sockets or threads: time jumps to the next timer, one step runs at a time."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from enchanted.bus.errors import BusError

Connect = Callable[[Callable[[], asyncio.BaseProtocol], str, int], Coroutine[Any, Any, tuple[Any, Any]]]

PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")
"""The simulated process a step belongs to; unset for the world outside."""
OUTSIDE = contextvars.Context()
"""Where server, table and faults run."""


_TICK = 1e-7
_MOST_STEPS = 1_000_000
"""More are an endless loop."""


class Process:
    """What is killed together: after `kill` no step of it runs any more, not even to clean up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.steps = 0
        self.dies_at = 0
        """The number of the step it does not take any more; 0 for none."""
        self.on_death: list[Callable[[], None]] = []
        self.held: list[asyncio.Handle] = []
        """Steps it did not take; the end of the simulation takes them, so that its coroutines can be closed."""

    def kill(self) -> None:
        """SIGKILL. Idempotent."""
        if not self.dead:
            self.dead = True
            for told in self.on_death:
                told()


class Stuck(AssertionError):
    """Nothing is left to do, and somebody waits."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Timers fire in order of time, ties in an order drawn from ``chance``."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance
        self._now = 1000.0
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._numbers = 0
        self.taken = 0
        self._steps: Any = self._ready  # type: ignore[attr-defined]
        self.network: Connect | None = None
        self.on_error: Callable[[BaseException], None] = lambda _: None
        """Told what goes wrong in a step that nobody awaits."""
        self.set_exception_handler(self._failed)

    def time(self) -> float:
        # Code that waits for a moment without an await must see it come.
        self._now += _TICK
        return self._now

    def call_at(  # type: ignore[override]  # theirs are generic, here and below
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._numbers += 1
        heapq.heappush(self._timers, (when, self._chance.random(), self._numbers, handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    async def create_connection(  # type: ignore[override]
        self, factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        assert self.network is not None
        return await self.network(factory, host, port)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, work: Callable[..., Any], *args: Any
    ) -> Any:
        """In one step, a little later: there are no threads here."""
        done = self.create_future()

        def do() -> None:
            if done.cancelled():
                return
            try:
                done.set_result(work(*args))
            except (BusError, OSError) as error:
                done.set_exception(error)

        self.call_later(0.001 * self._chance.random(), do)
        return done

    def resume(self, process: Process) -> None:
        """Let a dead process take the steps it has not taken."""
        process.dead, process.dies_at = False, 0
        self._steps.extend(process.held)
        process.held.clear()

    def _run_once(self) -> None:
        steps = self._steps
        self.taken += 1
        if self.taken > _MOST_STEPS:
            self.taken = 0
            raise Stuck(f"{_MOST_STEPS} steps at {self._now}")
        if not steps:
            steps.append(self._next_timer())
        handle = steps.popleft()
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None:
            if process.dead:
                process.held.append(handle)
                return
            process.steps += 1
            if process.steps == process.dies_at:
                process.held.append(handle)
                process.kill()
                return
        handle._run()

    def _next_timer(self) -> asyncio.TimerHandle:
        while self._timers:
            when, _, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._now = max(self._now, when)
                return handle
        raise Stuck("no timer is left")

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and "handle" in context:
            self.on_error(error)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return None  # it is passed over when its time comes

    def _write_to_self(self) -> None:
        return None

    def _process_events(self, event_list: Any) -> None:
        return None
