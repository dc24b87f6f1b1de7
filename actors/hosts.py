"""What runs inside the actors' processes: a role, or the orchestrator, with the bus and the disk it needs.

Plain classes: `swarm.py` is the place that turns them into Ray actors.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from enchanted.actors import spans
from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.desk import SandboxedSite
from enchanted.actors.errors import ActorError, LogBroken
from enchanted.actors.fork import fork_repository, inflated
from enchanted.actors.ledger import Ledger, read_ledger
from enchanted.actors.lifecycle import CLOSED_RUN, RunSignal, RunState, next_run_state
from enchanted.actors.models.engine import EngineSpec
from enchanted.actors.models.engine_pool import VllmModel
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.models.model import Model
from enchanted.actors.models.openai import OpenAIModel
from enchanted.actors.orchestrator import Orchestrator
from enchanted.actors.ray_metrics import PublisherMetrics
from enchanted.actors.recovery import Recovery, recover
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.workspace import make_removable
from enchanted.actors.roles import Manner, make_role
from enchanted.actors.team import Team
from enchanted.actors.tools.confinement import Limits
from enchanted.actors.tools.sandbox import Sandbox
from enchanted.actors.tools.toolbox import ToolLimits
from enchanted.actors.vitals import vital
from enchanted.actors.work import RoleName, RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.errors import BlobUnusable
from enchanted.schemas import events
from enchanted.schemas.chain import heads_of
from enchanted.schemas.fold import fold

ORCHESTRATOR = "orchestrator"
REPOSITORY = "repo.git"


@dataclass(frozen=True, kw_only=True)
class RoleSpec:
    """Which role of which run, and whom it continues."""

    role: RoleName
    name: str
    request: RunRequest
    config: SwarmConfig
    number: int = 0
    """Which of the Coders; makes their seeds differ."""
    predecessor: str = ""


class RoleHost:
    """One role of one run with its own bus connection, log and workspaces."""

    def __init__(self, spec: RoleSpec) -> None:
        self._spec = spec
        self._stack = AsyncExitStack()
        self._role: Any = None

    async def start(self) -> str:
        """Connect and say STARTING; returns the new agent's id."""
        spec, request = self._spec, self._spec.request
        bus = await self._stack.enter_async_context(Bus.connect(spec.config.nats_url, name=spec.name))
        log = AgentLog(bus, run_id=request.run_id, role=spec.role, agent_name=spec.name, predecessor=spec.predecessor)
        chosen = spec.config.model_for(spec.role, request)
        self._role = make_role(
            spec.role,
            request,
            name=spec.name,
            number=spec.number,
            log=log,
            model=open_model(spec.role, chosen, spec.config),
            manner=Manner(guided=chosen.is_guided, temperature=chosen.temperature),
            site=await self._site(),
        )
        metrics = PublisherMetrics(spec.role, bus.publisher.statistics)
        await self._stack.enter_async_context(vital(log, spec.config.signal_seconds, metrics=metrics))
        return log.agent_id

    async def _site(self) -> SandboxedSite:
        config = self._spec.config
        folder = config.run_folder(self._spec.request.run_id)
        return SandboxedSite(
            repository=await asyncio.to_thread(ShadowRepository.open, folder / REPOSITORY),
            folder=folder,
            sandbox=sandbox_of(config),
            limits=tool_limits(config),
            # Who judges sees every tree under the same conditions.
            offers=self._spec.request.variables if self._spec.role == "coder" else None,
        )

    async def call(self, method: str, request: Any) -> Any:
        """Have the role do one thing: ``plan``, ``code``, ``check`` or ``review``."""
        return await getattr(self._role, method)(request)

    async def stop(self) -> None:
        """Say STOPPING and disconnect; nothing is written afterwards."""
        await self._stack.aclose()
        await asyncio.to_thread(spans.flush)


class OrchestratorHost:
    """Drives one run in the background, and starts over from the log whenever its process is restarted."""

    def __init__(self, run_id: str, config: SwarmConfig, team: Any) -> None:
        self._run_id = run_id
        self._config = config
        self._make_team = team
        self._team: Team | None = None
        self._orchestrator: Orchestrator | None = None
        self._driving: asyncio.Task[RunState] | None = None
        self._cancelled = ""

    async def run(self) -> RunState:
        """Drive the run to its verdict."""
        async with Bus.connect(self._config.nats_url, name=ORCHESTRATOR) as bus:
            found = [await inflated(bus, e) for e in await bus.read_run(self._run_id)]
            ledger = read_ledger(found)
            if ledger.state in CLOSED_RUN or ledger.request is None:
                # Whoever closed it may have been killed before this.
                await self._clear()
                return ledger.state
            log = AgentLog(
                bus,
                run_id=self._run_id,
                role="operator",
                agent_name=ORCHESTRATOR,
                predecessor=ledger.agents.get(ORCHESTRATOR, ""),
            )
            context.attach(_context_of(ledger))
            try:
                with spans.workflow_span(self._run_id):
                    return await self._drive(bus, log, ledger, recover(found, run=self._run_id))
            finally:
                await asyncio.to_thread(spans.flush)

    async def _drive(self, bus: Bus, log: AgentLog, ledger: Ledger, recovery: Recovery) -> RunState:
        request = ledger.request
        assert request is not None
        team = self._team = self._make_team(request, self._config, ledger)
        folder = self._config.run_folder(self._run_id)
        metrics = PublisherMetrics("operator", bus.publisher.statistics)
        async with vital(log, self._config.signal_seconds, metrics=metrics):
            try:
                repository = await open_repository(folder, request, bus, ledger)
            except ActorError as error:
                return await _fail(bus, log, ledger, error)
            orchestrator = self._orchestrator = Orchestrator(
                bus=bus, log=log, ledger=ledger, team=team, repository=repository, now=time.time
            )
            broken = str(LogBroken(recovery.fault.seq, recovery.fault.why)) if recovery.fault else ""
            driven = orchestrator.give_up(recovery, broken) if broken else orchestrator.drive()
            self._driving = asyncio.create_task(driven)
            if self._cancelled:
                self._driving.cancel()
            try:
                state = await self._driving
            except asyncio.CancelledError:
                if not self._cancelled:
                    raise
                state = await orchestrator.cancel(self._cancelled)
        await self._clear()
        return state

    async def _clear(self) -> None:
        await asyncio.to_thread(clear_workspaces, self._config.run_folder(self._run_id))

    async def abandon(self, error: Exception) -> None:
        """Close the run as failed for an error that no step expected."""
        if self._team is not None:
            # Whoever went on working would write behind the heads that the verdict names.
            await self._team.disband()
        async with Bus.connect(self._config.nats_url, name=ORCHESTRATOR) as bus:
            events_so_far = await bus.read_run(self._run_id)
            state = fold(events_so_far).state
            if state in CLOSED_RUN:
                return
            ours = f"internal error, please report it: {type(error).__name__}: {error}"
            log = AgentLog(bus, run_id=self._run_id, role="operator", agent_name=ORCHESTRATOR)
            await log.emit(
                events.run_transition(
                    subject="run",
                    from_state=state,
                    to_state=RunState.FAILED,
                    reason=str(error) if isinstance(error, BlobUnusable) else ours,
                    heads=heads_of(events_so_far),
                )
            )
        await self._clear()

    def cancel(self, reason: str) -> None:
        """Stop driving and close the run as cancelled, unless its verdict is being made."""
        self._cancelled = reason
        if self._driving is not None and self._orchestrator is not None and not self._orchestrator.closing:
            self._driving.cancel()


async def open_repository(folder: Path, request: RunRequest, bus: Bus, ledger: Ledger) -> ShadowRepository:
    """The run's shadow repository: as it was left here, or made from the user's repository or the parent run.

    Raises:
        ActorError: neither can be used.
    """
    place = folder / REPOSITORY
    if request.forked_from and not place.exists():
        return await fork_repository(place, bus, request)
    return await ShadowRepository.create(place, Path(request.repo))


def clear_workspaces(folder: Path) -> None:
    """Remove every workspace of a closed run; the shadow repository stays for `state` and `restore`."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name != REPOSITORY:
            with suppress(OSError):
                make_removable(entry)
            shutil.rmtree(entry, ignore_errors=True)


def open_model(role: RoleName, chosen: RoleModel, config: SwarmConfig) -> Model:
    """The model a role asks: an engine of the cluster, or a server by URL.

    Raises:
        BadModelUrl: the URL is none we know.
    """
    source = chosen.source
    if source.kind == "minimal":
        return MinimalModel()
    if source.kind == "openai":
        return OpenAIModel(
            base_url=source.base_url, model=source.model, key_file=Path(chosen.key_file) if chosen.key_file else None
        )
    spec = EngineSpec(
        model_source=source,
        num_gpus=chosen.num_gpus,
        num_cpus=chosen.num_cpus,
        label_selector=chosen.label_selector,
        dedicated_to=role if chosen.dedicated else "",
        max_model_len=chosen.max_model_len,
        models_folder=str(Path(config.home) / "models"),
        nats_url=config.nats_url,
    )
    return VllmModel(spec=spec)


def sandbox_of(config: SwarmConfig) -> Sandbox:
    """The sandbox of this home: its folder, the API's token and the models' keys are hidden from every command."""
    keys = (config.token_file, *(model.key_file for model in config.models.values()))
    return Sandbox(hidden=(Path(config.home), *map(Path, filter(None, keys))), unsafe=config.unsafe_no_sandbox)


def tool_limits(config: SwarmConfig) -> ToolLimits:
    """What one use of a tool may take and give."""
    check = Limits(
        seconds=config.tool_seconds,
        memory_bytes=config.tool_memory_mb << 20,
        processes=config.tool_processes,
        file_bytes=config.tool_file_mb << 20,
        output_bytes=config.tool_output_kb << 10,
    )
    return ToolLimits(check=check)


def _context_of(ledger: Ledger) -> Any:
    parent = SpanContext(
        trace_id=int(ledger.trace_id or "0", 16),
        span_id=int(ledger.span_id or "0", 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent))


async def _fail(bus: Bus, log: AgentLog, ledger: Ledger, error: ActorError) -> RunState:
    assert ledger.request is not None
    await log.emit(
        events.run_transition(
            subject="run",
            from_state=ledger.state,
            to_state=next_run_state(ledger.state, RunSignal.ERROR),
            reason=str(error),
            heads=heads_of(await bus.read_run(ledger.request.run_id)),
            parent=ledger.last_event_id,
        )
    )
    return RunState.FAILED
