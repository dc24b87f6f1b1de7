"""What the swarm is told by the composition root. Frozen and picklable: it travels to every actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from enchanted.actors.models.model import BUNDLED, MINIMAL, ModelSource, parse_model_url
from enchanted.actors.work import RoleName, RunRequest

SIGNAL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class RoleModel:
    """The model a role asks and where its engine is placed."""

    url: str = BUNDLED
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    label_selector: Mapping[str, str] = field(default_factory=dict)
    """Ray labels of the nodes the engine may run on."""
    dedicated: bool = False
    """An engine of its own instead of one shared by all roles that name this model."""
    max_model_len: int = 2048
    """Tokens of prompt and answer together."""
    key_file: str = ""
    """File holding the API key of an ``openai:`` server."""
    guided: bool | None = None
    """The model only chooses among what tools found; None: yes for the bundled model, no for others."""
    temperature: float = 0.3

    @property
    def source(self) -> ModelSource:
        """The parts of the URL."""
        return parse_model_url(self.url)

    @property
    def is_guided(self) -> bool:
        """Whether the role may only choose among listed options."""
        return self.source.kind in (BUNDLED, MINIMAL) if self.guided is None else self.guided


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where runs may be, and what is reserved for their agents."""

    cpus_per_agent: float = 0.0
    """CPUs of each role actor, all reserved in one placement group before the first starts; 0 reserves nothing."""
    label_selector: Mapping[str, str] = field(default_factory=dict)
    """Ray labels of the nodes a run may be on; its agents share its orchestrator's node."""
    wait_seconds: float = 300.0
    """How long a run waits for room."""


@dataclass(frozen=True, kw_only=True)
class SwarmConfig:
    """One home's swarm."""

    nats_url: str
    home: str
    token_file: str = ""
    """Of the API; no tool may read it."""
    models: Mapping[str, RoleModel] = field(default_factory=dict)
    """Role -> its model; a role without one uses the bundled model."""
    placement: Placement = Placement()
    tool_seconds: float = 60.0
    tool_memory_mb: int = 2048
    tool_processes: int = 256
    tool_output_kb: int = 256
    tool_file_mb: int = 256
    unsafe_no_sandbox: bool = False
    signal_seconds: float = SIGNAL_SECONDS
    """Between two system signals of an actor."""

    def model_for(self, role: RoleName, request: RunRequest) -> RoleModel:
        """The role's model in this run: the settings', with the run's own URL where it names one."""
        chosen = self.models.get(role, RoleModel())
        url = request.models.get(role)
        return chosen if url is None or url == chosen.url else replace(chosen, url=url, guided=None)

    def run_folder(self, run_id: str) -> Path:
        """Where a run keeps its shadow repository and workspaces."""
        return Path(self.home) / "workspaces" / run_id
