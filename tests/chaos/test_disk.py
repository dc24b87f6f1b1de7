"""A full disk under the home, and one that turned read-only."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enchanted.bus import staging
from enchanted.bus.connection import Bus
from enchanted.cluster import services
from enchanted.cluster.chaos.disks import LoopDisk, fill
from enchanted.cluster.chaos.kills import RunWatch
from enchanted.cluster.home import FULL, Home
from enchanted.cluster.testing import eventually, home_under_test


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of that size."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_a_full_disk_is_shown_ends_no_run_silently_and_loses_nothing(
    tmp_path: Path, repository: Callable[[int], Path]
) -> None:
    folder = repository(4)
    with small_disk(tmp_path / "disk", 512) as disk, home_under_test(disk / "home") as home:
        home.up()
        nats = home.service("nats")["pid"]
        arguments = ("run", "make the linter pass", "--repo", str(folder), "--check", "sleep 0.3", "--model", "minimal")
        async with Bus.connect(services.read_endpoints(home.home.path).nats_url) as bus, RunWatch(bus, folder) as watch:
            run_id = (await asyncio.to_thread(home.run, *arguments, "--detach")).stdout.strip()
            assert await watch.until(lambda: watch.actions() >= 5)
            ballast = fill(disk)
            assert shutil.disk_usage(disk).free < FULL
            document = await asyncio.to_thread(home.status)
            shown = {service["name"]: service for service in document["services"]}["nats"]
            assert (shown["state"], "disk of the home is full" in shown["detail"]) == ("unhealthy", True)
            await asyncio.sleep(5)  # long enough for the run to meet it
            ballast.unlink()
            await watch.until_over(seconds=240)
            closing = next(one.event for one in await bus.read_run(run_id) if one.event.run_transition.heads)
        # What a step wrote to the disk failed, or only the bus was met, which waits for room.
        assert watch.state == "merged" or "check git and the disk" in closing.run_transition.reason
        eventually(lambda: home.service("nats")["pid"] not in (None, nats), seconds=30, about="nats was restarted")
        eventually(lambda: home.run("verify", run_id).returncode == 0, seconds=30, about="every event is in the table")
        eventually(lambda: home.run("status").returncode == 0, seconds=30, about="healthy again")


def staged(home: Home) -> set[Path]:
    """The folders in memory that the bus of the home stages batches in."""
    links = home.nats.glob("jetstream/*/streams/*/batches")
    return {link.readlink().parent for link in links if link.is_symlink()}


@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_a_disk_that_turned_read_only_is_shown_and_after_its_repair_nothing_is_missing(
    tmp_path: Path, repository: Callable[[int], Path]
) -> None:
    folder = repository(4)
    with LoopDisk(tmp_path / "loop", mebibytes=512) as disk, home_under_test(disk.path / "home") as home:
        home.up()
        arguments = ("run", "make the linter pass", "--repo", str(folder), "--check", "sleep 0.3", "--model", "minimal")
        async with Bus.connect(services.read_endpoints(home.home.path).nats_url) as bus, RunWatch(bus, folder) as watch:
            run_id = (await asyncio.to_thread(home.run, *arguments, "--detach")).stdout.strip()
            assert await watch.until(lambda: watch.actions() >= 5)
            disk.fail()
            there = {one.event.event_id: one.raw for one in await bus.read_run(run_id)}
        shown = {service["name"]: service for service in (await asyncio.to_thread(home.status))["services"]}["nats"]
        assert (shown["state"], "disk of the home is read-only" in shown["detail"]) == ("unhealthy", True)
        assert "enchanted down" in shown["detail"]
        folders = staged(home.home)
        assert {folder.parent for folder in folders} == {staging.MEMORY}
        down = await asyncio.to_thread(home.run, "down")
        assert down.returncode == 0, down.stderr
        eventually(lambda: not home.processes(), seconds=30, about="everything is ended")
        assert not any(folder.exists() for folder in folders), "the bus is ended as ever, and leaves no memory behind"
        refused = await asyncio.to_thread(home.run, "up")
        assert refused.returncode == 2
        assert "Read-only file system" in refused.stderr
        disk.repair()
        await asyncio.to_thread(home.up)
        async with Bus.connect(services.read_endpoints(home.home.path).nats_url) as bus:
            later = {one.event.event_id: one.raw for one in await bus.read_run(run_id)}
        assert there.items() <= later.items()
        eventually(lambda: home.run("verify", run_id).returncode == 0, seconds=60, about="every event is in the table")


def test_up_on_a_full_disk_is_refused_with_what_is_free_and_starts_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk, home_under_test(disk / "home") as home:
        done = home.run("up")
        assert done.returncode == 2
        assert "MiB are free" in done.stderr
        assert "remedy: free 256 MiB or more there, or set ENCHANTED_HOME" in done.stderr
        assert not home.processes()
        assert not home.home.path.exists()
