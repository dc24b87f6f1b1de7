"""One home with everything running, and small repositories, for the tests of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enchanted.actors.repository.git import Git
from enchanted.actors.testing import make_repository
from enchanted.cluster.testing import HomeUnderTest, home_under_test
from enchanted.cluster.testing_servers import ModelServer, SpanReceiver, model_server, span_receiver

SHOP = 'import os\nimport sys\n\n\ndef status(order):\n    return f"open" if order else "closed"\n'
SHOP_TEST = 'from shop import status\n\nassert status(1) == "open"\nassert status(0) == "closed"\n'


@pytest.fixture(scope="session")
def receiver() -> Iterator[SpanReceiver]:
    with span_receiver() as found:
        yield found


@pytest.fixture(scope="session")
def models() -> Iterator[ModelServer]:
    with model_server() as found:
        yield found


@pytest.fixture(scope="session")
def swarm(tmp_path_factory: pytest.TempPathFactory, receiver: SpanReceiver) -> Iterator[HomeUnderTest]:
    """Services whose runs use the model without weights and export their spans."""
    folder = tmp_path_factory.mktemp("swarm") / "home"
    with home_under_test(folder, ENCHANTED_MODEL="minimal", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url) as found:
        found.up()
        yield found


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Git]:
    """Makes a repository under the test's folder: by default three lint findings and a passing test."""

    def make(name: str = "shop", files: dict[str, str | bytes] | None = None) -> Git:
        return make_repository(tmp_path / name, files or {"shop.py": SHOP, "test_shop.py": SHOP_TEST})

    return make
