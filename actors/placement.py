"""Where a run's agents are: on their orchestrator's node, where the workspaces are, in room reserved for them."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from enchanted.actors.config import Placement
from enchanted.actors.errors import ActorError

NODE = "ray.io/node-id"
"""The label Ray gives each node."""


class NoRoom(ActorError):
    """The orchestrator's node has no room for the run's agents."""

    def __init__(self, agents: int, cpus: float, seconds: float) -> None:
        super().__init__(
            f"the node of the run has no room for {agents} agents of {cpus:g} CPUs each, waited {seconds:g} s; lower "
            "ENCHANTED_PLACEMENT__CPUS_PER_AGENT or the number of coders, or wait for other runs to end"
        )


class Room:
    """The reservation of one run: a placement group with a bundle for each agent, or none where nothing is reserved."""

    def __init__(self, placement: Placement, agents: int, name: str) -> None:
        self._placement = placement
        self._agents = agents
        self._name = name
        self._group: PlacementGroup | None = None
        self._lock = asyncio.Lock()

    async def options(self, place: int) -> dict[str, Any]:
        """Ray's options for the actor in that place, once there is room for all of the run.

        Raises:
            NoRoom: there was none in time.
        """
        node = {NODE: ray.get_runtime_context().get_node_id()}
        cpus = self._placement.cpus_per_agent
        if not cpus:
            return {"num_cpus": 0, "label_selector": node}
        async with self._lock:
            if self._group is None:
                self._group = await self._reserve(cpus, node)
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=place)
        return {"num_cpus": cpus, "scheduling_strategy": strategy}

    async def give_back(self) -> None:
        """Free what was reserved; Ray does the same when the orchestrator's process dies."""
        group, self._group = self._group, None
        if group is not None:
            await asyncio.to_thread(remove_placement_group, group)

    async def _reserve(self, cpus: float, node: dict[str, str]) -> PlacementGroup:
        group = placement_group(
            [{"CPU": cpus}] * self._agents,
            strategy="STRICT_PACK",
            name=f"{self._name}:{os.getpid()}",
            bundle_label_selector=[node] * self._agents,
        )
        seconds = self._placement.wait_seconds
        if not await asyncio.to_thread(group.wait, seconds):
            await asyncio.to_thread(remove_placement_group, group)
            raise NoRoom(self._agents, cpus, seconds)
        return group
