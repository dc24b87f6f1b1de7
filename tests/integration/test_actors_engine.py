"""vLLM in Ray with a model of half a megabyte. Two engines are started once, since each start takes 30 s."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import ray

from enchanted.actors.models.engine import EngineSpec
from enchanted.actors.models.engine_pool import (
    VllmModel,
    engine_actor,
    engine_statistics,
    list_engines,
    start_engine,
    stop_engine,
)
from enchanted.actors.models.errors import EngineDied, ModelNotFound, ModelRefused, ModelUnavailable
from enchanted.actors.models.model import Message, ModelRequest, parse_model_url
from enchanted.actors.models.tiny import make_tiny_model
from enchanted.bus.connection import Bus
from enchanted.bus.testing import NatsServer, nats_server

pytestmark = pytest.mark.timeout(300)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"choice": {"enum": ["one", "two"]}, "rationale": {"type": "string", "maxLength": 30}},
    "required": ["choice", "rationale"],
    "additionalProperties": False,
}
LONG_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1500, "maxLength": 1500}
"""Keeps the model busy for seconds, where free text may end at any token."""


@dataclass(frozen=True)
class Engines:
    shared: EngineSpec
    """Sends its signals to the bus."""
    dedicated: EngineSpec


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    # Ray's sockets lie below this folder and their paths must stay short.
    folder = tempfile.mkdtemp(prefix="ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
async def server(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(scope="module")
async def engines(
    local_ray: None, server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engines]:
    source = parse_model_url(f"vllm:{make_tiny_model(tmp_path_factory.mktemp('tiny'))}")
    shared = EngineSpec(model_source=source, num_cpus=0.5, threads=1, nats_url=server.url)
    dedicated = EngineSpec(model_source=source, num_cpus=0.5, threads=1, dedicated_to="reviewer")
    await asyncio.gather(start_engine(shared), start_engine(dedicated))
    yield Engines(shared, dedicated)
    for spec in (shared, dedicated):
        await stop_engine(spec.key)


def _request(seed: int = 0, *, text: str = "Which one?", **changes: Any) -> ModelRequest:
    values: dict[str, Any] = {"schema": SCHEMA, "max_tokens": 200, "temperature": 1.0, "seed": seed} | changes
    return ModelRequest(messages=(Message(role="user", content=text),), **values)


async def test_many_answers_at_once_follow_the_schema(engines: Engines) -> None:
    model = VllmModel(spec=engines.shared)
    replies = await asyncio.gather(*(model.complete(_request(seed)) for seed in range(16)))
    for reply in replies:
        assert reply.finish_reason == "stop"
        jsonschema.validate(json.loads(reply.text), SCHEMA)
        assert reply.input_tokens > 0
        assert reply.output_tokens > 10
        assert 0 < reply.time_to_first_token_ms < reply.duration_ms
    assert len({reply.text for reply in replies}) > 8


async def test_the_same_seed_gives_the_same_answer(engines: Engines) -> None:
    model = VllmModel(spec=engines.shared)
    first, again, other = [await model.complete(_request(seed)) for seed in (7, 7, 8)]
    assert first.text == again.text != other.text


async def test_an_answer_cut_off_by_its_limit_is_a_normal_reply(engines: Engines) -> None:
    reply = await VllmModel(spec=engines.shared).complete(_request(max_tokens=6))
    assert (reply.finish_reason, reply.output_tokens) == ("length", 6)


async def test_without_a_schema_the_text_is_free(engines: Engines) -> None:
    reply = await VllmModel(spec=engines.shared).complete(_request(schema=None, max_tokens=8))
    assert reply.output_tokens == 8


async def test_a_dedicated_engine_is_a_process_of_its_own(engines: Engines) -> None:
    before = await engine_statistics(engines.shared.key)
    await VllmModel(spec=engines.dedicated).complete(_request())
    shared, dedicated = [await engine_statistics(spec.key) for spec in (engines.shared, engines.dedicated)]
    assert before is not None
    assert shared is not None
    assert dedicated is not None
    assert shared.pid != dedicated.pid
    assert dedicated.dedicated_to == "reviewer"
    assert shared.completed == before.completed
    assert set(await list_engines()) == {engines.shared.key, engines.dedicated.key}


async def test_a_request_at_fault_is_refused_and_the_engine_serves_on(engines: Engines) -> None:
    model = VllmModel(spec=engines.shared)
    with pytest.raises(ModelRefused, match="leave no room in a context of 2048"):
        await model.complete(_request(text="word " * 3000))
    with pytest.raises(ModelRefused, match="nonsense"):
        await model.complete(_request(schema={"type": "nonsense"}))
    assert (await model.complete(_request())).finish_reason == "stop"


async def test_prompts_that_begin_alike_are_read_once(engines: Engines) -> None:
    model = VllmModel(spec=engines.shared)
    before = await engine_statistics(engines.shared.key)
    for end in ("a", "b"):
        await model.complete(_request(text="the same long beginning " * 40 + end, max_tokens=2))
    after = await engine_statistics(engines.shared.key)
    assert before is not None
    assert after is not None
    assert after.cached_tokens - before.cached_tokens >= 512


async def test_a_request_nobody_waits_for_is_dropped(engines: Engines) -> None:
    with pytest.raises(ModelUnavailable, match=r"within 0\.5 s"):
        await VllmModel(spec=engines.shared, deadline_s=0.5).complete(_request(schema=LONG_SCHEMA, max_tokens=1900))
    await _until_running(engines.shared, 0)


async def test_a_killed_core_is_reported_at_once_and_its_engine_comes_back(engines: Engines) -> None:
    old = await engine_statistics(engines.shared.key)
    assert old is not None
    long = _request(schema=LONG_SCHEMA, max_tokens=1900)
    failing = engine_actor(engines.shared).complete.remote(long)
    retried = asyncio.create_task(VllmModel(spec=engines.shared).complete(long))
    await _until_running(engines.shared, 2)
    _core_of(old.pid).kill()
    killed = time.monotonic()
    with pytest.raises(EngineDied):
        await failing
    assert time.monotonic() - killed < 30, "by its end, and not by a deadline"
    assert (await retried).output_tokens > 0
    assert (await VllmModel(spec=engines.shared).complete(_request())).finish_reason == "stop"
    new = await engine_statistics(engines.shared.key)
    assert new is not None
    assert new.pid != old.pid


async def test_each_process_of_an_engine_says_how_it_is(engines: Engines, server: NatsServer) -> None:
    """After the kill above there were two."""
    name, seen = f"engine:{engines.shared.key}", set()
    async with Bus.connect(server.url) as bus:
        async for stored in bus.tail("swarm.events.unspecified.system_signal", after=0):
            assert stored.event.agent_name == name
            assert stored.event.system_signal.status in ("STARTING", "HEALTHY")
            seen.add(stored.event.system_signal.pid)
            if len(seen) == 2:
                break


async def test_an_engine_without_a_model_says_so_and_does_not_stay(local_ray: None, tmp_path: Path) -> None:
    spec = EngineSpec(model_source=parse_model_url(f"vllm:{tmp_path / 'gone'}"), num_cpus=0.1)
    with pytest.raises(ModelNotFound, match="there is no such folder"):
        await start_engine(spec)
    await _until_forgotten(spec.key)


async def test_an_engine_no_node_has_room_for_says_what_is_short(engines: Engines) -> None:
    spec = EngineSpec(model_source=engines.shared.model_source, num_gpus=64, num_cpus=0.1)
    with pytest.raises(ModelUnavailable, match="it needs 64 GPUs and the cluster has"):
        await start_engine(spec, timeout_s=1.0)
    await _until_forgotten(spec.key)


async def _until_forgotten(key: str) -> None:
    """Ray forgets the name of a killed actor a moment later."""
    async with asyncio.timeout(20):
        while key in await list_engines():  # noqa: ASYNC110 - Ray has no event for it
            await asyncio.sleep(0.05)


async def test_a_stopped_engine_leaves_no_process(engines: Engines) -> None:
    statistics = await engine_statistics(engines.dedicated.key)
    assert statistics is not None
    processes = [psutil.Process(statistics.pid), _core_of(statistics.pid)]
    await stop_engine(engines.dedicated.key)
    await asyncio.to_thread(psutil.wait_procs, processes, 10)
    assert not any(process.is_running() for process in processes)
    assert engines.dedicated.key not in await list_engines()
    await stop_engine(engines.dedicated.key)


async def _until_running(spec: EngineSpec, requests: int) -> None:
    for _ in range(500):
        statistics = await engine_statistics(spec.key)
        if statistics is not None and statistics.running == requests:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"the engine never had {requests} requests")


def _core_of(pid: int) -> psutil.Process:
    return next(child for child in psutil.Process(pid).children() if "EngineCore" in child.name())
