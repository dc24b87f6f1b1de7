"""Engines as Ray actors: the one place where an engine meets Ray, and the model that asks it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.util
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from enchanted.actors.models.engine import Engine, EngineSpec, EngineStatistics, engine_environment
from enchanted.actors.models.errors import EngineDied, EngineUnusable, ModelError, ModelUnavailable
from enchanted.actors.models.model import ModelReply, ModelRequest
from enchanted.actors.vitals import signal_for_ever

NAMESPACE = "enchanted"
PREFIX = "engine:"
CONCURRENCY = 64
"""Requests an engine's actor holds at once; vLLM computes `max_num_seqs` of them."""
CONTROL = "control"
"""Statistics answer under full load: Ray gives the group its own event loop, so only what awaits nothing may use it."""
CLOSE_TIMEOUT_S = 8.0
STATISTICS_TIMEOUT_S = 2.0
READY_TIMEOUT_S = 300.0
DEADLINE_S = 240.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0


class EngineActor(Engine):
    """An engine that says every few seconds how it is."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._nats_url = spec.nats_url
        self._name = PREFIX + spec.key
        self._signals: asyncio.Task[None] | None = None

    async def ready(self) -> EngineStatistics:
        """As `Engine.ready`; the first call begins the signals, so that loading is seen too."""
        if self._nats_url and self._signals is None:
            self._signals = asyncio.create_task(signal_for_ever(self._nats_url, self._name))
        return await super().ready()

    async def close(self) -> None:
        """Say STOPPING, then as `Engine.close`."""
        if self._signals is not None:
            self._signals.cancel()
            await asyncio.wait({self._signals})
        await super().close()


def engine_actor(spec: EngineSpec) -> ActorHandle:
    """The named actor of this spec, created where there is none. Detached: it outlives its driver.

    Raises:
        EngineUnusable: Ray refuses the spec (for instance a label no node could ever have).
    """
    remote = ray.remote(max_concurrency=CONCURRENCY, concurrency_groups={CONTROL: 4})(EngineActor)
    try:
        return remote.options(
            name=PREFIX + spec.key,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus,
            label_selector=dict(spec.label_selector) or None,
            runtime_env={"env_vars": engine_environment(spec)},
        ).remote(spec)
    except ValueError as error:
        raise EngineUnusable(spec.model_source.name, str(error), "correct its num_gpus or label_selector") from error


async def start_engine(spec: EngineSpec, *, timeout_s: float = READY_TIMEOUT_S) -> EngineStatistics:
    """Have the engine loaded and ready; an engine that cannot be is stopped again.

    Raises:
        ModelNotFound, EngineUnusable: it cannot serve this model.
        ModelUnavailable: not ready in time.
    """
    try:
        statistics: EngineStatistics = await _ask(spec, lambda actor: actor.ready.remote(), timeout_s)
    except ModelError:
        # Nothing to close: it has no core yet, or Ray has not placed it at all.
        await stop_engine(spec.key, timeout_s=0.0)
        raise
    return statistics


async def engine_statistics(key: str, *, timeout_s: float = 5.0) -> EngineStatistics | None:
    """Counts of a running engine; None when it does not exist or does not answer in time."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, PREFIX + key, NAMESPACE)
        call = actor.statistics.options(concurrency_group=CONTROL).remote()
        statistics: EngineStatistics = await asyncio.wait_for(asyncio.wrap_future(call.future()), timeout_s)
    except (ValueError, TimeoutError, RayError):
        return None
    return statistics


async def list_engines() -> list[str]:
    """Keys of the engines of this Ray cluster, restarting ones included."""
    actors: list[dict[str, str]] = await asyncio.to_thread(ray.util.list_named_actors, True)
    return sorted(
        actor["name"].removeprefix(PREFIX)
        for actor in actors
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX)
    )


async def stop_engine(key: str, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
    """End an engine and its core process, orderly for as long as `timeout_s`. Nothing happens when there is none."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, PREFIX + key, NAMESPACE)
    except ValueError:
        return
    # Dead, restarting or stuck: the kill ends it in each case.
    with contextlib.suppress(TimeoutError, RayError):
        await asyncio.wait_for(asyncio.wrap_future(actor.close.remote().future()), timeout_s)
    await asyncio.to_thread(ray.kill, actor, no_restart=True)


async def every_engine() -> list[EngineStatistics]:
    """Counts of every engine of this Ray cluster that answers in time."""
    keys = await list_engines()
    answers = await asyncio.gather(*(engine_statistics(key, timeout_s=STATISTICS_TIMEOUT_S) for key in keys))
    return [answer for answer in answers if answer is not None]


@dataclass(frozen=True, kw_only=True)
class VllmModel:
    """Asks the engine of `spec`, through its restarts, for as long as `deadline_s`."""

    spec: EngineSpec
    deadline_s: float = DEADLINE_S

    @property
    def name(self) -> str:
        return self.spec.model_source.name

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer once; see `Model.complete` for what it raises."""
        reply: ModelReply = await _ask(self.spec, lambda actor: actor.complete.remote(request), self.deadline_s)
        return reply


async def _ask(spec: EngineSpec, call: Callable[[ActorHandle], ObjectRef], timeout_s: float) -> Any:
    """What `call` answers, asked again whenever the engine's process or its node went away."""
    give_up = time.monotonic() + timeout_s
    pause = FIRST_PAUSE_S
    why = ""
    while (left := give_up - time.monotonic()) > 0:
        try:
            return await _ask_once(spec, call, left)
        except TimeoutError:
            break
        except (EngineDied, RayError) as error:
            why = f"its engine died and is being restarted: {type(error).__name__}"
        await asyncio.sleep(min(pause * random.uniform(0.5, 1.0), max(0.0, give_up - time.monotonic())))
        pause = min(pause * 2, LONGEST_PAUSE_S)
    raise ModelUnavailable(
        spec.model_source.name,
        timeout_s,
        why or await asyncio.to_thread(_why_silent, spec),
        "see `enchanted status` and the engine's log in Ray",
    )


async def _ask_once(spec: EngineSpec, call: Callable[[ActorHandle], ObjectRef], timeout_s: float) -> Any:
    actor = await asyncio.to_thread(engine_actor, spec)
    reference = call(actor)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(reference.future()), timeout_s)
    except (TimeoutError, asyncio.CancelledError):
        # The engine drops the request, so that nobody waits behind an answer no one wants.
        ray.cancel(reference)
        raise
    except RayTaskError as error:
        if isinstance(error.cause, ModelError):
            raise error.cause from None
        raise EngineUnusable(spec.model_source.name, repr(error.cause), "see the engine's log in Ray") from error


def _why_silent(spec: EngineSpec) -> str:
    gpus = float(ray.cluster_resources().get("GPU", 0.0))
    if spec.num_gpus > gpus:
        return f"it needs {spec.num_gpus:g} GPUs and the cluster has {gpus:g}"
    return "its engine is still starting, has no place on any node, or is overloaded"
