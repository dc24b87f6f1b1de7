"""One bus, one store, one worker for events and one for spans, and one API for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from enchanted.cluster.testing_world import served_world
from enchanted.serve.testing import History, World, scripted


@pytest.fixture(scope="package")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with served_world(tmp_path_factory.mktemp("serve")) as world:
        yield world


@pytest.fixture(scope="package")
async def history(world: World) -> History:
    return await scripted(world, "run-scripted")
