"""Receipts: written by a command, kept elsewhere, held against a run somebody rewrote."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.cluster.cli import execute
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent, decision, system_signal
from enchanted.serve.testing import History, World


class Commands:
    """The command line as a user types it."""

    def __init__(self, world: World, capture: pytest.CaptureFixture[bytes]) -> None:
        self._access = ["--url", world.url, "--token-file", str(world.token_file)]
        self._capture = capture

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._capture.readouterr()
        code = await asyncio.to_thread(execute, [*arguments, *self._access])
        out, err = self._capture.readouterr()
        return code, out.decode(), err.decode()


@pytest.fixture
def commands(world: World, capfdbinary: pytest.CaptureFixture[bytes]) -> Commands:
    return Commands(world, capfdbinary)


async def test_a_receipt_of_a_run_fits_the_run(
    world: World, history: History, commands: Commands, tmp_path: Path
) -> None:
    file = tmp_path / "receipt.json"
    code, out, err = await commands.run("verify", history.run, "--export", str(file))
    assert (code, "intact, complete" in out) == (0, True), err
    receipt = json.loads(file.read_bytes())
    assert receipt["closing_hash"] == sha256_hex(history.events[-1].raw)
    assert [line[0] for line in receipt["events"]] == [stored.seq for stored in history.events]
    heads = {agent["agent_id"]: (agent["events"], agent["head"]) for agent in receipt["agents"]}
    assert sum(count for count, _ in heads.values()) == len(history.events)
    assert heads[history.events[-1].event.agent_id][1] == receipt["closing_hash"]
    assert receipt["stream_created"]
    code, out, err = await commands.run("verify", history.run, "--against", str(file), "--json")
    document = json.loads(out)
    assert (code, document["receipt"]["differences"], document["receipt"]["same_stream"]) == (0, [], True)
    assert (await commands.run("verify", history.run, "--export", str(file)))[0] == 2, "a receipt is never replaced"


async def test_a_receipt_shows_a_chain_that_was_signed_anew_and_an_end_that_was_cut_off(
    world: World, commands: Commands, tmp_path: Path
) -> None:
    run, file = "run-rewritten", tmp_path / "receipt.json"
    log = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-1")
    drafts = [decision(context_hash="", trigger="", rationale=f"thought {n}", action={}) for n in range(6)]
    stored = await log.emit(*drafts)
    await world.stored(run, 6)
    assert (await commands.run("verify", run, "--export", str(file)))[0] == 0
    await log.emit(system_signal(status="STOPPING"))
    await world.stored(run, 7)
    code, _, err = await commands.run("verify", run, "--against", str(file))
    assert (code, "1 events are younger than the receipt" in err) == (0, True), err

    for one, raw in _signed_anew(stored, 2):
        await _replace(world, run, one, raw)
    await world.table.command(
        "DELETE FROM events WHERE run = {run:String} AND stream_seq >= {seq:UInt64}",
        parameters={"run": run, "seq": stored[5].seq},
    )
    code, out, err = await commands.run("verify", run, "--against", str(file), "--json")
    document = json.loads(out)
    assert (code, document["receipt"]["intact"], document["receipt"]["complete"]) == (1, False, False), err
    places = [(fault["seq"], fault["agent_id"], fault["agent_seq"]) for fault in document["receipt"]["differences"]]
    assert places == [(stored[n].seq, log.agent_id, n + 1) for n in (2, 3, 4, 5)]
    assert document["first_bad"]["seq"] == stored[2].seq
    code, _, err = await commands.run("verify", run, "--export", str(tmp_path / "another.json"))
    assert (code, (tmp_path / "another.json").exists()) == (1, False)


def _signed_anew(stored: list[StoredEvent], start: int) -> list[tuple[StoredEvent, bytes]]:
    made, previous = [], stored[start].event.previous_event_hash
    for one in stored[start:]:
        event = SwarmEvent()
        event.CopyFrom(one.event)
        event.decision.rationale += "!"
        event.previous_event_hash = previous
        raw = event.SerializeToString(deterministic=True)
        previous = sha256_hex(raw)
        made.append((one, raw))
    return made


async def _replace(world: World, run: str, stored: StoredEvent, raw: bytes) -> None:
    await world.table.command(
        "INSERT INTO events "
        "SELECT * REPLACE (unhex({raw:String}) AS body, 0 AS cut_at, unhex({sha256:String}) AS sha256) "
        "FROM events FINAL WHERE run = {run:String} AND stream_seq = {seq:UInt64}",
        parameters={"run": run, "seq": stored.seq, "raw": raw.hex(), "sha256": sha256_hex(raw)},
    )


async def test_an_event_of_a_producer_without_chains_is_under_the_receipt_too(
    world: World, commands: Commands, tmp_path: Path
) -> None:
    run, file = "run-foreign-receipt", tmp_path / "receipt.json"
    event = decision(context_hash="", trigger="", rationale="from outside", action={})
    event.event_id, event.run_id, event.agent_id = "foreign-1", run, "go-tool"
    raw = event.SerializeToString()
    subject = "swarm.events.operator.decision"
    await world.bus.publisher.publish(Outgoing(subject=subject, payload=raw, event_id="foreign-1"))
    await world.stored(run, 1)
    assert (await commands.run("verify", run, "--export", str(file)))[0] == 0
    rows = await world.table.query(
        "SELECT stream_seq FROM events FINAL WHERE run = {run:String}", parameters={"run": run}
    )
    seq = int(rows.result_rows[0][0])
    event.decision.rationale = "from inside"
    stored = StoredEvent(seq=seq, time=event.timestamp.ToDatetime(), subject=subject, raw=raw, event=event)
    await _replace(world, run, stored, event.SerializeToString())
    code, out, _ = await commands.run("verify", run, "--against", str(file), "--json")
    fault = json.loads(out)["receipt"]["differences"][0]
    assert (code, fault["seq"], fault["agent_id"], fault["agent_seq"]) == (1, seq, "go-tool", 0)


async def test_a_file_that_is_no_receipt_of_the_run_is_an_error_of_usage(
    world: World, history: History, commands: Commands, tmp_path: Path
) -> None:
    file, other = tmp_path / "receipt.json", tmp_path / "other.json"
    await commands.run("verify", history.run, "--export", str(file))
    for content in (
        b"",
        file.read_bytes()[:-9],
        b"{}",
        b"\xff",
        file.read_bytes().replace(b'"last_seq":', b'"last_seq":1'),
    ):
        other.write_bytes(content)
        code, out, err = await commands.run("verify", history.run, "--against", str(other))
        assert (code, out) == (2, ""), content[:40]
        assert err.startswith("error: the receipt cannot be used")
        assert "remedy: `enchanted verify RUN --export FILE` makes one" in err
    code, _, err = await commands.run("verify", "run-other", "--against", str(file))
    assert (code, "it is of run" in err) == (2, True)
    assert (await commands.run("verify", history.run, "--against", str(tmp_path / "none")))[0] == 2
    assert (await commands.run("verify", history.run, "--export", str(tmp_path / "no" / "folder")))[0] == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def test_a_receipt_that_found_no_room_is_written_once_there_is(
    history: History, commands: Commands, small_disk: Path
) -> None:
    file, ballast = small_disk / "receipt.json", small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 16))

    code, _, err = await commands.run("verify", history.run, "--export", str(file))
    assert (code, "cannot be written: No space left on device" in err) == (2, True)
    assert [one.name for one in small_disk.iterdir()] == ["ballast"]  # noqa: ASYNC240 - a folder of the test

    ballast.unlink()
    assert (await commands.run("verify", history.run, "--export", str(file)))[0] == 0
    assert json.loads(file.read_bytes())["run_id"] == history.run
