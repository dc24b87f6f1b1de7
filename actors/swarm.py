"""The one place where roles and orchestrators meet Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

import ray
from opentelemetry import trace
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from enchanted.actors import spans
from enchanted.actors.config import SwarmConfig
from enchanted.actors.errors import ActorError
from enchanted.actors.hosts import OrchestratorHost, RoleHost, RoleSpec
from enchanted.actors.ledger import Ledger, request_to_json
from enchanted.actors.lifecycle import RunState
from enchanted.actors.models.errors import ModelError
from enchanted.actors.placement import Room
from enchanted.actors.team import AgentLost
from enchanted.actors.work import (
    Assignment,
    CheckReport,
    CheckRequest,
    Plan,
    PlanRequest,
    Review,
    ReviewRequest,
    RoleName,
    RunRequest,
    Submission,
)
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BlobUnusable, BusError
from enchanted.schemas import events

log = logging.getLogger(__name__)

NAMESPACE = "enchanted"
TRANSITIONS = "swarm.events.operator.run_transition.*"
"""Runs' own transitions: the newest of a closed run holds its heads."""
START_SECONDS = 120.0
STOP_SECONDS = 15.0
NAME_SECONDS = 60.0
NAME_POLL = 0.2
PLACES: dict[RoleName, int] = {"architect": 0, "reviewer": 1}
CODERS = len(PLACES)
"""Place of the first Coder."""


class RayTeam:
    """The roles of one run as named Ray actors, owned by the orchestrator's process: they end with it."""

    def __init__(self, request: RunRequest, config: SwarmConfig, ledger: Ledger) -> None:
        self._request = request
        self._config = config
        self._agents = dict(ledger.agents)
        self._actors: dict[str, ActorHandle] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._room = Room(config.placement, CODERS + request.coders, request.run_id)

    @property
    def coders(self) -> int:
        """How many Coders can work at once."""
        return self._request.coders

    async def plan(self, request: PlanRequest) -> Plan:
        """Ask the Architect."""
        plan: Plan = await self._call("architect", "architect", "plan", request)
        return plan

    async def code(self, coder: int, job: Assignment) -> Submission:
        """Give a task to a Coder."""
        done: Submission = await self._call(f"coder-{coder + 1}", "coder", "code", job, number=coder)
        return done

    async def check(self, request: CheckRequest) -> CheckReport:
        """Have the Reviewer run the checks."""
        report: CheckReport = await self._call("reviewer", "reviewer", "check", request)
        return report

    async def review(self, request: ReviewRequest) -> Review:
        """Have the Reviewer judge a candidate."""
        review: Review = await self._call("reviewer", "reviewer", "review", request)
        return review

    async def disband(self) -> None:
        """End every role; returns when they write no more."""
        actors, self._actors = self._actors, {}
        await asyncio.gather(*(self._end(actor) for actor in actors.values()))
        await self._room.give_back()

    async def _end(self, actor: ActorHandle) -> None:
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(_result(actor.stop.remote()), STOP_SECONDS)
        with contextlib.suppress(RayError):
            await asyncio.to_thread(ray.kill, actor, no_restart=True)

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        try:
            actor = await self._actor(name, role, number)
            return await _result(actor.call.remote(method, request))
        except RayTaskError as error:
            if isinstance(error.cause, (ActorError, ModelError, BusError)):
                raise error.cause from None
            raise
        except (RayError, TimeoutError) as error:
            await self._bury(name)
            raise AgentLost(name) from error

    async def _actor(self, name: str, role: RoleName, number: int) -> ActorHandle:
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._actors:
                spec = RoleSpec(
                    role=role,
                    name=name,
                    request=self._request,
                    config=self._config,
                    number=number,
                    predecessor=self._agents.get(name, ""),
                )
                room = await self._room.options(PLACES.get(role, CODERS + number))
                actor = ray.remote(max_concurrency=8)(RoleHost).options(
                    name=f"{name}:{self._request.run_id}", namespace=NAMESPACE, **room
                )
                self._actors[name] = await _named(actor, spec)
                started = _result(self._actors[name].start.remote())
                try:
                    self._agents[name] = await asyncio.wait_for(started, START_SECONDS)
                except Exception:
                    await self._bury(name)
                    raise
            return self._actors[name]

    async def _bury(self, name: str) -> None:
        """Make sure that a role which cannot be reached writes no more."""
        actor = self._actors.pop(name, None)
        if actor is not None:
            await asyncio.to_thread(ray.kill, actor, no_restart=True)


class OrchestratorActor(OrchestratorHost):
    """An orchestrator that begins by itself, so that Ray's restart of its process is all a recovery takes."""

    async def __init__(self, run_id: str, config: SwarmConfig) -> None:  # type: ignore[misc]
        super().__init__(run_id, config, RayTeam)
        self._running = asyncio.create_task(self._run_and_leave())

    async def _run_and_leave(self) -> None:
        try:
            await self._run_or_abandon()
        except BusError:
            # The bus was away for longer than it is waited for: Ray's restart of this process is the next try.
            os._exit(1)
        actor = ray.get_runtime_context().current_actor
        await asyncio.to_thread(ray.kill, actor, no_restart=True)

    async def _run_or_abandon(self) -> None:
        try:
            await self.run()
        except BlobUnusable as error:
            # Trying again would find it as it is.
            await self.abandon(error)
        except BusError:
            raise
        except Exception as error:  # the process boundary: a run must end with a verdict, whatever we did wrong
            log.exception("the orchestrator of %s failed", self._run_id)
            await self.abandon(error)

    async def pid(self) -> int:
        """Process id, for whoever watches it."""
        return os.getpid()


class Swarm:
    """Starts and cancels runs on the connected Ray cluster."""

    def __init__(self, config: SwarmConfig) -> None:
        self._config = config

    async def start(self, request: RunRequest) -> str:
        """Record the request and set its orchestrator going; returns the run's id once the request is durable."""
        async with Bus.connect(self._config.nats_url, name="operator") as bus:
            log = AgentLog(bus, run_id=request.run_id, role="operator", agent_name="operator")
            with trace.get_tracer(__name__).start_as_current_span(
                "create_run", attributes={spans.CONVERSATION_ID: request.run_id}
            ):
                await log.emit(
                    events.run_transition(
                        subject="run",
                        from_state=RunState.NEW,
                        to_state=RunState.CREATED,
                        reason=request.task,
                        details=request_to_json(request),
                    )
                )
        await asyncio.to_thread(self._orchestrate, request.run_id)
        return request.run_id

    async def cancel(self, run_id: str, reason: str = "the operator cancelled it") -> None:
        """Record the wish and tell the orchestrator; harmless when the run has ended."""
        async with Bus.connect(self._config.nats_url, name="operator") as bus:
            ended = False
            for stored in await bus.read_run(run_id):
                ended = ended or bool(stored.event.run_transition.heads)
            if ended:
                return
            log = AgentLog(bus, run_id=run_id, role="operator", agent_name="operator")
            await log.emit(events.run_transition(subject="run", from_state="", to_state="cancelling", reason=reason))
        actor = await asyncio.to_thread(self._orchestrate, run_id)
        with contextlib.suppress(ActorDiedError):
            await _result(actor.cancel.remote(reason))

    async def resume(self, run_id: str) -> None:
        """Set an orchestrator going for a recorded run, unless it has one."""
        await asyncio.to_thread(self._orchestrate, run_id)

    async def adopt(self) -> list[str]:
        """Set an orchestrator going for every run that has none and no verdict: after a restart of Ray, all of them."""
        async with Bus.connect(self._config.nats_url, name="operator") as bus:
            newest = await bus.last_of_each(TRANSITIONS)
        runs = [stored.event.run_id for stored in newest if not stored.event.run_transition.heads]
        for run_id in runs:
            await self.resume(run_id)
        return runs

    def _orchestrate(self, run_id: str) -> ActorHandle:
        return (
            ray.remote(num_cpus=0)(OrchestratorActor)
            .options(
                name=f"orchestrator:{run_id}",
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                label_selector=dict(self._config.placement.label_selector) or None,
            )
            .remote(run_id, self._config)
        )


async def _named(actor: Any, *arguments: Any) -> ActorHandle:
    """Create a named actor, once Ray has seen the end of the one that had its name: so two never write at once."""
    give_up = time.monotonic() + NAME_SECONDS
    while True:
        try:
            return await asyncio.to_thread(actor.remote, *arguments)
        except ValueError:
            if time.monotonic() > give_up:
                raise
        await asyncio.sleep(NAME_POLL)


async def _result(reference: Any) -> Any:
    return await asyncio.wrap_future(reference.future())
