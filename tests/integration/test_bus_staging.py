"""Batches staged in memory: nothing else is different, whatever becomes of the memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchanted.bus import staging
from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.staging import BatchStaging
from enchanted.bus.streams import EVENTS_STREAM
from enchanted.bus.testing import NatsServer, nats_server
from enchanted.cluster.chaos.killed import Victim


async def publish(bus: Bus, count: int, size: int = 500) -> list[Ack]:
    messages = [
        Outgoing(subject="swarm.events.coder.decision.r", payload=bytes(size), event_id=new_id()) for _ in range(count)
    ]
    return await bus.publisher.publish_many(messages)


def batches_of(server: NatsServer) -> Path:
    return server.folder / "store" / "jetstream" / "APP" / "streams" / EVENTS_STREAM / "batches"


async def test_batches_are_staged_in_memory_and_stored_on_disk(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "nats") as server:
        place = batches_of(server)
        assert place.is_symlink()
        memory = place.resolve().parent
        assert memory.is_relative_to("/dev/shm")
        assert memory.stat().st_mode & 0o777 == 0o700
        async with Bus.connect(server.url) as bus:
            await publish(bus, 50)
            victim = Victim(server.pid)
            await server.kill()
            assert not memory.exists()
            await server.start()
            victim.assert_replaced_by(server.pid)
            assert (await bus.stream_info()).messages == 50
            assert place.is_symlink(), "the server throws staged batches away when it starts; they are linked again"
            await publish(bus, 50)
            assert (await bus.stream_info()).messages == 100
    assert not memory.exists()


async def test_a_batch_that_was_not_committed_is_gone_after_a_kill(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "nats") as server, Bus.connect(server.url) as bus:
        headers = {"Nats-Batch-Id": "open", "Nats-Batch-Sequence": "1"}
        await bus.link.request("swarm.events.x", b"staged", headers)
        assert any(batches_of(server).resolve().iterdir())
        victim = Victim(server.pid)
        await server.kill()
        await server.start()
        victim.assert_replaced_by(server.pid)
        assert (await bus.stream_info()).messages == 0
        assert list(batches_of(server).resolve().iterdir()) == []


async def test_without_room_batches_are_staged_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "ENOUGH", 2**60)
    async with nats_server(tmp_path / "nats") as server, Bus.connect(server.url) as bus:
        await publish(bus, 50)
        assert not batches_of(server).is_symlink()
        monkeypatch.undo()
        server.staging.tend()
        assert batches_of(server).is_symlink()
        await publish(bus, 50)
        assert (await bus.stream_info()).messages == 100


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """Half a megabyte of it."""
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
async def test_memory_that_fills_up_delays_a_batch_and_loses_nothing(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "ENOUGH", 256 * 1024)
    monkeypatch.setattr(staging, "SHORT", 64 * 1024)
    async with nats_server(tmp_path / "nats") as server, Bus.connect(server.url) as bus:
        server.staging = BatchStaging(server.folder / "store", memory)
        batches_of(server).unlink()
        server.staging.prepare()
        server.staging.tend()
        assert batches_of(server).resolve().is_relative_to(memory)
        publishing = asyncio.create_task(publish(bus, 100, size=10_000))
        while batches_of(server).is_symlink():
            await asyncio.sleep(0.01)
            server.staging.tend()
        assert len(await publishing) == 100
        assert (await bus.stream_info()).messages == 100


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    own = BatchStaging(tmp_path / "store", tmp_path / "nowhere")
    own.prepare()
    own.tend()
    own.remove()
    assert not (tmp_path / "nowhere").exists()


def test_what_an_earlier_server_left_is_removed(tmp_path: Path) -> None:
    first = BatchStaging(tmp_path / "store", tmp_path)
    first.prepare()
    (folder,) = tmp_path.glob("enchanted-batches-*")
    (folder / "old").mkdir()
    BatchStaging(tmp_path / "store", tmp_path).prepare()
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder)
