"""A full disk under the home."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchanted.cluster.testing import home_under_test


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_up_on_a_full_disk_is_refused_with_what_is_free_and_starts_nothing(small_disk: Path) -> None:
    with home_under_test(small_disk / "home") as home:
        done = home.run("up")
        assert done.returncode == 2
        assert "MiB are free" in done.stderr
        assert "remedy: free 256 MiB or more there, or set ENCHANTED_HOME" in done.stderr
        assert not home.processes()
        assert not home.home.path.exists()
