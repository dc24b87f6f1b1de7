"""What goes wrong, drawn from the seed: each history has some kinds of fault, more or less often."""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.simulation.loop import OUTSIDE, Process
from tests.simulation.network import Connection
from tests.simulation.session import Request
from tests.simulation.stream import Refused
from tests.simulation.world import World

_PASSING = ((10008, "temporarily unavailable"), (10118, "stream is offline"), (10210, "too many inflight"))
_DEFINITE = ((10077, "maximum bytes exceeded"), (10023, "insufficient resources"))


class Faults:
    """Faults from the beginning until `stop`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.random("faults")
        self._active = True
        self._traffic = self._requests = 0
        self._cut_at = self._killed_at = 0
        draw = self._rate
        self._kills = {"producer": draw(0.8), "feeder": draw(0.8), "reconciler": draw(0.6)} | {
            f"ingest-{n}": draw(0.8) for n in range(2)
        }
        self._refusals, self._definite = draw(0.15), draw(0.08)
        self._lost_replies = draw(0.08)
        self._inserts = {kind: draw(0.15) for kind in ("refused", "lost answer", "never", "slow", "adrift")}
        self._queries = {kind: draw(0.1) for kind in ("refused", "lost answer", "slow")}
        self._cuts, self._crashes, self._pauses = draw(1.0), draw(1.0), draw(0.7)
        self._outages, self._losses, self._deletions = draw(0.7), draw(0.3), draw(0.4)
        world.network.slow = draw(0.03)

    def begin(self) -> None:
        """From now on."""
        world = self._world
        world.arm = self._arm
        world.network.on_traffic = self._on_traffic
        world.server.on_request = self._on_request
        world.server.drops_reply = lambda: self._hits(self._lost_replies)
        world.table.fault = self._statement
        for stream in world.server.streams.values():
            stream.pick_refusal = self._refusal
        self._next_cut()
        self._next_crash()
        for rate, mean, act in (
            (self._pauses, 10.0, self._pause),
            (self._outages, 10.0, self._outage),
            (self._losses, 10.0, self._lose_rows),
            (self._deletions, 10.0, self._delete_consumer),
            (1.0, 3.0, world.server.remember_positions),
        ):
            if rate:
                self._repeat(mean / rate, act)

    def stop(self) -> None:
        """Nothing goes wrong any more; what is broken is mended."""
        self._active = False
        world = self._world
        world.note("faults stop")
        world.arm = lambda _: None
        world.network.slow = 0.0
        for process in world.processes.values():
            process.dies_at = 0
        if not world.server.up:
            world.server.start(ready_after=0.0)
        world.table.up = True

    def _rate(self, most: float) -> float:
        return 0.0 if self._chance.random() < 0.5 else most * self._chance.random()

    def _hits(self, rate: float) -> bool:
        return self._active and rate > 0 and self._chance.random() < rate

    def _steps(self, most: int) -> int:
        """A number of steps: as often small as large."""
        return int(math.exp(self._chance.uniform(0.0, math.log(most)))) + 1

    def _repeat(self, mean: float, act: Callable[[], None]) -> None:
        def happen() -> None:
            if self._active:
                act()
                self._repeat(mean, act)

        self._world.loop.call_later(self._chance.expovariate(1 / mean), happen, context=OUTSIDE)

    def _arm(self, process: Process) -> None:
        if self._hits(self._kills.get(process.name, 0.0)):
            process.dies_at = process.steps + self._steps(4000)

    def _next_cut(self) -> None:
        self._cut_at = self._traffic + self._steps(int(400 / self._cuts)) if self._cuts else 0

    def _next_crash(self) -> None:
        self._killed_at = self._requests + self._steps(int(600 / self._crashes)) if self._crashes else 0

    def _on_traffic(self, connection: Connection) -> None:
        self._traffic += 1
        if not self._active or self._traffic != self._cut_at:
            return
        self._next_cut()
        kind = self._chance.random()
        self._world.note("cut", round(kind, 3))
        if kind < 0.5:
            self._world.loop.call_later(0.003 * self._chance.random(), self._cut, connection, context=OUTSIDE)
        elif kind < 0.6:
            connection.silence()
        else:
            pipe = connection.up if self._chance.random() < 0.5 else connection.down
            pipe.stall(self._chance.choice([0.5, 3.0, 15.0]) * self._chance.random())

    def _cut(self, connection: Connection) -> None:
        connection.cut(late=self._chance.random() < 0.7)

    def _on_request(self, request: Request) -> None:
        self._requests += 1
        if self._active and self._requests == self._killed_at:
            self._next_crash()
            # With the request, or somewhere between writing what it asks for and telling so.
            self._world.loop.call_later(0.006 * self._chance.random() ** 2, self._crash, context=OUTSIDE)

    def _crash(self) -> None:
        if not self._active or not self._world.server.up:
            return
        power = self._chance.random() < 0.5
        down = self._chance.choice([0.1, 1.0, 5.0, 5.0, 100.0]) * self._chance.random()
        self._world.note("server killed", power, round(down, 3))
        self._world.server.kill(power=power)
        self._world.loop.call_later(down, self._restart, self._chance.choice([0.0, 0.1, 2.0]), context=OUTSIDE)

    def _restart(self, ready_after: float) -> None:
        if not self._world.server.up:
            self._world.note("server starts")
            self._world.server.start(ready_after=ready_after if self._active else 0.0)

    def _refusal(self, request: Request) -> Refused | None:
        if self._hits(self._refusals):
            return Refused(*self._chance.choice(_PASSING), code=503)
        if self._hits(self._definite):
            return Refused(*self._chance.choice(_DEFINITE))
        return None

    def _statement(self, what: str) -> str:
        for kind, rate in (self._inserts if what == "insert" else self._queries).items():
            if self._hits(rate):
                self._world.note("statement", what, kind)
                return kind
        return ""

    def _pause(self) -> None:
        seconds = self._chance.choice([0.5, 5.0, 20.0]) * self._chance.random()
        self._world.note("server hangs", round(seconds, 3))
        self._world.server.pause(seconds)

    def _outage(self) -> None:
        self._world.note("table killed")
        self._world.table.kill()
        seconds = self._chance.choice([0.5, 5.0, 20.0]) * self._chance.random()
        self._world.loop.call_later(seconds, self._table_back, context=OUTSIDE)

    def _table_back(self) -> None:
        self._world.table.up = True

    def _lose_rows(self) -> None:
        lost = self._world.table.lose(self._chance.random() ** 2)
        self._world.lost.update(lost)
        self._world.note("rows lost", lost)

    def _delete_consumer(self) -> None:
        self._world.note("consumer deleted")
        for stream, name in list(self._world.server.consumers):
            if name == "ingest":
                self._world.server.delete_consumer(stream, name)
