"""What runs where, told by those who run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.schemas import events
from enchanted.serve.guard.auth import Access
from enchanted.serve.queries import cluster
from enchanted.serve.sources.buslink import BusLink
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.store import Store
from enchanted.serve.testing import World, served, until

TOKEN = "t"
NODE = {"node_id": "n1", "host": "here", "address": "127.0.0.1", "alive": True, "resources": {"CPU": 2.0}}


class View:
    """A cluster of one node that takes its time."""

    dashboard_url = "http://127.0.0.1:8265"

    def __init__(self, pause: float = 0.0) -> None:
        self._pause = pause

    async def nodes(self) -> list[dict[str, Any]] | None:
        return [NODE]

    async def engines(self) -> list[dict[str, Any]] | None:
        await asyncio.sleep(self._pause)
        return []


async def asked(world: World, view: View, folder: Path) -> dict[str, Any]:
    deps = Dependencies(
        store=Store(world.store_url),
        bus=BusLink(world.nats.url),
        access=Access(token=TOKEN),
        cache=folder,
        cluster=view,
    )
    async with served(deps) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        response = await http.get("/api/v1/cluster", headers={"Authorization": f"Bearer {TOKEN}"})
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document


async def test_everybody_is_shown_as_he_said_last_and_models_with_what_they_were_asked(world: World) -> None:
    log = AgentLog(world.bus, run_id="run-cluster", role="coder", agent_name="coder-7")
    await log.emit(events.system_signal(status="STARTING", cpu_load_percent=1, pid=41, node="here"))
    await log.emit(events.system_signal(status="DEGRADED", cpu_load_percent=93, memory_usage_mb=7, pid=42, node="here"))
    await log.emit(
        events.model_call(
            model="vllm:asked", messages="[]", parameters={}, completion="x", finish_reason="stop", output_tokens=120
        )
    )

    async def there() -> bool:
        return any(one["model"] == "vllm:asked" for one in (await world.document("cluster"))["models"])

    await until(there)
    document = await world.document("cluster")
    (actor,) = [one for one in document["actors"] if one["run_id"] == "run-cluster"]
    assert (actor["name"], actor["role"], actor["status"]) == ("coder-7", "coder", "DEGRADED")
    assert (actor["cpu_load_percent"], actor["memory_usage_mb"], actor["pid"], actor["node"]) == (93, 7, 42, "here")
    (model,) = [one for one in document["models"] if one["model"] == "vllm:asked"]
    assert (model["calls"], model["output_tokens"], model["output_tokens_per_s"]) == (1, 120, 2.0)
    assert (document["nodes"], document["engines"], document["dashboard_url"]) == (None, None, "")


async def test_what_ray_does_not_say_in_time_is_left_open(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "RAY_DEADLINE", 0.2)
    document = await asked(world, View(pause=60.0), tmp_path)
    assert (document["nodes"], document["engines"]) == ([NODE], None)
    assert (await asked(world, View(), tmp_path))["engines"] == []
    assert (await asked(world, View(), tmp_path))["dashboard_url"] == View.dashboard_url
