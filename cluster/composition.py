"""Settings of a home turned into what the swarm is told."""

from __future__ import annotations

from enchanted.actors.config import Placement, RoleModel, SwarmConfig
from enchanted.actors.work import RoleName
from enchanted.cluster.settings import ModelSettings, Settings
from enchanted.cluster.state import Endpoints

ROLES: tuple[RoleName, ...] = ("architect", "coder", "reviewer")


def swarm_config(settings: Settings, endpoints: Endpoints) -> SwarmConfig:
    """What every actor of this home's swarm needs to know."""
    sandbox = settings.sandbox
    return SwarmConfig(
        nats_url=endpoints.nats_url,
        home=str(endpoints.home),
        token_file=str(endpoints.token_file),
        models={role: role_model(settings.role_model(role)) for role in ROLES},
        placement=Placement(**settings.placement.model_dump()),
        tool_seconds=sandbox.seconds,
        tool_memory_mb=sandbox.memory_mb,
        tool_processes=sandbox.processes,
        tool_output_kb=sandbox.output_kb,
        tool_file_mb=sandbox.file_mb,
        unsafe_no_sandbox=settings.unsafe_no_sandbox,
    )


def role_model(chosen: ModelSettings) -> RoleModel:
    """A role's model as the swarm knows it."""
    return RoleModel(
        url=chosen.url,
        num_gpus=chosen.num_gpus,
        num_cpus=chosen.num_cpus,
        label_selector=chosen.label_selector,
        dedicated=chosen.dedicated,
        max_model_len=chosen.max_model_len or RoleModel.max_model_len,
        key_file=str(chosen.key_file or ""),
        guided=chosen.guided,
        temperature=chosen.temperature,
    )
