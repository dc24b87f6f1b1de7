"""One home for all chaos tests, and repositories with enough work for a run to be killed in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enchanted.actors.models.tiny import make_tiny_model
from enchanted.cluster.testing import HomeUnderTest, home_under_test

SOURCE = "import os\nimport sys\n\n\ndef part():\n    return {number}\n"
Repository = Callable[[int], Path]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HomeUnderTest]:
    """Services that are up, with a random model of half a megabyte in vLLM as their default."""
    folder = tmp_path_factory.mktemp("chaos")
    model = make_tiny_model(folder / "tiny")
    settings = {
        "ENCHANTED_MODEL__URL": f"vllm:{model}",
        "ENCHANTED_MODEL__GUIDED": "true",
        "ENCHANTED_MODEL__MAX_MODEL_LEN": "4096",
    }
    with home_under_test(folder / "home", **settings) as found:
        found.up()
        yield found


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Makes a repository with that many files of two lint findings each."""

    def make(files: int) -> Path:
        folder = tmp_path / "repository"
        folder.mkdir()
        for number in range(files):
            (folder / f"p{number}.py").write_text(SOURCE.format(number=number))
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
        for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), (*identity, "commit", "-q", "-m", "first")):
            subprocess.run(["git", "-C", str(folder), *arguments], check=True)
        return folder

    return make
