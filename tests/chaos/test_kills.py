"""kill -9 of every part during a run: the run ends with a verdict, and its log is whole."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from enchanted.bus.connection import Bus
from enchanted.cluster import services
from enchanted.cluster.chaos.kills import Kill, RunWatch, Strike, strike, strikes
from enchanted.cluster.processes import ProcessId, descendants
from enchanted.cluster.testing import HomeUnderTest
from enchanted.ingest import tables
from enchanted.schemas.events import StoredEvent

Repository = Callable[[int], Path]

PARTS = ("ingest-0", "orchestrator", "nats", "store")
FILES = 12
"""The most tasks a plan has; some 130 actions."""
SEED = 7

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, kw_only=True)
class Survived:
    """A run that was struck."""

    verdict: str
    kills: list[Kill]
    log: list[StoredEvent]


async def struck_run(home: HomeUnderTest, repository: Path, plan: Sequence[Strike], *model: str) -> Survived:
    """Run on the repository as a user does, strike by plan, and check what must hold whatever was killed."""
    before = untouched(repository)
    endpoints = services.read_endpoints(home.home.path)
    async with Bus.connect(endpoints.nats_url, name="chaos") as bus, RunWatch(bus, repository) as watch:
        checks = ("--check", "ruff check .", "--check", "sleep 0.3")
        run = home.popen("run", "make the linter pass", "--repo", str(repository), *checks, *model, "--json")
        ended = asyncio.create_task(asyncio.to_thread(run.communicate, timeout=500))
        try:
            kills = await strike(home.home, watch, plan)
            output, errors = await ended
            await watch.until_over(seconds=30)
        finally:
            run.kill()
        document = json.loads(output)
        print(f"\n{document['run_id']} {document['verdict']}, {document['events']} events, {document['seconds']} s")
        print(*kills, sep="\n")
        assert document["verdict"] in ("merged", "rejected"), (document, errors)
        log = await bus.read_run(watch.run_id)
    closing = next(stored for stored in log if stored.event.run_transition.heads)
    assert all(kill.killed != kill.back and kill.time < closing.time for kill in kills)
    await assert_whole(home, watch.run_id, log)
    assert untouched(repository) == before
    return Survived(verdict=document["verdict"], kills=kills, log=log)


async def assert_whole(home: HomeUnderTest, run_id: str, log: list[StoredEvent]) -> None:
    """Intact and complete by `verify`, equal to the stream, and no event twice: not in the stream, not in the table."""
    done = await asyncio.to_thread(home.run, "verify", run_id, "--json")
    proof = json.loads(done.stdout)
    assert (done.returncode, proof["intact"], proof["complete"], proof["closed"]) == (0, True, True, True), done.stdout
    assert proof["stream"] == {
        "checked": True, "why": "", "events": len(log), "only_in_stream": [], "only_in_table": [], "differing": [],
    }  # fmt: skip
    assert len({stored.event.event_id for stored in log}) == len(log)
    client = await tables.connect(services.read_endpoints(home.home.path).clickhouse_url)
    try:
        query = f"SELECT count(), uniqExact(event_id), max(duplicate_of) FROM events FINAL WHERE run = '{run_id}'"
        assert (await client.query(query)).result_rows == [(len(log), len(log), 0)]
    finally:
        await client.close()
    listed = await asyncio.to_thread(home.run, "events", run_id, "--output", "ndjson")
    assert len(listed.stdout.splitlines()) == len(log)


def untouched(repository: Path) -> tuple[str, ...]:
    """What a run must leave alone: working tree, current branch, its commit, the index."""
    questions = (("status", "--porcelain"), ("symbolic-ref", "HEAD"), ("rev-parse", "HEAD"), ("write-tree",))
    return tuple(
        subprocess.run(["git", "-C", str(repository), *one], check=True, capture_output=True, text=True).stdout
        for one in questions
    )


async def test_a_run_survives_the_kill_of_every_part(home: HomeUnderTest, repository: Repository) -> None:
    parts = random.Random(SEED).sample(PARTS, len(PARTS))
    plan = [Strike(victim="coder-1", actions=3), *strikes(parts, first=15, last=60, seed=SEED)]
    survived = await struck_run(home, repository(FILES), plan, "--model", "minimal")
    assert [kill.victim for kill in survived.kills] == ["coder-1", *parts]
    assert survived.verdict == "merged"


@pytest.mark.slow
async def test_a_run_survives_the_kill_of_its_engine(home: HomeUnderTest, repository: Repository) -> None:
    await struck_run(home, repository(2), [Strike(victim="core", actions=6)])


@pytest.mark.slow
@pytest.mark.parametrize(("part", "last"), [*((part, 90) for part in PARTS), ("coder-1", 18)])
async def test_a_run_survives_three_kills_of_a_part(
    home: HomeUnderTest, repository: Repository, part: str, last: int
) -> None:
    plan = strikes([part] * 3, first=3, last=last, seed=SEED)
    # One coder, so that it has work left whenever it is struck, and must come back.
    survived = await struck_run(home, repository(FILES), plan, "--model", "minimal", "--coders", "1")
    assert len({kill.killed for kill in survived.kills}) == 3
    assert survived.verdict == "merged"


@pytest.mark.slow
async def test_a_run_survives_three_kills_of_its_engine(home: HomeUnderTest, repository: Repository) -> None:
    plan = strikes(["core", "engine", "core"], first=8, last=50, seed=SEED)
    survived = await struck_run(home, repository(8), plan)
    assert len({kill.killed for kill in survived.kills}) == 3
    assert len(cores(home)) == 1, "a killed engine's core ends with it"


def cores(home: HomeUnderTest) -> list[int]:
    """vLLM's own processes below this home's supervisor."""
    titles = {process.pid: Path(f"/proc/{process.pid}/cmdline") for process in descendants(home.state()["pid"])}
    return [pid for pid, title in titles.items() if title.exists() and b"EngineCore" in title.read_bytes()]


async def test_a_run_goes_on_after_down_and_up_and_verify_notices_what_is_taken_away(
    home: HomeUnderTest, repository: Repository
) -> None:
    folder = repository(FILES // 2)
    before = untouched(folder)
    endpoints = services.read_endpoints(home.home.path)
    arguments = ("run", "make the linter pass", "--repo", str(folder), "--check", "sleep 0.3", "--model", "minimal")
    async with Bus.connect(endpoints.nats_url) as bus, RunWatch(bus, folder) as watch:
        run_id = (await asyncio.to_thread(home.run, *arguments, "--detach")).stdout.strip()
        assert await watch.until(lambda: watch.actions() >= 10)
    everything = await down(home)
    assert not [process for process in everything if process.alive()]
    await asyncio.to_thread(home.up)
    async with Bus.connect(services.read_endpoints(home.home.path).nats_url) as bus:
        async with RunWatch(bus, folder, after=0) as watch:
            await watch.until_over()
        log = await bus.read_run(run_id)
    assert watch.state == "merged"
    assert untouched(folder) == before
    await assert_whole(home, run_id, log)
    await assert_a_missing_row_is_noticed(home, run_id, log)


async def down(home: HomeUnderTest) -> list[ProcessId]:
    """Stop the services; returns every process there was, also those that no longer tell whose they are."""
    everything = [*home.processes(), *descendants(home.state()["pid"])]
    done = await asyncio.to_thread(home.run, "down")
    assert done.returncode == 0, done.stderr
    return [*everything, *home.processes()]


async def assert_a_missing_row_is_noticed(home: HomeUnderTest, run_id: str, log: list[StoredEvent]) -> None:
    taken = log[len(log) // 2].seq
    # The reconciler puts it back from the stream, once a minute: not twice in a row before it is asked for.
    for _ in range(2):
        client = await tables.connect(services.read_endpoints(home.home.path).clickhouse_url)
        try:
            await client.command(f"DELETE FROM events WHERE run = '{run_id}' AND stream_seq = {taken}")
        finally:
            await client.close()
        done = await asyncio.to_thread(home.run, "verify", run_id, "--json")
        proof = json.loads(done.stdout)
        if not proof["complete"]:
            break
    assert (done.returncode, proof["complete"], proof["stream"]["only_in_stream"]) == (1, False, [taken])
