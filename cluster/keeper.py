"""Starts a home's services, restarts those that die, ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

from enchanted.cluster import state
from enchanted.cluster.errors import UNREACHABLE, ClusterError, ServiceFailed
from enchanted.cluster.home import FULL, ROOM, Home
from enchanted.cluster.nats import NatsServer
from enchanted.cluster.plan import Plan, plan
from enchanted.cluster.processes import ProcessId, reap_orphans
from enchanted.cluster.ray_head import environment
from enchanted.cluster.service import Child, Command, Service, describe_exit, last_lines, python
from enchanted.cluster.settings import Settings
from enchanted.cluster.state import Failure, ServiceState, State

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 15.0
STABLE_SECONDS = 30.0
DEPLOY_SECONDS = 170.0
FIRST_TRIES = 3
"""Of the first deployment, where nothing says that the next one fails as well."""
REMOVE_SECONDS = 25.0
DRAIN_SECONDS = 15.0
"""Most of them are for connecting to Ray."""
REAP_SECONDS = 5.0
DISK_SECONDS = 0.5

log = logging.getLogger("enchanted.supervisor")


@dataclass(slots=True)
class Pauses:
    """Back-off between restarts: doubles while a service keeps dying young, starts over once it was stable."""

    current: float = 0.0

    def next(self, lived: float) -> float:
        """Seconds to wait after a life of ``lived`` seconds."""
        doubled = max(FIRST_PAUSE, min(LONGEST_PAUSE, self.current * 2))
        self.current = FIRST_PAUSE if lived > STABLE_SECONDS else doubled
        return self.current


class Keeper:
    """Keeps the services of one home running until it is told to stop."""

    def __init__(self, home: Home, settings: Settings, outermost: ProcessId) -> None:
        self._home = home
        self._settings = settings
        self._state = State(phase="starting", pid=outermost.pid, started=outermost.started)
        self._services: dict[str, Service] = {}
        self._nats: NatsServer | None = None
        self._children: dict[str, Child] = {}
        self._joined_ray = settings.ray_address is not None
        self._deployed = False
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Start, supervise, stop on SIGTERM or SIGINT; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._publish()
        failure = None
        try:
            failure = await self._until_stopped()
        finally:
            self._publish(phase="stopping")
            await self._end_children()
        gone = tuple(_stopped(service) for service in self._state.services)
        self._publish(phase="failed" if failure else "stopped", failure=failure, services=gone)
        return 1 if failure else 0

    async def _until_stopped(self) -> Failure | None:
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stop):
            task.cancel()
        result = (await asyncio.gather(work, stop, return_exceptions=True))[0]
        return self._failure(result) if isinstance(result, Exception) else None

    def _failure(self, error: Exception) -> Failure:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        log.error("giving up", exc_info=error)
        if not isinstance(error, ClusterError):
            return Failure(cause=f"{type(error).__name__}: {error}", remedy=f"read {self._home.logs}/supervisor.log")
        name = error.service if isinstance(error, ServiceFailed) else ""
        lines = last_lines(self._home.logs / f"{name}.log") if name else ()
        return Failure(cause=error.cause, remedy=error.remedy, log=lines, exit_code=error.exit_code)

    async def _work(self) -> None:
        planned = plan(self._settings, self._home)
        self._services = {service.name: service for service in planned.services}
        self._nats = next((one for one in planned.services if isinstance(one, NatsServer)), None)
        self._publish(endpoints=planned.endpoints)
        for name in planned.external:
            self._note(ServiceState(name=name, state="external"))
        async with asyncio.TaskGroup() as group:
            for service in planned.services:
                group.create_task(self._keep(service))
            group.create_task(self._keep_deployed(planned))
            group.create_task(self._reap())
            if self._nats is not None:
                group.create_task(self._watch_disk(self._nats))

    async def _keep(self, service: Service) -> None:
        """Run the service for ever. Raises ServiceFailed when its very first start fails."""
        pauses, restarts = Pauses(), 0
        while True:
            begun = time.monotonic()
            try:
                child = await self._start(service.name, service.command())
            except OSError as error:
                # Later there may be room on the disk again, or for another process.
                failed = ServiceFailed(service.name, f"cannot be started: {error}")
                if not restarts:
                    raise failed from error
                log.warning("%s", failed)
                await asyncio.sleep(pauses.next(0.0))
                continue
            now = _describe(service, child, restarts)
            self._note(replace(now, state="restarting" if restarts else "starting"))
            try:
                await child.ready(service)
            except ServiceFailed as error:
                if not restarts:
                    raise
                log.warning("%s", error)
            else:
                self._note(replace(now, state="healthy"))
                await child.process.wait()
            await child.end(service.grace_seconds)
            restarts += 1
            detail = f"ended with {describe_exit(child.process.returncode or 0)}"
            log.warning("%s %s", service.name, detail)
            self._note(replace(now, state="restarting", pid=None, started=None, restarts=restarts, detail=detail))
            await asyncio.sleep(pauses.next(time.monotonic() - begun))

    async def _keep_deployed(self, planned: Plan) -> None:
        """Deploy, and again whenever our Ray was restarted. Raises ServiceFailed when the first time fails."""
        api, pauses = ServiceState(name="api", state="starting", port=planned.api_port), Pauses()
        tries = 0
        while True:
            self._note(replace(api, state="restarting" if self._deployed else "starting"))
            begun, tries = time.monotonic(), tries + 1
            # Should it end meanwhile, the next one needs the API as well; one that has ended is not deployed into.
            ray = self._children.get("ray")
            if ray is not None and ray.process.returncode is not None:
                ray = None
            try:
                found = await self._deploy("deploy", DEPLOY_SECONDS)
            except ServiceFailed as error:
                if not self._deployed and (error.final or tries == FIRST_TRIES):
                    raise
                log.warning("%s", error)
                self._note(replace(api, detail=error.cause))
                await asyncio.sleep(pauses.next(time.monotonic() - begun))
                continue
            self._deployed = True
            self._note(replace(api, state="healthy"))
            urls = {"api_url": found["api_url"], "ray_dashboard_url": found["ray_dashboard_url"]}
            endpoints = replace(planned.endpoints, **urls)
            self._publish(phase="healthy", endpoints=endpoints, notes=tuple(found["notes"]))
            if self._joined_ray:
                await asyncio.Event().wait()
            await (ray or self._children["ray"]).process.wait()

    async def _deploy(self, verb: str, seconds: float) -> dict[str, Any]:
        """Run the driver; returns what it reports."""
        token = None if self._joined_ray else self._home.ray_token
        argv = [*python("enchanted.cluster.deploy"), verb, "--home", str(self._home.path)]
        try:
            child = await self._start("deploy", Command(argv=argv, environment=environment(token), pipes=True))
        except OSError as error:
            raise ServiceFailed("deploy", f"cannot be started: {error}", final=False) from error
        try:
            output, _ = await asyncio.wait_for(child.process.communicate(), seconds)
        except TimeoutError as error:
            await child.end(grace=2)
            raise ServiceFailed("deploy", f"not done after {seconds:.0f} s") from error
        try:
            report: dict[str, Any] = json.loads(output.splitlines()[-1])
        except (IndexError, json.JSONDecodeError) as error:
            code = describe_exit(child.process.returncode or 0)
            raise ServiceFailed("deploy", f"ended with {code} and no report", final=False) from error
        if "cause" in report:
            code = report.get("exit_code", UNREACHABLE)
            raise ServiceFailed("deploy", report["cause"], report["remedy"], final=report["final"], exit_code=code)
        return report

    async def _start(self, name: str, command: Command) -> Child:
        child = await Child.start(name, command, self._home.logs / f"{name}.log")
        self._children[name] = child
        return child

    async def _reap(self) -> None:
        """Collect orphans that became ours; asyncio collects the children it started."""
        while True:
            await asyncio.sleep(REAP_SECONDS)
            reap_orphans(os.getpid(), spare={child.process.pid for child in self._children.values()})

    async def _watch_disk(self, server: NatsServer) -> None:
        """Start nats-server again when its disk can be written again: after a failed write it refuses every other."""
        trouble = ""
        while True:
            await asyncio.sleep(DISK_SECONDS)
            with contextlib.suppress(OSError):
                server.tend()
            now = self._home.disk_trouble(ROOM if trouble else FULL)
            if now and not trouble:
                log.error("the disk of %s %s; events wait until it can be written", self._home.path, now)
            elif trouble and not now:
                log.warning("the disk of %s can be written again; restarting nats", self._home.path)
                # Were it only asked to end, one that hangs after a failed write would be waited for without end.
                await self._children["nats"].end(server.grace_seconds)
            trouble = now

    async def _end_children(self) -> None:
        """Ray first, so that nobody writes any more; then the bus and the store. A Ray that we joined stays."""
        if "deploy" in self._children:
            await self._children["deploy"].end(grace=2)
        if self._joined_ray and self._state.phase != "failed" and self._state.endpoints:
            await self._try("remove", REMOVE_SECONDS, "our actors may still be in the joined Ray")
        elif self._deployed and not self._joined_ray and self._children["ray"].process.returncode is None:
            # So that a table that others keep is whole when we are gone.
            await self._try("drain", DRAIN_SECONDS, "what ingest took and did not write comes again at the next start")
        for names in (("ray",), ("nats", "store")):
            ending = [
                self._children[name].end(self._services[name].grace_seconds) for name in names if name in self._children
            ]
            await asyncio.gather(*ending)
        if self._nats is not None:
            self._nats.clean()

    async def _try(self, verb: str, seconds: float, otherwise: str) -> None:
        try:
            await self._deploy(verb, seconds)
        except ServiceFailed as error:
            log.warning("%s: %s", otherwise, error)

    def _note(self, service: ServiceState) -> None:
        self._publish(services=self._state.with_service(service).services)

    def _publish(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        try:
            state.write(self._home, self._state)
        except OSError as error:
            # A full disk: the services decide for themselves what they still can do.
            log.warning("the state could not be written: %s", error)


def _describe(service: Service, child: Child, restarts: int) -> ServiceState:
    identity = child.identity
    return ServiceState(
        name=service.name,
        state="starting",
        pid=identity.pid if identity else None,
        started=identity.started if identity else None,
        port=service.port,
        restarts=restarts,
    )


def _stopped(service: ServiceState) -> ServiceState:
    return service if service.state == "external" else replace(service, state="stopped", pid=None, started=None)
