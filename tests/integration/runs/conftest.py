"""A bus, a home and a repository for the tests of runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from enchanted.actors.config import SwarmConfig
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.bus.connection import Bus
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, nats_server
from tests.integration.runs.world import FILES, at_home


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
        while LocalTeam.living:
            await LocalTeam.living.pop().disband()


@pytest.fixture
def config(server: NatsServer, tmp_path: Path) -> SwarmConfig:
    return at_home(server, tmp_path / "home")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model without weights prefers to act and to approve, so that the run can be merged."""
    prefers: Callable[..., MinimalModel] = lambda *_: MinimalModel(("Remove", "yes"))  # noqa: E731
    monkeypatch.setattr("enchanted.actors.hosts.open_model", prefers)
