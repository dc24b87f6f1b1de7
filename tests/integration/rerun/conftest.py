"""A bus, a home and a repository for the tests of reruns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.bus.connection import Bus
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, nats_server
from tests.integration.rerun.world import FILES


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository with lint findings in two modules and passing tests."""
    make_repository(tmp_path / "shop", FILES)
    return tmp_path / "shop"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with Bus.connect(server.url) as bus:
        await bus.ensure_streams(SMALL_LIMITS)
        yield bus


@pytest.fixture
def config(server: NatsServer, tmp_path: Path) -> SwarmConfig:
    minimal = RoleModel(url="minimal")
    return SwarmConfig(
        nats_url=server.url,
        home=str(tmp_path / "home"),
        models={"architect": minimal, "coder": minimal, "reviewer": minimal},
        signal_seconds=0.5,
    )


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model without weights prefers to act and to approve, so that the run can be merged."""
    prefers: Callable[..., MinimalModel] = lambda *_: MinimalModel(("Remove", "yes"))  # noqa: E731
    monkeypatch.setattr("enchanted.actors.hosts.open_model", prefers)


@pytest.fixture(autouse=True)
async def nobody_left(bus: Bus) -> AsyncIterator[None]:
    yield
    while LocalTeam.living:
        await LocalTeam.living.pop().disband()
